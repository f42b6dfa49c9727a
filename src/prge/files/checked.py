"""Files that are replaced as a whole, and safetensors files with a checksum of all their bytes."""

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
from prge.files.system import sync
from prge.files.typed import parse_json

Buffer = bytes | memoryview

# The checksum's place in the metadata. It is the CRC-32 of the file with zeros in that place.
CRC_PLACE = re.compile(rb'"crc":"([0-9a-f]{8})"')
CRC_ZEROS = b'"crc":"00000000"'
# Both have 4 bytes for each number.
_DTYPES = {torch.float32: "F32", torch.int32: "I32"}


def save_checked(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors of float32 or int32. An interrupted write leaves the earlier file as it was.

    Raises:
        OSError: when it cannot be written.
    """
    replace(path, *checked(tensors, metadata))


def scratch_of(path: Path) -> Path:
    """Where the new content of a file is written, before it replaces the file."""
    return path.with_suffix(".partial")


def replace(path: Path, *parts: Buffer) -> None:
    """Replace a file and write it through to the disk. An interrupted write leaves the earlier file as it was.

    Raises:
        OSError: when it cannot be written.
    """
    scratch = scratch_of(path)
    write(scratch, *parts)
    sync(scratch)
    scratch.replace(path)


def write(path: Path, *parts: Buffer) -> None:
    """Write the parts into a file, one after the other."""
    with path.open("wb", buffering=0) as f:
        for part in parts:
            if f.write(part) != memoryview(part).nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def checked(tensors: dict[str, Tensor], metadata: dict[str, str]) -> list[Buffer]:
    """The parts of a checked file. Tensors are not copied: after every step that would cost more than the write."""
    described: dict[str, Any] = {}
    parts: list[Buffer] = []
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.numel()
        described[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        parts.append(tensor.contiguous().numpy().data.cast("B"))
    parts.insert(0, checked_head(described, metadata))
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    parts[0] = bytes(parts[0]).replace(CRC_ZEROS, b'"crc":"%08x"' % crc, 1)
    return parts


def checked_head(tensors: dict[str, Any], metadata: dict[str, str]) -> bytes:
    """All of a checked file before its tensors, with zeros for the checksum.

    Args:
        tensors: by name, ``dtype``, ``shape`` and ``data_offsets``, as safetensors has them.
    """
    header = {"__metadata__": {**metadata, "crc": "00000000"}, **tensors}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def load_checked(path: Path, what: str, required: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file. A checksum in it is compared.

    Args:
        what: the kind of file that is expected, for messages.
        required: whether a file without a checksum is refused.

    Raises:
        UserError: the file is missing, too large, damaged, or of another kind.
    """
    try:
        data = read_bounded(path, TENSORS)
        length = int.from_bytes(data[:8], "little")
        header = data[8 : 8 + length]
        place = CRC_PLACE.search(header)
        if place:
            at = 8 + place.start()
            zeroed = data[:at] + CRC_ZEROS + data[at + len(CRC_ZEROS) :]
            if zlib.crc32(zeroed) != int(place[1], 16):
                raise UserError(f"{path} is damaged: its checksum does not fit its content")
        elif required:
            raise UserError(f"{path} is damaged, or not {what}: it has no checksum")
        tensors = load(data)
        return tensors, parse_json(header).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, RuntimeError) as e:
        raise UserError(f"{path} is not {what}: {e}") from e
