"""What a file holds: rows with their numbers, what is worth saying of them, and the rows that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from prge.errors import UserError

Row = dict[str, Any]

# One row in so many may be broken: it is left out and counted. With more of them the file is read in a wrong way.
_ONE_IN = 20


class RecordNumber(int):
    """The number of a record, where it has no line of its own."""


@dataclass
class Contents:
    """What a file holds.

    Attributes:
        rows: each with the number of its line, or of the record where it has no line of its own.
        notes: what is worth saying of how it was read, in sentences.
        broken: why rows cannot be read -> their numbers.
    """

    rows: list[tuple[int, Row]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broken: dict[str, list[int]] = field(default_factory=dict)

    def leave_out(self, number: int, why: object) -> None:
        """Note a row that cannot be read."""
        self.broken.setdefault(str(why), []).append(number)

    def check(self, where: object, *, strict: bool = False, help: str = "") -> None:
        """Refuse broken rows that are more than a few.

        Args:
            strict: whether each one is too many.
            help: what to do, behind the message.

        Raises:
            UserError: names the first of them.
        """
        bad = sum(map(len, self.broken.values()))
        if not bad or (not strict and bad * _ONE_IN <= bad + len(self.rows)):
            return
        number, why = min((numbers[0], why) for why, numbers in self.broken.items())
        why = why if why.startswith(",") else f": {why}"
        more = f"; {bad} of {bad + len(self.rows)} rows cannot be read" if bad > 1 else ""
        raise UserError(f"{where}, {unit(number)} {number}{why}{more}{help}")


def unit(number: int) -> str:
    """What a row's number counts."""
    return "record" if isinstance(number, RecordNumber) else "line"
