"""Safetensors files that replace the one before as a whole, and that carry a checksum of all their bytes."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from prge.bounded import TENSORS, read_bounded
from prge.errors import UserError
from prge.typed import parse_json

# The checksum's place in the metadata, which is the CRC-32 of the file with zeros in that place.
_PLACE = re.compile(rb'"crc":"([0-9a-f]{8})"')
_ZEROS = b'"crc":"00000000"'


def save_checked(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors; an interrupted write leaves the file that was there.

    Raises:
        OSError: when it cannot be written.
    """
    scratch = path.with_suffix(".partial")
    scratch.write_bytes(checked(tensors, metadata))
    scratch.replace(path)


def checked(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The bytes of such a file."""
    data = save({name: t.contiguous() for name, t in tensors.items()}, {**metadata, "crc": "00000000"})
    return data.replace(_ZEROS, b'"crc":"%08x"' % zlib.crc32(data), 1)


def load_checked(path: Path, what: str, required: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file, which is compared with its checksum if it has one.

    Raises:
        UserError: missing, too large, damaged, or not ``what`` (for the message); without a checksum where one is
            ``required``.
    """
    try:
        data = read_bounded(path, TENSORS)
        length = int.from_bytes(data[:8], "little")
        header = data[8 : 8 + length]
        place = _PLACE.search(header)
        if place:
            at = 8 + place.start()
            zeroed = data[:at] + _ZEROS + data[at + len(_ZEROS) :]
            if zlib.crc32(zeroed) != int(place[1], 16):
                raise UserError(f"{path} is damaged: its checksum is another")
        elif required:
            raise UserError(f"{path} is damaged, or not {what}: it has no checksum")
        tensors = load(data)
        return tensors, parse_json(header).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, RuntimeError) as e:
        raise UserError(f"{path} is not {what}: {e}") from e


def sync(path: Path) -> None:
    """Write a file, or the names in a folder, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
