"""The default step: each copy is the target tokens alone, with the adapters' outputs there perturbed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prge.manifest import AdaptedModule
from prge.models.backbone import Backbone
from prge.models.noise import noise
from prge.models.objective import LabelWords, LanguageModel, take_rows
from prge.models.optimizer import update
from prge.models.step import Step, StepConfig


class ActivationStep(Step):
    """The step for ``R = B`` rows, each with ``1 + q`` copies of its M target positions; copy 0 is not perturbed.

    A target is the last token of what stands before it, and sees all of that unperturbed. So a target's loss depends
    on no perturbation but its own.

    Let a [rank] be a core's input at a target, and d [columns] the loss's gradient at the core's output there. The
    core's gradient is then the sum of ``a d^T`` over all targets. For each target d is estimated by
    ``mean_i (L_i - L) / eps * z_i * (1 + q) / q``, where L is the mean of the losses of all ``1 + q`` copies. Against
    it rounding and curvature are smaller than against the one unperturbed loss; the last factor makes up for its own
    share of each L_i.

    What the adapters do at other positions than the targets' is left out of the gradient. It gets no perturbation, so
    it costs nothing and adds no noise.

    Attributes:
        numbers: 0, 1, ... of the copies' positions in a row, i64[1, (1 + q) * M].
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: LabelWords | LanguageModel,
        trained: Sequence[AdaptedModule],
        config: StepConfig,
    ):
        super().__init__(backbone, objective, trained, config)
        self.numbers = nn.Buffer(torch.arange((1 + config.queries) * objective.max_targets).unsqueeze(0))

    def forward(
        self, state: Tensor, hidden: Tensor, tokens: Tensor, targets: tuple[Tensor, ...], seed: Tensor, lr: Tensor,
        eps: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """As `Step.forward`."""
        z, shifts = self.perturb(targets, seed, eps)
        losses, inputs, detail = self.run(state, shifts, hidden, tokens, targets)
        gradient = self.estimate(losses, inputs, z, eps)
        new_state = update(state, gradient, lr, self.config.optimizer)
        return new_state, losses[:, 0].sum(1), detail[:: 1 + self.config.queries]

    def perturb(self, targets: tuple[Tensor, ...], seed: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a direction at the outputs of all cores, for every query and target.

        Returns:
            the directions f32[B, q, M, D], with the columns of all cores side by side in D, and zeros at targets that
            an example does not have; and the copies' shifts f32[B, (1 + q) * M, D], of which copy 0 has zeros.
        """
        q, rows, m = self.config.queries, self.config.batch, self.objective.max_targets
        columns = sum(module.core[1] for module in self.trained)
        used = self.objective.used(*targets)
        z = noise(seed, q, rows * m * columns, self.config.noise)
        z = (z.reshape(q, rows, m, columns) * used.unsqueeze(2)).permute(1, 0, 2, 3)
        none = torch.zeros(rows, m, columns, device=z.device)
        return z, torch.cat((none, z.reshape(rows, q * m, columns) * eps), dim=1)

    def run(
        self, state: Tensor, shifts: Tensor, hidden: Tensor, tokens: Tensor, targets: tuple[Tensor, ...]
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Run the tokens, and the copies of the targets before them, through the adapted layers.

        Args:
            shifts: as `perturb` gives them.
            hidden: f32[B, T, H], what `Backbone.frozen` makes of the tokens i64[B, T].

        Returns:
            losses f32[B, 1 + q, M]; each core's inputs at the targets, f32[B, M, rank], in state order; and the
            objective's detail. Losses and detail are those of all copies.
        """
        rows, m, copies = self.config.batch, self.objective.max_targets, 1 + self.config.queries
        position, *rest = targets
        backbone, inputs = self.backbone, dict[int, Tensor]()
        ends = take_rows(hidden, position).repeat(1, copies, 1)
        hidden, tokens = backbone.seen(hidden, tokens)
        unshifted = torch.zeros_like(tokens.unsqueeze(2).repeat(1, 1, self.trained[0].core[1]), dtype=torch.float32)
        cores = ShiftedCores(state[: self.size], shifts, m, unshifted, inputs)
        tables = backbone.positions.tree(position, self.numbers, tokens)
        hidden = backbone.adapted(torch.cat((ends, hidden), dim=1), tables, cores)
        of_copies = ShiftedCores(state[: self.size], shifts, m, None, inputs)
        copy_tables = backbone.positions.tree(position, self.numbers, tokens, copies_only=True)
        ends = backbone.last(hidden, tables, cores, hidden[:, : copies * m], copy_tables, of_copies)
        ends = ends.reshape(rows * copies, m, -1)
        losses, detail = self.objective(ends, *(t.repeat_interleave(copies, 0) for t in rest))
        return losses.reshape(rows, copies, m), [inputs[module.offset] for module in self.trained], detail

    def estimate(self, losses: Tensor, inputs: Sequence[Tensor], z: Tensor, eps: Tensor) -> Tensor:
        """Estimate the gradient f32[S] from what `perturb` and `run` give."""
        q, n = self.config.queries, losses.shape[0] * losses.shape[2]  # n targets
        scale = (1 + q) / q / q / losses.shape[0]
        slopes = (losses[:, 1:] - losses.mean(1, keepdim=True)) * scale / eps
        slopes = slopes.permute(0, 2, 1).reshape(n, 1, q)
        z = z.permute(0, 2, 1, 3).reshape(n, q, -1)
        at_outputs = torch.bmm(slopes, z).reshape(n, len(inputs), -1).permute(1, 0, 2)  # [modules, n, columns]
        at_inputs = torch.stack(list(inputs)).reshape(len(inputs), n, -1).permute(0, 2, 1)  # [modules, rank, n]
        return torch.bmm(at_inputs, at_outputs).reshape(-1)


class ShiftedCores:
    """The same cores for all positions, their outputs shifted at those of the copies."""

    def __init__(
        self, params: Tensor, shifts: Tensor, targets: int, unshifted: Tensor | None, inputs: dict[int, Tensor]
    ):
        """Set up one run of the layers.

        Args:
            params: f32[S].
            shifts: f32[B, (1 + q) * M, D].
            targets: M.
            unshifted: zeros f32[B, T, columns of a core], for the tokens behind the copies; None where there are none.
            inputs: filled as the layers run: by a core's offset in the state, its inputs at the targets of copy 0,
                f32[B, M, rank].
        """
        self.params, self.shifts, self.targets, self.unshifted, self.inputs = params, shifts, targets, unshifted, inputs

    def apply(self, low: Tensor, module: AdaptedModule, columns: Tensor | None = None) -> Tensor:
        """As `Cores.apply`, for a core in a subspace."""
        rank, width = module.core
        self.inputs[module.offset] = low[:, : self.targets]
        core = self.params[module.offset : module.offset + module.size].reshape(1, rank, width)
        out = torch.bmm(low.reshape(1, -1, rank), core).reshape(low.shape[0], -1, width)
        first = module.offset // rank  # so many columns have the cores before this one: all have the same rank
        shift = self.shifts[:, :, first : first + width]
        return out + (shift if self.unshifted is None else torch.cat((shift, self.unshifted), dim=1))
