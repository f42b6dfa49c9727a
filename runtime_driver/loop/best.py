"""Which of a run's states is the best on the dev set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


class Best:
    """The best evaluation so far: the highest accuracy, and of these the lowest loss; without a choice the lowest loss.

    Attributes:
        steps: of the run, behind which it was made; None before the first evaluation.
        waited: evaluations since then.
    """

    def __init__(self) -> None:
        self.steps: int | None = None
        self.waited = 0
        self._score = (-math.inf, -math.inf)

    def note(self, steps: int, numbers: Mapping[str, float | None]) -> bool:
        """Count an evaluation. Returns whether it is the best so far.

        Args:
            numbers: ``loss`` and, where there is a choice, ``accuracy``. A loss that is not finite is never better.
        """
        loss, score = numbers["loss"], (-math.inf, -math.inf)
        if loss is not None and math.isfinite(loss):
            score = numbers.get("accuracy") or 0.0, -loss
        if self.steps is not None and score <= self._score:
            self.waited += 1
            return False
        self.steps, self.waited, self._score = steps, 0, score
        return True

    def note_row(self, row: Mapping[str, Any]) -> None:
        """Count the evaluations of a step, as the journal tells of it."""
        if "before" in row:
            self.note(0, row["before"])
        if "dev" in row:
            self.note(row["step"] + 1, row["dev"])


def best_of(rows: Sequence[Mapping[str, Any]]) -> int | None:
    """The steps behind which a journal's best evaluation was made; None without one."""
    best = Best()
    for row in rows:
        best.note_row(row)
    return best.steps
