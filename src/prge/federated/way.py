"""What travels, and what becomes of it: the parameters themselves, or the slopes along directions that all sides draw.

With exact gradients and perturbed activations the parameters travel. With perturbed weights (arXiv 2409.15520, eq. 2)
a step is ``mean_i s_i z_i``, where all sides draw the directions z_i from the round's seed. So the slopes s_i are
enough: server and devices rebuild the state from them, as in FedKSeed (arXiv 2312.06353) and DeComFL (arXiv
2405.15861).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prge.errors import UserError
from prge.federated.order import PARAMETERS, SLOPES, Order
from prge.manifest import Manifest
from prge.models.slopes import along
from prge.runtime_driver.loop.train import corrected


class Parameters:
    """The server's side where parameters travel, f32[parameters], both ways.

    Attributes:
        name: of the array that travels.
        state: f32[state_size], behind all rounds so far. The optimizer's means in it are zeros.
    """

    name = PARAMETERS

    def __init__(self, manifest: Manifest, state: Tensor):
        self.manifest, self.state = manifest, state

    def stands(self) -> NDArray[np.float32]:
        """What a device's answer is a change of."""
        return self.state[: self.manifest.parameters].numpy()

    def take(self, found: NDArray[np.float32], order: Order) -> None:
        """Go on by what the strategy made of a round's answers."""
        self.state = fresh(self.manifest, torch.from_numpy(found.astype(np.float32)))

    def kept(self) -> dict[str, Tensor]:
        """All of it, to be written."""
        return {"state": self.state}


class Slopes:
    """The server's side where slopes travel: up a device's, f32[k, q]; down the mean ones that it lacks, f32[n, k, q].

    Attributes:
        name: of the array that travels.
        state: f32[state_size], behind all rounds so far, with the optimizer's means.
        history: f32[rounds, k, q], the mean slopes of all rounds so far.
    """

    name = SLOPES

    def __init__(self, manifest: Manifest, state: Tensor, history: Tensor):
        self.manifest, self.state, self.history = manifest, state, history

    @property
    def rounds(self) -> int:
        """How many rounds are behind it."""
        return len(self.history)

    def stands(self) -> NDArray[np.float32]:
        """Zeros: of an answer's shape."""
        return np.zeros(self.history.shape[1:], dtype=np.float32)

    def missed(self, since: int) -> NDArray[np.float32]:
        """What goes to a device that has the first ``since`` rounds."""
        return self.history[since:].numpy()

    def take(self, found: NDArray[np.float32], order: Order) -> None:
        """As `Parameters.take`."""
        slopes = torch.from_numpy(found.astype(np.float32))
        self.state = advance(self.manifest, self.state, slopes, order)
        self.history = torch.cat((self.history, slopes.unsqueeze(0)))

    def kept(self) -> dict[str, Tensor]:
        """As `Parameters.kept`."""
        return {"state": self.state, "history": self.history}


def way_of(manifest: Manifest, steps: int, state: Tensor, kept: dict[str, Tensor] | None = None) -> Parameters | Slopes:
    """The way that a program goes.

    Args:
        steps: k, of a device in a round.
        state: f32[state_size], with which the federation begins.
        kept: what `kept` of an earlier run of it gave.
    """
    if manifest.gradient == "weights":
        none = torch.zeros(0, steps, manifest.queries)
        return Slopes(manifest, kept["state"] if kept else state, kept["history"] if kept else none)
    return Parameters(manifest, kept["state"] if kept else state)


def fresh(manifest: Manifest, parameters: Tensor) -> Tensor:
    """A state f32[state_size] of some parameters, whose optimizer has seen no step."""
    return torch.cat((parameters, torch.zeros(manifest.state_size - manifest.parameters)))


def advance(manifest: Manifest, state: Tensor, slopes: Tensor, order: Order) -> Tensor:
    """The state behind a round's steps, made of their slopes f32[k, q] alone: no example and no forward pass."""
    m = manifest
    for step, each in enumerate(slopes):
        lr = corrected(order.lr_at(step), order.first + step, m)
        state = along(m, state, each, order.seed_at(step, m.queries), lr)
    return state


def caught_up(manifest: Manifest, state: Tensor, missed: Sequence[Tensor], order: Order) -> Tensor:
    """The state that a device trains from: its own, behind the rounds that it missed."""
    for number, slopes in enumerate(missed, order.since):
        if slopes.shape != (order.steps, manifest.queries):
            raise UserError(f"the server's slopes are {tuple(slopes.shape)}, not ({order.steps}, {manifest.queries})")
        state = advance(manifest, state, slopes, replace(order, first=number * order.steps))
    return state
