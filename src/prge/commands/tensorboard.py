"""A run's numbers for TensorBoard, beside its journal."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from prge.errors import UserError
from prge.quiet import quiet
from prge.runtime_driver.run.journal import number

ReportTo = Literal["tensorboard"]

TENSORBOARD_FOLDER = "tensorboard"


def refuse_missing() -> None:
    """Raise a UserError where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError("--report-to tensorboard needs its library: pip install 'prge[tensorboard]'")


def events(run: Path) -> list[Path]:
    """The files of events in a run's folder."""
    return sorted((run / TENSORBOARD_FOLDER).glob("events.out.tfevents.*"))


class Scalars:
    """Writes the numbers of a journal's lines as events, into a folder of the run.

    The events are a copy of the journal. A run that goes on writes them anew, as its journal may have been cut.
    """

    def __init__(self, run: Path, rows: Iterable[Mapping[str, Any]]):
        """Begin with the lines ``rows`` that are there.

        Raises:
            UserError: the folder cannot be written.
        """
        with quiet():
            from torch.utils.tensorboard.writer import SummaryWriter

        try:
            for file in events(run):
                file.unlink()
            self._writer = SummaryWriter(run / TENSORBOARD_FOLDER, flush_secs=10)
        except OSError as e:
            raise UserError(f"{run / TENSORBOARD_FOLDER} cannot be written: {e.strerror}") from e
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a line's loss and learning rate, and what the dev set gave behind or before its step."""
        step = row["step"] + 1
        self._write(step, "train", {name: row[name] for name in ("loss", "lr")})
        self._write(0, "dev", row.get("before", {}))
        self._write(step, "dev", row.get("dev", {}))

    def _write(self, step: int, group: str, numbers: Mapping[str, float | None]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(f"{group}/{name}", number(value), step)

    def close(self) -> None:
        """Write what is not on disk yet."""
        self._writer.close()
