"""Losses and predictions of a state: the step with eps 0 and R different examples per execution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prge.runtime_driver.data import Example, collate
from prge.runtime_driver.program import StepProgram


@dataclass(frozen=True)
class Evaluation:
    """A state's quality on examples, in their order.

    Attributes:
        loss: mean over the examples.
        losses: f32[n], one per example.
        scores: f32[n, K], the label words' logits (label words only).
        accuracy: share of examples whose right word scores highest (label words only).
    """

    loss: float
    losses: Tensor
    scores: Tensor | None
    accuracy: float | None


def evaluate(
    program: StepProgram,
    state: Tensor,
    examples: Sequence[Example],
    progress: Callable[[int], None] = lambda done: None,
) -> Evaluation:
    """Run all examples through ``program`` with ``state``; ``progress`` hears how many are done.

    Examples of like length share an execution; the last one is filled up by repetition.
    """
    m = program.manifest
    classify = m.objective == "label-words"
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].tokens))
    losses = torch.zeros(len(examples))
    scores = torch.zeros(len(examples), len(m.labels))
    for start in range(0, len(order), m.rows):
        part = order[start : start + m.rows]
        tokens, targets = collate([examples[i] for i in (part * m.rows)[: m.rows]], m)
        _, loss, detail = program.execute(state, tokens, targets, 0, 0.0, 0.0)
        losses[part] = loss[: len(part)]
        if classify:
            scores[part] = detail[: len(part)]
        progress(start + len(part))
    accuracy = None
    if classify:
        right = torch.tensor([e.label for e in examples])
        accuracy = float((scores.argmax(1) == right).float().mean())
    return Evaluation(float(losses.mean()), losses, scores if classify else None, accuracy)


def warm_up(program: StepProgram, examples: Sequence[Example]) -> None:
    """Run the longest example, so that the runtime's buffers are made once and never grown."""
    evaluate(program, program.initial_state(), [max(examples, key=lambda e: len(e.tokens))])
