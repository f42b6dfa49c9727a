"""Ctrl-C and SIGTERM, heard between steps: a run stops where state, records and log agree."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class Stopping:
    """While entered, a signal to stop only sets a mark; ``check`` raises at a point of the caller's choice."""

    def __enter__(self) -> Stopping:
        self._asked = False
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self._asked:
            raise KeyboardInterrupt
