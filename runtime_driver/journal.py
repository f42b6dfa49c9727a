"""A run's journal: one line of JSON per step, each with its own checksum, only ever appended to."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import zlib
from math import isfinite
from pathlib import Path
from typing import Any

from prge.errors import UserError

_MARK = ', "crc": "'


class Journal:
    """An open journal, this process's alone.

    Every record is with the system when `append` returns, and on the disk after `sync`.
    """

    def __init__(self, path: Path):
        """Open or make.

        Raises:
            UserError: another process has it open.
            OSError: when it cannot be opened.
        """
        self.path = path
        self._file = path.open("ab", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self._file.close()
            raise UserError(f"{path.parent} is in use: another process trains there") from e

    def cut(self, size: int) -> None:
        """Keep the first so many bytes."""
        self._file.truncate(size)

    def append(self, row: dict[str, Any]) -> None:
        """Write one record; a number that is not finite becomes null.

        Raises:
            OSError: when it cannot be written; what was written before stays readable.
        """
        line = _line(row)
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The records, and the file's size behind each of them.

    A last line without its end is what a run that was cut off leaves; it is not among the records.

    Raises:
        UserError: missing, damaged (with where), or with steps that do not follow each other.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
    records: list[dict[str, Any]] = []
    ends: list[int] = []
    at = 0
    while at < len(data):
        end = data.find(b"\n", at) + 1
        record = _record(data[at : end - 1]) if end else None
        if record is None:
            if end:
                raise UserError(f"{path} is damaged at byte {at:,} (record {len(records) + 1}); what follows is no use")
            break
        if record.get("step") != len(records):
            raise UserError(f"{path} is damaged at byte {at:,}: step {record.get('step')} follows {len(records) - 1}")
        records.append(record)
        ends.append(end)
        at = end
    return records, ends


def _line(row: dict[str, Any]) -> bytes:
    text = json.dumps(_plain(row))
    return f'{text[:-1]}{_MARK}{zlib.crc32(text.encode()):08x}"}}\n'.encode()


def _plain(value: Any) -> Any:
    """A value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None if it is not whole."""
    head, mark, tail = line.rpartition(_MARK.encode())
    try:
        row = json.loads(head + b"}")
        whole = bool(mark) and isinstance(row, dict) and tail == b'%08x"}' % zlib.crc32(head + b"}")
    except (ValueError, RecursionError):
        return None
    return row if whole else None
