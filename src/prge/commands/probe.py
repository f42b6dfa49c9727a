"""What a linear probe reaches on the hidden states that a run keeps: a run that ends below that has gone wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from prge.examples.rows import Example
from prge.regression import choose
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.program.step import StepProgram

# Fewer dev examples tell nothing.
_ENOUGH = 50


def below_probe(
    program: StepProgram, examples: Sequence[Example], dev: Sequence[Example], accuracy: float
) -> str | None:
    """What to say of a run that ended below a linear probe; None where it did not, or where that cannot be told.

    The probe is a logistic regression on the frozen part's hidden states: that at the position where the label word is
    predicted, and the mean of those up to there. With all layers adapted they are the tokens' embeddings, and the mean
    is what tells texts apart. They are kept for the run, so it costs no pass of the model. "Below" is by more than the
    dev set's size lets happen by chance (one standard error of the difference).

    Args:
        program: with the hidden states of all examples kept.
        accuracy: the run's, on ``dev``.
    """
    m = program.manifest
    labels = [e.label for e in examples]
    if not m.labels or program.hidden is None or len(dev) < _ENOUGH or len(set(labels)) < 2:
        return None
    regression, _ = choose(_features(program, examples), torch.tensor(labels), len(m.labels), seed=0)
    right = regression.scores(_features(program, dev)).argmax(1) == torch.tensor([e.label for e in dev])
    probe = float(right.double().mean())
    if accuracy >= probe - math.sqrt(2 * probe * (1 - probe) / len(dev)):
        return None
    return (
        f"the accuracy is {accuracy:.3f}, and a linear probe on what is frozen has {probe:.3f}: "
        "train for more --steps, give another --lr, or look at the labels"
    )


def _features(program: StepProgram, examples: Sequence[Example]) -> Tensor:
    """Hidden states f32[n, 2 H]: at the position where the label word is predicted, and their mean up to there."""
    found = []
    for example in examples:
        tokens, (position, *_) = collate([example], program.manifest)
        at = int(position[0, 0])
        states = program.states(tokens)[0, : at + 1]
        found.append(torch.cat([states[at], states.mean(0)]))
    return torch.stack(found)
