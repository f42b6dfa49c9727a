"""What a caller may hear from a long call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


def _ignore(*_: object) -> None: ...


def _unasked(question: str, answers: Sequence[str]) -> int | None:
    return None


@dataclass(frozen=True)
class Hooks:
    """Functions that a long call calls as it goes; by default they do nothing.

    Attributes:
        tell: ``tell(text)``, once for what is worth keeping: what was inferred, a run that went back to its best state.
        show: ``show(phase, done, total, note)``, often, for how far it is. ``total`` is None where it is not known.
        ask: ``ask(question, answers)``, for what only a person can say: the index of the answer; None where nobody is
            there, or wants none of them.
    """

    tell: Callable[[str], None] = _ignore
    show: Callable[[str, int, int | None, str], None] = _ignore
    ask: Callable[[str, Sequence[str]], int | None] = _unasked
