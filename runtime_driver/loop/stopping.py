"""What stops a run or makes it wait between two steps: signals, its limits, its dev set, the state of the machine."""

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
from prge.runtime_driver.loop.best import Best

# When less than this share of the machine's memory is left, the system soon kills processes.
_MEMORY = 0.03
# A run that waits goes on this many degrees below its limit, so that it does not stop and go with every step.
_COOLER = 5.0
# Seconds between two looks at the machine. A look takes up to a millisecond.
_LOOK = 1.0


@dataclass(frozen=True)
class Limits:
    """What ends or pauses a run early; None for nothing."""

    max_minutes: Annotated[float | None, Option("Stop after this many minutes; --resume continues.", least=0.0)] = None
    max_temperature: Annotated[
        float | None, Option("Wait while the hottest sensor is above this many degrees Celsius.")
    ] = None
    min_battery: Annotated[
        float | None, Option("Stop when the battery is below this many per cent and not charging.")
    ] = None
    patience: Annotated[
        int, Option("Stop when this many evaluations in a row were no better than the best; 0: never.", least=0)
    ] = 4

    def __post_init__(self) -> None:
        """Raises a UserError for a limit that this machine has no sensor for."""
        if self.max_temperature is not None and temperature() is None:
            raise UserError("--max-temperature: this machine has no sensor of temperature; leave it out")
        if self.min_battery is not None and battery() is None:
            raise UserError("--min-battery: this machine shows no battery; leave it out")


def temperature() -> float | None:
    """The hottest sensor's, in degrees Celsius; None without a sensor."""
    groups = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return max((sensor.current for group in groups.values() for sensor in group), default=None)


def battery() -> float | None:
    """The charge in per cent; 100 while the charger is in; None without a battery."""
    found = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return None if found is None else 100.0 if found.power_plugged else float(found.percent)


class Stopping:
    """Stops a run between two steps, where state, journal and folder agree.

    While this is entered, SIGINT and SIGTERM only set a mark. `check` and `look` raise where the caller calls them.

    Attributes:
        why: what stopped the run, in words.
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
        """Look at signals and time, and about once a second at the machine. Wait while it is too hot.

        Args:
            tell: hears every second that the run waits, and at how many degrees.

        Raises:
            KeyboardInterrupt: a signal came, a limit is reached, or memory is short. Also while the run waits.
        """
        self._check_time()
        if time.monotonic() - self._looked < _LOOK:
            return
        self._check_machine()
        if self.limits.max_temperature is not None:
            self._cool_down(self.limits.max_temperature, tell)
        self._looked = time.monotonic()

    def _cool_down(self, limit: float, tell: Callable[[str], None]) -> None:
        bound = limit
        while (heat := temperature() or 0.0) > bound:
            bound = limit - _COOLER
            tell(f"waiting at {heat:.0f} degrees")
            time.sleep(_LOOK)
            self._check_time()
            self._check_machine()

    def weigh(self, best: Best) -> None:
        """Raise KeyboardInterrupt if the evaluations since the best one are as many as the limit says."""
        if self.limits.patience and best.waited >= self.limits.patience:
            self._stop(f"{best.waited} evaluations in a row were no better than the best one before them")

    def _check_time(self) -> None:
        self.check()
        minutes = self.limits.max_minutes
        if minutes is not None and time.monotonic() - self._began >= 60 * minutes:
            self._stop(f"{minutes:g} minutes are over")

    def _check_machine(self) -> None:
        memory, charge = psutil.virtual_memory(), battery()
        if memory.available < _MEMORY * memory.total:
            self._stop(f"only {memory.available / 1e6:.0f} MB of memory are left")
        if self.limits.min_battery is not None and charge is not None and charge < self.limits.min_battery:
            self._stop(f"the battery is at {charge:.0f} %")

    def _stop(self, why: str) -> None:
        self.why = why
        raise KeyboardInterrupt
