"""A run's journal: a file with a line of JSON for every step. Each line has a checksum. Lines are only appended."""

from __future__ import annotations

import errno
import os
import zlib
from dataclasses import dataclass, field
from math import nan
from pathlib import Path
from typing import Any, BinaryIO

from prge.errors import UserError
from prge.files.bounded import JOURNAL, read_bounded
from prge.files.system import lock
from prge.files.typed import parse, parse_json, to_json

_MARK = ',"crc":"'


class Journal:
    """An open journal, locked for this process.

    A record outlives the process when `append` returns, and a power cut after `sync`.
    """

    def __init__(self, path: Path):
        """As `take`."""
        self.path = path
        self._file = take(path)

    def cut(self, size: int) -> None:
        """Remove what is behind the first ``size`` bytes."""
        self._file.truncate(size)

    def append(self, row: dict[str, Any]) -> None:
        """Write one record. A number that is not finite becomes null.

        Raises:
            OSError: it cannot be written. The records before stay readable.
        """
        line = _line(row)
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def take(path: Path) -> BinaryIO:
    """Open a journal for appending, or make one. It is locked for this process until it is closed.

    Raises:
        UserError: another process holds the lock.
        OSError: it cannot be opened.
    """
    file = path.open("ab", buffering=0)
    try:
        lock(file.fileno(), wait=False)
    except BlockingIOError as e:
        file.close()
        raise UserError(f"{path.parent} is in use: another process trains there") from e
    return file


def read_journal(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The records, and for each of them the byte at which it ends.

    A last line without its end is not damage: a run leaves it when it is cut off. It is not among the records.

    Raises:
        UserError: the file is missing, damaged (and at which byte), or a step is out of order.
    """
    data = read_bounded(path, JOURNAL)
    records: list[dict[str, Any]] = []
    ends: list[int] = []
    at = 0
    while at < len(data):
        end = data.find(b"\n", at) + 1
        record = _record(data[at : end - 1]) if end else None
        if record is None:
            if end:
                raise UserError(
                    f"{path} is damaged at byte {at:,} (record {len(records) + 1}): restore the file, or begin "
                    f"a new run with --from {path.parent}"
                )
            break
        if record.get("step") != len(records):
            raise UserError(f"{path} is damaged at byte {at:,}: step {record.get('step')} follows {len(records) - 1}")
        records.append(record)
        ends.append(end)
        at = end
    return records, ends


@dataclass(frozen=True)
class _Step:
    """The fields of a row that readers rely on, as in `StepRecord`. None is a number that was not finite."""

    step: int
    loss: float | None
    losses: tuple[float | None, ...]
    lr: float
    eps: float
    seed: int
    seconds: float
    examples: tuple[int, ...]
    backed_off: bool
    before: dict[str, float | None] = field(default_factory=lambda: {"loss": 0.0})
    dev: dict[str, float | None] = field(default_factory=lambda: {"loss": 0.0})


def number(value: float | None) -> float:
    """A number of the journal; null stands for one that was not finite."""
    return nan if value is None else value


def check_rows(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The rows themselves, if they are steps of a run. A checksum tells damage, but not whether that is so.

    Raises:
        UserError: a field is missing or of another type, with its record and its name.
    """
    known = _Step.__dataclass_fields__.keys()
    for number, row in enumerate(rows, 1):
        try:
            step = parse(_Step, {name: row[name] for name in row.keys() & known})
            if not ("loss" in step.before and "loss" in step.dev):
                raise ValueError("an evaluation has no loss")
        except ValueError as e:
            raise UserError(f"{path}, record {number}: not a step of a run ({e})") from e
    return rows


def _line(row: dict[str, Any]) -> bytes:
    text = to_json(row, separators=(",", ":"))
    return f'{text[:-1]}{_MARK}{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if the line is damaged."""
    head, mark, tail = line.rpartition(_MARK.encode())
    try:
        row = parse_json(head + b"}")
        whole = bool(mark) and isinstance(row, dict) and tail == b'%08x"}' % zlib.crc32(head + b"}")
    except ValueError:
        return None
    return row if whole else None
