"""The paper's step: each copy runs the whole batch under its own perturbed weights (arXiv 2409.15520)."""

from __future__ import annotations

import torch
from torch import Tensor

from prge.manifest import AdaptedModule
from prge.models.noise import noise
from prge.models.objective import take_rows
from prge.models.optimizer import update
from prge.models.step import Step


class WeightStep(Step):
    """The step for ``R = copies * B`` rows, copy by copy: row ``c * B + b`` is example b under copy c.

    The copies' parameters are ``params + eps z_i`` for all queries i, then ``params - eps z_i``. With q queries the
    estimate is ``mean_i (L(params + eps z_i) - L(params - eps z_i)) / 2 eps * z_i`` (eq. 2 and 3).
    """

    def forward(
        self, state: Tensor, hidden: Tensor, tokens: Tensor, targets: tuple[Tensor, ...], seed: Tensor, lr: Tensor,
        eps: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """As `Step.forward`."""
        z, weights = self.perturb(state, seed, eps)
        losses, detail = self.run(weights, hidden, tokens, targets)
        gradient = self.estimate(losses, z, eps)
        return update(state, gradient, lr, self.config.optimizer), losses, detail

    def perturb(self, state: Tensor, seed: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """The directions f32[q, S], and the copies' parameters f32[copies, S]."""
        config, params = self.config, state[: self.size]
        z = noise(seed, config.parallel_queries, self.size, config.noise)
        moved = z * eps
        return z, torch.cat((params + moved, params - moved)) if config.inner else params + moved

    def run(
        self, weights: Tensor, hidden: Tensor, tokens: Tensor, targets: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Run all copies through the adapted layers.

        Args:
            weights: as `perturb` gives them.
            hidden: f32[R, T, H], what `Backbone.frozen` makes of the tokens i64[R, T].

        Returns:
            losses f32[R], and the objective's detail.
        """
        backbone, cores, (position, *rest) = self.backbone, CopiedCores(weights), targets
        tables = backbone.positions(tokens)
        hidden = backbone.adapted(hidden, tables, cores)
        ends = take_rows(hidden, position)
        ends = backbone.last(hidden, tables, cores, ends, backbone.positions.at(position, tokens), cores)
        losses, detail = self.objective(ends, *rest)
        return losses.sum(1), detail

    def estimate(self, losses: Tensor, z: Tensor, eps: Tensor) -> Tensor:
        """The gradient f32[S], from the losses f32[R] of all copies along the directions f32[q, S].

        With one sign per execution it is that sign's half, and the host adds the two.
        """
        config = self.config
        each = losses.reshape(config.copies, config.batch).mean(1)
        queries = config.parallel_queries
        difference = each[:queries] - each[queries:] if config.inner else each
        slopes = difference / (2.0 * eps) / queries
        return torch.bmm(slopes.reshape(1, 1, -1), z.unsqueeze(0)).reshape(-1)


class CopiedCores:
    """Each copy's rows meet the copy's own cores, in one batched product."""

    def __init__(self, weights: Tensor):
        """``weights`` are the copies' parameters, f32[copies, S]."""
        self.weights = weights

    def apply(self, low: Tensor, module: AdaptedModule, columns: Tensor | None = None) -> Tensor:
        """As `Cores.apply`."""
        cores = self.weights[:, module.offset : module.offset + module.size]
        copies, rows = cores.shape[0], low.shape[0]
        cores = cores.reshape(copies, *module.core)
        if columns is not None:
            cores = cores.index_select(2, columns)
        low = torch.bmm(low.reshape(copies, -1, module.core[0]), cores)
        # Back to rows by way of four dimensions: torch.export cannot prove the direct reshape at a dynamic T.
        return low.reshape(copies, rows // copies, -1, cores.shape[2]).reshape(rows, -1, cores.shape[2])
