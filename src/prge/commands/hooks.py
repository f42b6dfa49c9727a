"""What a caller may hear from a long call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


def _ignore(*_: object) -> None: ...


@dataclass(frozen=True)
class Hooks:
    """Two functions that a long call calls as it goes; by default they do nothing.

    Attributes:
        tell: ``tell(text)``, once for what is worth keeping: what was inferred, a run that went back to its best state.
        show: ``show(phase, done, total, note)``, often, for how far it is. ``total`` is None where it is not known.
    """

    tell: Callable[[str], None] = _ignore
    show: Callable[[str, int, int | None, str], None] = _ignore
