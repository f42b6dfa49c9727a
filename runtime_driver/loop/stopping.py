"""What ends or holds up a run between steps, where state, journal and folder agree: signals, limits, the machine."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Annotated

import psutil

from prge.errors import UserError
from prge.options import Option

# Less of the machine's memory than this share, and the system soon kills processes.
_MEMORY = 0.03
# Degrees below the limit at which a run goes on, so that it does not stop and go with every step.
_COOLER = 5.0
# Steps go on for less than a second while the machine is looked at; a look costs up to a millisecond.
_LOOK = 1.0


@dataclass(frozen=True)
class Limits:
    """When a run stops or waits before its last step; None for never."""

    max_minutes: Annotated[float | None, Option("Stop after this many minutes; --resume continues.", least=0.0)] = None
    max_temperature: Annotated[
        float | None, Option("Wait while the hottest sensor is above this many degrees Celsius.")
    ] = None
    min_battery: Annotated[
        float | None, Option("Stop when the battery is below this many per cent and not charging.")
    ] = None

    def __post_init__(self) -> None:
        """Raises a UserError for a limit that this machine has no sensor for."""
        if self.max_temperature is not None and temperature() is None:
            raise UserError("--max-temperature: this machine shows no temperature")
        if self.min_battery is not None and battery() is None:
            raise UserError("--min-battery: this machine shows no battery")


def temperature() -> float | None:
    """Of the hottest sensor, in degrees Celsius."""
    groups = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return max((sensor.current for group in groups.values() for sensor in group), default=None)


def battery() -> float | None:
    """Charge in per cent; 100 while the charger is in."""
    found = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if found is None else 100.0 if found.power_plugged else float(found.percent)


class Stopping:
    """While entered, a signal to stop only sets a mark; `check` raises at a point of the caller's choice.

    Attributes:
        why: it stopped, in words.
    """

    why = "interrupted"

    def __init__(self, limits: Limits):
        self.limits, self._asked = limits, False
        self._began = self._looked = time.monotonic()

    def __enter__(self) -> Stopping:
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

    def look(self, tell: Callable[[str], None]) -> None:
        """`check`, and about once a second the limits; waits while the machine is too hot, telling so.

        Raises:
            KeyboardInterrupt: a signal came, or a limit is reached.
        """
        self.check()
        if self.limits.max_minutes is not None and time.monotonic() - self._began >= 60 * self.limits.max_minutes:
            self._stop(f"{self.limits.max_minutes:g} minutes are over")
        if time.monotonic() - self._looked < _LOOK:
            return
        memory = psutil.virtual_memory()
        if memory.available < _MEMORY * memory.total:
            self._stop(f"only {memory.available / 1e6:.0f} MB of memory are left")
        charge = battery()
        if self.limits.min_battery is not None and charge is not None and charge < self.limits.min_battery:
            self._stop(f"the battery is at {charge:.0f} %")
        bound = self.limits.max_temperature
        if bound is not None and (temperature() or 0.0) > bound:
            while (heat := temperature() or 0.0) > bound - _COOLER:
                tell(f"waiting at {heat:.0f} degrees")
                self.check()
                time.sleep(_LOOK)
        self._looked = time.monotonic()

    def _stop(self, why: str) -> None:
        self.why = why
        raise KeyboardInterrupt
