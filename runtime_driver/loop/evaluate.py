"""Evaluates a state with the step itself: eps and lr are 0, and each of the R rows is another example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prge.examples.metrics import METRICS
from prge.examples.rows import Example
from prge.examples.tasks import find_task
from prge.manifest import Manifest
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.program.step import StepProgram


@dataclass(frozen=True)
class Evaluation:
    """How good a state is on some examples.

    Attributes:
        loss: mean over the examples.
        losses: f32[n], of each example, in their order.
        scores: f32[n, K], the label words' logits; None without label words.
        metrics: "accuracy" or the task's own, by name; empty where there is nothing to choose. The answer is the label
            word that scores highest, or the candidate of the lowest loss.
    """

    loss: float
    losses: Tensor
    scores: Tensor | None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def accuracy(self) -> float | None:
        """Share of right answers; None where there is nothing to choose."""
        return self.metrics.get("accuracy")


def evaluate(
    program: StepProgram,
    state: Tensor,
    examples: Sequence[Example],
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Evaluate a state on examples. Of an example with candidates all run, and its loss is the right one's.

    An example of a choice whose candidates are left out is the right one alone, and its metrics say nothing.

    Args:
        state: f32[state_size].
        progress: hears how many examples are done.
    """
    rows = [row for e in examples for row in e.rows]
    losses, scores = _run(program, state, rows, lambda done: progress(done * len(examples) // len(rows)))
    return scored(program.manifest, examples, losses, scores)


def scored(m: Manifest, examples: Sequence[Example], losses: Tensor, scores: Tensor) -> Evaluation:
    """The evaluation that the losses f32[N] and scores f32[N, K] of all rows of the examples come to."""
    predicted: list[int] = []
    if m.objective == "label-words":
        predicted = scores.argmax(1).tolist()
    elif m.choices:
        each = losses.split([len(e.rows) for e in examples])
        predicted = [int(part.argmin()) for part in each]
        losses = torch.stack([part[e.label if e.candidates else 0] for part, e in zip(each, examples, strict=True)])
    names = find_task(m.task).metrics if m.task else ("accuracy",)
    right = [e.label for e in examples]
    metrics = {name: METRICS[name](predicted, right) for name in names if predicted}
    # In float64, so that the order of adding does not matter, and every driver gets the same mean.
    return Evaluation(float(losses.double().mean()), losses, scores if m.labels else None, metrics)


def _run(
    program: StepProgram, state: Tensor, rows: Sequence[Example], progress: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Losses f32[n] and label words' logits f32[n, K] of rows.

    Rows of like length share an execution. The last execution is filled up by repetition.
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
    """Run the longest row once, so that the runtime makes its buffers now and never has to enlarge them."""
    longest = max((row for e in examples for row in e.rows), key=lambda row: len(row.tokens))
    _run(program, program.initial_state(), [longest], lambda done: None)
