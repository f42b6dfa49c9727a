"""The exact step: the loss's gradient along the target tokens' own path, by reverse mode inside the forward graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prge.manifest import AdaptedModule
from prge.models.backbone import Backbone
from prge.models.context import Record
from prge.models.objective import LabelWords, LanguageModel, take_rows
from prge.models.optimizer import update
from prge.models.reverse import Traced, gradients
from prge.models.step import Step, StepConfig


class ReverseStep(Step):
    """What the steps share that go back through the graph."""

    def leaves(self, state: Tensor) -> dict[int, Traced]:
        """The cores f32[1, rank, columns] by their offsets, in state order; the head's is the last."""
        return {m.offset: Traced(state[m.offset : m.offset + m.size].reshape(1, *m.core)) for m in self.cores}

    def back(
        self, state: Tensor, leaves: dict[int, Traced], last: Traced, targets: Sequence[Tensor], lr: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go from the last hidden states at the targets f32[R, M, H] to the losses, and back to the ``leaves``.

        Args:
            targets: the objective's inputs behind the positions.

        Returns:
            as `Step.forward`.
        """
        head, share = self.objective.trained, 1.0 / self.config.batch
        core = leaves[head.offset] if head else None
        losses, detail, logits, slope = self.objective.graded(last, core, share, *targets)
        gradient = torch.cat([g.reshape(-1) for g in gradients(logits, slope, list(leaves.values()))])
        return update(state, gradient, lr, self.config.optimizer), losses.sum(1), detail


class ExactStep(ReverseStep):
    """The step for ``R = B`` rows, each with one copy of its M target positions, and no noise.

    A target is the last token of what stands before it, and sees all of that. Keys and values of the tokens before it
    count as constants; so does what the adapters do at those tokens. What is left is the gradient of the target's own
    path through the layers: of M tokens per row, so that going back costs little beside reading the row.

    The row runs forward once, and keeps what its linears gave at the targets (`Record`). Then the targets run through
    the layers again, by themselves and on these outputs, as `Traced`: no linear runs twice. Back they take each
    linear's transposed weights, which are frozen linears too.

    Attributes:
        numbers: 0, 1, ... of the copies' positions in a row, i64[1, M].
    """

    def __init__(
        self,
        backbone: Backbone,
        objective: LabelWords | LanguageModel,
        trained: Sequence[AdaptedModule],
        config: StepConfig,
    ):
        super().__init__(backbone, objective, trained, config)
        self.numbers = nn.Buffer(torch.arange(objective.max_targets).unsqueeze(0))

    def forward(
        self, state: Tensor, hidden: Tensor, tokens: Tensor, targets: tuple[Tensor, ...], seed: Tensor, lr: Tensor,
        eps: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """As `Step.forward`; ``seed`` and ``eps`` change nothing."""
        position, *rest = targets
        backbone, record = self.backbone, Record(self.objective.max_targets)
        ends = take_rows(hidden, position)
        hidden, tokens = backbone.seen(hidden, tokens)
        leaves = self.leaves(state)
        tables = backbone.positions.tree(position, self.numbers, tokens)
        backbone.read(torch.cat((ends, hidden), dim=1), tables, SharedCores(leaves, plain=True), record)
        tables = backbone.positions.tree(position, self.numbers, tokens, copies_only=True)
        last = backbone.follow(Traced(ends), tables, SharedCores(leaves), record)
        return self.back(state, leaves, last, rest, lr)


class SharedCores:
    """The same cores for all rows."""

    def __init__(self, cores: dict[int, Traced], plain: bool = False):
        """``cores`` are f32[1, rank, columns] by their offsets; ``plain`` to leave no trace of their use."""
        self.cores, self.plain = cores, plain

    def apply(self, low: Tensor, module: AdaptedModule, columns: Tensor | None = None) -> Tensor:
        """As `Cores.apply`."""
        core = self.cores[module.offset]
        rank, width = module.core
        out: Tensor = torch.bmm(low.reshape(1, -1, rank), core.value if self.plain else core)  # type: ignore[arg-type]
        return out.reshape(low.shape[0], -1, width)
