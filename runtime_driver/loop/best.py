"""Which of a run's states is kept, by its evaluations on the dev set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# A dev set of a hundred texts tells two accuracies apart by some points only. Whoever takes the highest of many takes
# chance along with it, and the later of two states has learned more (docs/bench.md).
_AS_GOOD = 0.02


class Best:
    """The state to keep: the last one whose accuracy is within two points of the highest so far.

    Without a choice to make it is the one of the lowest loss.

    Attributes:
        steps: of the run, behind which it was evaluated; None before the first evaluation.
        waited: evaluations since the one of the highest accuracy, and of these of the lowest loss.
    """

    def __init__(self) -> None:
        self.steps: int | None = None
        self.waited = 0
        self._highest = (-math.inf, -math.inf)

    def note(self, steps: int, numbers: Mapping[str, float | None]) -> bool:
        """Count an evaluation. Returns whether its state is the one to keep from now on.

        Args:
            numbers: ``loss`` and, where there is a choice, ``accuracy``. A loss that is not finite counts only as the
                first.
        """
        loss, accuracy = numbers["loss"], numbers.get("accuracy")
        score = (-math.inf, -math.inf)
        if loss is not None and math.isfinite(loss):
            score = accuracy or 0.0, -loss
        self.waited += 1
        keep = self.steps is None or score > self._highest
        if keep:
            self._highest, self.waited = score, 0
        elif accuracy is not None:
            keep = score[0] >= self._highest[0] - _AS_GOOD and score[0] > -math.inf
        if keep:
            self.steps = steps
        return keep

    def note_row(self, row: Mapping[str, Any]) -> None:
        """Count the evaluations of a step, as the journal tells of it."""
        if "before" in row:
            self.note(0, row["before"])
        if "dev" in row:
            self.note(row["step"] + 1, row["dev"])


def best_of(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The steps behind which the state that a journal's run keeps was evaluated; None without an evaluation."""
    best = Best()
    for row in rows:
        best.note_row(row)
    return best.steps
