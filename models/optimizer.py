"""The update rules inside the graph: from a state and a gradient to the next state."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Optimizer = Literal["sgd", "momentum", "adam"]

# Slots of an optimizer: vectors as long as the parameters, which follow them in the state.
SLOTS: dict[Optimizer, int] = {"sgd": 0, "momentum": 1, "adam": 2}
# Decay of the two means: of the gradient, and of its square.
BETAS = (0.9, 0.99)


def update(state: Tensor, gradient: Tensor, lr: Tensor, optimizer: Optimizer) -> Tensor:
    """The state after one step against the gradient.

    Adam is algorithm 1 of arXiv 1412.6980. Adam and momentum leave out bias correction: the
    driver multiplies it into lr, so the graph needs no step count.

    Args:
        state: f32[(1 + slots) * S], parameters first.
        gradient: f32[S].
        lr: f32[1].
    """
    size = gradient.shape[0]
    params = state[:size]
    if optimizer == "sgd":
        return params - lr * gradient
    mean = BETAS[0] * state[size : 2 * size] + (1 - BETAS[0]) * gradient
    if optimizer == "momentum":
        return torch.cat((params - lr * mean, mean))
    square = BETAS[1] * state[2 * size :] + (1 - BETAS[1]) * (gradient * gradient)
    params = params - lr * mean / (torch.sqrt(square) + 1e-12)
    return torch.cat((params, mean, square))
