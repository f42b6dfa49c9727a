"""Losses and predictions of a state: the step with eps 0 and R different examples per execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prge.examples.metrics import METRICS
from prge.examples.rows import Example
from prge.examples.tasks import find_task
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.program.step import StepProgram


@dataclass(frozen=True)
class Evaluation:
    """A state's quality on examples, in their order.

    Attributes:
        loss: mean over the examples.
        losses: f32[n], one per example.
        scores: f32[n, K], the label words' logits (label words only).
        metrics: by name, of the words that score highest, or of the choices with the greatest mean log-probability.
    """

    loss: float
    losses: Tensor
    scores: Tensor | None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, where there is a choice."""
        return self.metrics.get("accuracy")


def evaluate(
    program: StepProgram,
    state: Tensor,
    examples: Sequence[Example],
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Run all examples through ``program`` with ``state``; ``progress`` hears how many are done.

    Where there are candidates, all of them run, and an example's loss is the right one's.
    """
    m = program.manifest
    rows = [row for e in examples for row in e.rows]
    losses, scores = _run(program, state, rows, lambda done: progress(done * len(examples) // len(rows)))
    predicted: list[int] = []
    if m.objective == "label-words":
        predicted = scores.argmax(1).tolist()
    elif m.choices:
        each = losses.split([len(e.candidates) for e in examples])
        predicted = [int(part.argmin()) for part in each]
        losses = torch.stack([part[e.label] for part, e in zip(each, examples, strict=True)])
    names = find_task(m.task).metrics if m.task else ("accuracy",)
    right = [e.label for e in examples]
    metrics = {name: METRICS[name](predicted, right) for name in names if predicted}
    # In float64, where the order of adding does not show: another driver's mean is the same.
    return Evaluation(float(losses.double().mean()), losses, scores if m.labels else None, metrics)


def _run(
    program: StepProgram, state: Tensor, rows: Sequence[Example], progress: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Losses f32[n] and label words' logits f32[n, K] of rows.

    Rows of like length share an execution; the last one is filled up by repetition.
    """
    m = program.manifest
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].tokens))
    losses = torch.zeros(len(rows))
    scores = torch.zeros(len(rows), len(m.labels))
    for start in range(0, len(order), m.rows):
        part = order[start : start + m.rows]
        tokens, targets = collate([rows[i] for i in (part * m.rows)[: m.rows]], m)
        _, loss, detail = program.execute(state, tokens, targets, 0, 0.0, 0.0)
        losses[part] = loss[: len(part)]
        if m.labels:
            scores[part] = detail[: len(part)]
        progress(start + len(part))
    return losses, scores


def warm_up(program: StepProgram, examples: Sequence[Example]) -> None:
    """Run the longest row, so that the runtime's buffers are made once and never grown."""
    longest = max((row for e in examples for row in e.rows), key=lambda row: len(row.tokens))
    _run(program, program.initial_state(), [longest], lambda done: None)
