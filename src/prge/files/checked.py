"""Files that replace the one before as a whole; safetensors that carry a checksum of all their bytes."""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from prge.errors import UserError
from prge.files.bounded import TENSORS, read_bounded
from prge.files.typed import parse_json

Buffer = bytes | memoryview

# The checksum's place in the metadata, which is the CRC-32 of the file with zeros in that place.
_PLACE = re.compile(rb'"crc":"([0-9a-f]{8})"')
_ZEROS = b'"crc":"00000000"'
# Of 4 bytes each.
_DTYPES = {torch.float32: "F32", torch.int32: "I32"}


def save_checked(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors of float32 or int32; an interrupted write leaves the file that was there.

    Raises:
        OSError: when it cannot be written.
    """
    replace(path, *checked(tensors, metadata))


def scratch_of(path: Path) -> Path:
    """Where a file is written before it replaces the one that is there."""
    return path.with_suffix(".partial")


def replace(path: Path, *parts: Buffer) -> None:
    """Write a file through to the disk; an interrupted write leaves the one that was there.

    Raises:
        OSError: when it cannot be written.
    """
    scratch = scratch_of(path)
    write(scratch, *parts)
    sync(scratch)
    scratch.replace(path)


def write(path: Path, *parts: Buffer) -> None:
    """Write a file of parts that follow each other."""
    with path.open("wb", buffering=0) as f:
        for part in parts:
            if f.write(part) != memoryview(part).nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def checked(tensors: dict[str, Tensor], metadata: dict[str, str]) -> list[Buffer]:
    """The parts of such a file, without a copy: after every step, that would cost more than to write it."""
    header: dict[str, Any] = {"__metadata__": {**metadata, "crc": "00000000"}}
    parts: list[Buffer] = []
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        parts.append(tensor.contiguous().numpy().data.cast("B"))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    parts.insert(0, len(text).to_bytes(8, "little") + text)
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    parts[0] = bytes(parts[0]).replace(_ZEROS, b'"crc":"%08x"' % crc, 1)
    return parts


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
