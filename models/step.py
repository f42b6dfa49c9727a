"""One fine-tuning step as one forward function: perturb, run all copies, estimate, update.

Two estimators of the gradient, both from losses of perturbed copies that run as one batch through
one set of frozen weights:

* `WeightStep`, P-RGE (arXiv 2409.15520): a copy is the whole batch under a perturbed adapter,
  ``2q`` copies of every row.
* `ActivationStep`: a copy is only the target tokens' positions, with the adapters' outputs there
  perturbed (activity perturbation, arXiv 2210.03310, at the positions that the loss reads). The
  prompt's positions, which all copies see, run once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from prge.models.adapter import AdaptedLinear
from prge.models.attention import Positions, Shared, places
from prge.models.engine import Input
from prge.models.noise import Noise, noise
from prge.models.objective import LabelWords, LanguageModel, take_rows
from prge.models.optimizer import SLOTS, Optimizer, update

Perturbation = Literal["activations", "weights"]


@dataclass(frozen=True)
class StepConfig:
    """The step's shape, the exporter's choice.

    Attributes:
        queries: q, random directions per step (and per example, for activations).
        batch: B, examples per step.
        perturb: what the copies differ in.
        optimizer: the update rule.
        outer: all queries in one execution; off, one query each, and the host runs q of them.
        inner: +eps and -eps in one execution; off, one sign each, and the host runs both.
            Both can only be off for weights with SGD, whose updates add up.
        noise: distribution of the directions.
    """

    queries: int = 16
    batch: int = 16
    perturb: Perturbation = "activations"
    optimizer: Optimizer = "adam"
    outer: bool = True
    inner: bool = True
    noise: Noise = "rademacher"

    def __post_init__(self) -> None:
        for field in ("queries", "batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if not (self.outer and self.inner) and (self.perturb, self.optimizer) != ("weights", "sgd"):
            raise ValueError("loops on the host (outer or inner off) need perturbed weights and the sgd optimizer")

    @property
    def parallel_queries(self) -> int:
        return self.queries if self.outer else 1

    @property
    def copies(self) -> int:
        """Copies of every row in one execution."""
        if self.perturb == "activations":
            return 1
        return self.parallel_queries * (2 if self.inner else 1)

    @property
    def rows(self) -> int:
        return self.copies * self.batch


class WeightCopies:
    """Perturbed weights, f32[copies, S]; rows come copy-major: row ``c * B + b`` is example b under copy c."""

    weights: Tensor
    rows: int

    def core(self, low: Tensor, layer: AdaptedLinear, columns: Tensor | None = None) -> Tensor:
        weights = self.weights[:, layer.offset : layer.offset + layer.size]
        copies, rows = weights.shape[0], low.shape[0]
        weights = weights.reshape(copies, *layer.core)
        if columns is not None:
            weights = weights.index_select(2, columns)
        low = torch.bmm(low.reshape(copies, -1, layer.core[0]), weights)
        # Back to rows by way of four dimensions: torch.export cannot prove the direct reshape at a dynamic T.
        return low.reshape(copies, rows // copies, -1, weights.shape[2]).reshape(rows, -1, weights.shape[2])


class ActivationCopies:
    """Perturbed outputs of the cores at the appended target positions.

    Attributes:
        params: f32[S].
        shift: f32[B, copies * M, D], what is added to all cores' outputs, D their columns.
        rest: f32[B, T, columns], zeros for the positions that are not perturbed.
        inputs: by offset in the state, each core's input at the targets of the unperturbed copy, f32[B, M, rank].
    """

    params: Tensor
    shift: Tensor
    rest: Tensor
    inputs: dict[int, Tensor]
    targets: int
    rows: int

    def __init__(self, rank: int, columns: int):
        self.rank, self.columns = rank, columns

    def core(self, low: Tensor, layer: AdaptedLinear, columns: Tensor | None = None) -> Tensor:
        rank, width = layer.core
        self.inputs[layer.offset] = low[:, : self.targets]
        core = self.params[layer.offset : layer.offset + layer.size].reshape(1, rank, width)
        out = torch.bmm(low.reshape(1, -1, rank), core).reshape(low.shape[0], -1, width)
        first = layer.offset // rank
        shift = self.shift[:, :, first : first + width]
        return out + torch.cat((shift, self.rest), dim=1)


class Step(nn.Module):
    """What both estimators share; `forward` is the traced program.

    Attributes:
        size: S, the parameters' count.
        first: the first adapted layer.
    """

    def __init__(
        self,
        embedding: Input,
        layers: nn.ModuleList,
        positions: Positions,
        shared: Shared,
        objective: LabelWords | LanguageModel,
        copies: WeightCopies | ActivationCopies,
        size: int,
        first: int,
        config: StepConfig,
    ):
        super().__init__()
        self.embedding, self.layers, self.objective = embedding, layers, objective
        self.positions, self.shared = positions, shared
        self.copies, self.size, self.first, self.config = copies, size, first, config

    @property
    def state_size(self) -> int:
        """Parameters and the optimizer's slots."""
        return self.size * (1 + SLOTS[self.config.optimizer])

    def forward(
        self, state: Tensor, tokens: Tensor, targets: tuple[Tensor, ...], seed: Tensor, lr: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step.

        Args:
            state: f32[state_size], parameters first.
            tokens: i64[R, T], right-padded.
            targets: the objective's inputs, rows as in ``tokens``.
            seed: i64[1]; query i draws its direction from ``seed + i``.
            lr, eps: f32[1]. With ``eps = 0`` the losses are the state's own, and the new
                state is to be dropped.

        Returns:
            the new state, losses f32[R], and the objective's detail.
        """
        raise NotImplementedError


class WeightStep(Step):
    """The paper's: ``R = copies * B`` rows, copy-major, each copy's adapters moved by +-eps z (eq. 2 and 3)."""

    copies: WeightCopies

    def forward(
        self, state: Tensor, tokens: Tensor, targets: tuple[Tensor, ...], seed: Tensor, lr: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        c = self.config
        params = state[: self.size]
        z = noise(seed, c.parallel_queries, self.size, c.noise)
        delta = z * eps
        self.copies.weights = torch.cat((params + delta, params - delta)) if c.inner else params + delta
        self.copies.rows = tokens.shape[0]
        self.shared.tables = self.positions(tokens)
        hidden = self.embedding(tokens, places(tokens))
        for layer in self.layers:
            hidden = layer(hidden)
        position, *rest = targets
        each_target, detail = self.objective(take_rows(hidden, position), *rest)
        losses = each_target.sum(1)
        # One sign per execution: L / 2eps with eps of that sign; the host adds the two.
        each = losses.reshape(c.copies, c.batch).mean(1)
        difference = each[: c.parallel_queries] - each[c.parallel_queries :] if c.inner else each
        slopes = difference / (2.0 * eps) / c.parallel_queries
        gradient = torch.bmm(slopes.reshape(1, 1, -1), z.unsqueeze(0)).reshape(-1)
        return update(state, gradient, lr, c.optimizer), losses, detail


class ActivationStep(Step):
    """``R = B`` rows; behind each stand ``1 + q`` copies of its M target positions, the first unperturbed.

    Every target is the last token of what stands before it, and sees all of that unperturbed: its loss
    tells of its own perturbation alone. With a [rank], d [columns] a core's input and its output's
    gradient at one target, the gradient in the core is the sum of ``a d^T`` over the targets; d is
    estimated per target by ``mean_i (L_i - L) / eps * z_i``, L the mean of all copies' losses (which
    takes a factor ``(1 + q) / q``). What the adapters do at other positions than the one that predicts
    is left out of the estimate: no perturbation there, no cost, no noise.
    """

    copies: ActivationCopies

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.ends = nn.Buffer(torch.arange((1 + self.config.queries) * self.objective.max_targets).unsqueeze(0))

    def forward(
        self, state: Tensor, tokens: Tensor, targets: tuple[Tensor, ...], seed: Tensor, lr: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        c, m = self.config, self.objective.max_targets
        rows, copies = c.batch, 1 + c.queries
        self.shared.tables = self.positions(tokens)
        hidden = self.embedding(tokens, places(tokens))
        layers = list(self.layers)  # a slice of the ModuleList would rename its modules in the trace
        for layer in layers[: self.first]:
            hidden = layer(hidden)

        position, *rest = targets
        z = self._perturb(state, tokens, self.objective.used(*targets), seed, eps)
        hidden = torch.cat((take_rows(hidden, position).repeat(1, copies, 1), hidden), dim=1)
        self.shared.tables = self.positions.tree(position, self.ends, tokens)
        for layer in layers[self.first :]:
            hidden = layer(hidden)
        ends = hidden[:, : copies * m].reshape(rows * copies, m, -1)
        losses, detail = self.objective(ends, *(t.repeat_interleave(copies, 0) for t in rest))

        # Against the mean of all copies, whose rounding and curvature are smaller than those of one.
        losses = losses.reshape(rows, copies, m)
        slopes = (losses[:, 1:] - losses.mean(1, keepdim=True)) * (copies / c.queries / c.queries / rows) / eps
        # [B * M, 1, q] x [B * M, q, D] -> per module [B * M, columns]
        slopes = slopes.permute(0, 2, 1).reshape(rows * m, 1, c.queries)
        z = z.permute(0, 2, 1, 3).reshape(rows * m, c.queries, -1)
        inputs = [self.copies.inputs[offset] for offset in sorted(self.copies.inputs)]
        outer = torch.bmm(slopes, z).reshape(rows * m, len(inputs), -1).permute(1, 0, 2)
        inner = torch.stack(inputs).reshape(len(inputs), rows * m, -1).permute(0, 2, 1)
        gradient = torch.bmm(inner, outer).reshape(-1)
        return update(state, gradient, lr, c.optimizer), losses[:, 0].sum(1), detail[::copies]

    def _perturb(self, state: Tensor, tokens: Tensor, used: Tensor, seed: Tensor, eps: Tensor) -> Tensor:
        """Set the copies up with z, f32[B, q, M, D], zero at targets that are not ``used`` f32[B, M]; returns z."""
        c, m, copies = self.config, self.objective.max_targets, self.copies
        columns = self.size // copies.rank
        z = noise(seed, c.queries, c.batch * m * columns, c.noise)
        z = (z.reshape(c.queries, c.batch, m, columns) * used.unsqueeze(2)).permute(1, 0, 2, 3)
        plain = torch.zeros(c.batch, m, columns, device=z.device)
        shift = torch.cat((plain, z.reshape(c.batch, c.queries * m, columns) * eps), dim=1)
        copies.params, copies.shift, copies.inputs, copies.targets = state[: self.size], shift, {}, m
        copies.rows = c.batch
        copies.rest = torch.zeros_like(tokens.unsqueeze(2).repeat(1, 1, copies.columns), dtype=torch.float32)
        return z
