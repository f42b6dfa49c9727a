"""The full step: the loss's whole gradient, back through all tokens, by reverse mode inside the forward graph."""

from __future__ import annotations

import torch
from torch import Tensor

from prge.models.exact_step import ReverseStep, SharedCores
from prge.models.objective import take_rows
from prge.models.positions import places
from prge.models.reverse import Traced, traced


class FullStep(ReverseStep):
    """The step for ``R = B`` rows, without copies and without noise.

    All tokens run forward through the adapted layers, and all of them back, through each linear's transposed weights.
    It is what backpropagation computes, as far down as the first adapted layer.
    """

    def forward(
        self, state: Tensor, hidden: Tensor, tokens: Tensor, targets: tuple[Tensor, ...], seed: Tensor, lr: Tensor,
        eps: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """As `Step.forward`; ``seed`` and ``eps`` change nothing."""
        backbone, (position, *rest) = self.backbone, targets
        leaves = self.leaves(state)
        cores = SharedCores(leaves)
        tables, end_tables = backbone.positions(tokens), backbone.positions.at(position, tokens)
        below = backbone.adapted(Traced(hidden), tables, cores)
        ends = _ends(below, position, tokens)
        return self.back(state, leaves, backbone.last(below, tables, cores, ends, end_tables, cores), rest, lr)


def _ends(hidden: Traced, position: Tensor, tokens: Tensor) -> Traced:
    """As `take_rows`. Back, a product with ones and zeros puts each gradient where its row was taken from."""
    taken = (places(tokens).unsqueeze(2) == position.unsqueeze(1)).to(torch.float32)
    ends: Traced = traced(take_rows(hidden.value, position), (hidden, lambda g: torch.bmm(taken, g)))
    return ends
