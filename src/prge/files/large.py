"""A safetensors file of one large tensor, which is written and read a few rows at a time.

Its bytes stay in the file: a mapped file would count as the process's memory. The checksum is that of `checked`.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from prge.errors import UserError
from prge.files.checked import CRC_PLACE, CRC_ZEROS, checked_head, scratch_of
from prge.files.system import lock, reserve, sync
from prge.files.typed import parse, parse_json

Rows = NDArray[np.float32]

# Bytes that are read at a time for the checksum.
_BLOCK = 1 << 20


def write_large(
    path: Path,
    name: str,
    shape: tuple[int, int],
    metadata: dict[str, str],
    fill: Callable[[Callable[[int, Rows], None]], None],
) -> None:
    """Write a tensor f32[N, W]. An interrupted write leaves the earlier file as it was.

    While another process writes the same file, this waits, and then takes that one's.

    Args:
        fill: is given ``put(first, rows)``, and calls it until all rows are written.

    Raises:
        OSError: when the file cannot be written.
    """
    head, scratch = _head(name, shape, metadata), scratch_of(path)
    begin, size = len(head), 4 * shape[0] * shape[1]
    f = _locked(scratch, path)
    if f is None:
        return
    with f:  # until the scratch is renamed or gone
        try:
            f.truncate(0)
            f.write(head)
            reserve(f, begin + size)  # a full disk is found now, and not after minutes

            def put(first: int, rows: Rows) -> None:
                f.seek(begin + 4 * shape[1] * first)
                if f.write(np.ascontiguousarray(rows, "<f4").data.cast("B")) != rows.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch))

            fill(put)
            f.seek(0)
            crc = _crc_of_rest(f, 0)
            f.seek(head.index(CRC_ZEROS))
            f.write(b'"crc":"%08x"' % crc)
            sync(scratch)
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)  # it may hold gigabytes
            raise


def _locked(scratch: Path, path: Path) -> BinaryIO | None:
    """Open the scratch of a file when no other process writes it; None if one has just made the file of it."""
    while True:
        # Not emptied before it is locked: another process may be writing it.
        f = open(scratch, "w+b", buffering=0, opener=_untouched)  # noqa: SIM115
        with suppress(OSError):  # a file system without locks
            lock(f.fileno())
        if _is(f, scratch):
            return f
        made = _is(f, path)
        f.close()
        if made:
            return None


def _untouched(path: str, flags: int) -> int:
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def _is(file: BinaryIO, path: Path) -> bool:
    """Whether a path leads to an open file."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


class LargeTensor:
    """A tensor f32[N, W] in a file that `write_large` wrote.

    Attributes:
        shape: (N, W).
        metadata: the file's.
    """

    def __init__(self, path: Path, name: str, what: str):
        """Open a file and compare its checksum, which reads all of it once.

        Args:
            what: the kind of file that is expected, for messages.

        Raises:
            UserError: the file is missing, damaged, or not ``what``.
        """
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
            length = self._file.read(8)
            header = self._file.read(min(int.from_bytes(length, "little"), _BLOCK))
            place = CRC_PLACE.search(header)
            if not place:
                raise ValueError("it has no checksum")
            head = length + header[: place.start()] + CRC_ZEROS + header[place.end() :]
            if _crc_of_rest(self._file, zlib.crc32(head)) != int(place[1], 16):
                raise UserError(f"{path} is damaged: its checksum does not fit its content")
            described = parse_json(header)
            self.shape = parse(tuple[int, int], described[name]["shape"])
            self.metadata = parse(dict[str, str], described["__metadata__"])
            self._begin = len(head)
            if head != _head(name, self.shape, self.metadata) or min(self.shape) < 0:
                raise ValueError(f"its header is not that of one tensor {name!r} of float32")
            if self._file.tell() != self._begin + 4 * self.shape[0] * self.shape[1]:
                raise ValueError("its tensor has another size than the file")
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise UserError(f"{path} is not {what}: {e}") from e

    def read(self, first: int, rows: Rows) -> None:
        """Fill an array with the rows from ``first`` on.

        Raises:
            UserError: the file cannot be read any more.
        """
        try:
            count = os.preadv(self._file.fileno(), [rows.data.cast("B")], self._begin + 4 * self.shape[1] * first)
        except OSError as e:
            raise UserError(f"{self.path} cannot be read: {e.strerror}") from e
        if count != rows.nbytes:
            raise UserError(f"{self.path} was cut off while it was in use")


def _head(name: str, shape: tuple[int, int], metadata: dict[str, str]) -> bytes:
    """All of a file before its tensor, with zeros for the checksum."""
    described = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * shape[0] * shape[1]]}
    return checked_head({name: described}, metadata)


def _crc_of_rest(file: BinaryIO | Any, crc: int) -> int:
    """CRC-32 of what is left of a file, which goes on from ``crc``."""
    while block := file.read(_BLOCK):
        crc = zlib.crc32(block, crc)
    return crc
