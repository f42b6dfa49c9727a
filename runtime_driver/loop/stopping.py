"""What stops a run, or makes it wait, between two steps: signals, limits, and the machine's state."""

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

# Below this share of free memory the system soon kills processes.
_MEMORY = 0.03
# A run that waits goes on when it is so many degrees below the limit; else it would stop and go with every step.
_COOLER = 5.0
# Seconds between two looks at the machine. A look costs up to a millisecond.
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
        """Look for signals, and about once a second at the limits; wait while the machine is too hot.

        Args:
            tell: hears that it waits, and at how many degrees.

        Raises:
            KeyboardInterrupt: a signal came, or a limit is reached, also while it waits.
        """
        self._check_time()
        if time.monotonic() - self._looked < _LOOK:
            return
        self._check_machine()
        bound = self.limits.max_temperature
        if bound is not None and (temperature() or 0.0) > bound:
            while (heat := temperature() or 0.0) > bound - _COOLER:
                tell(f"waiting at {heat:.0f} degrees")
                time.sleep(_LOOK)
                self._check_time()
                self._check_machine()
        self._looked = time.monotonic()

    def _check_time(self) -> None:
        self.check()
        if self.limits.max_minutes is not None and time.monotonic() - self._began >= 60 * self.limits.max_minutes:
            self._stop(f"{self.limits.max_minutes:g} minutes are over")

    def _check_machine(self) -> None:
        memory = psutil.virtual_memory()
        if memory.available < _MEMORY * memory.total:
            self._stop(f"only {memory.available / 1e6:.0f} MB of memory are left")
        charge = battery()
        if self.limits.min_battery is not None and charge is not None and charge < self.limits.min_battery:
            self._stop(f"the battery is at {charge:.0f} %")

    def _stop(self, why: str) -> None:
        self.why = why
        raise KeyboardInterrupt
