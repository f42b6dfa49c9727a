"""Reads files that may come from anybody: regular files only, and none larger than its kind can be."""

from __future__ import annotations

import stat
from pathlib import Path

from prge.errors import UserError

# Bytes. Examples are in memory several times while they are read.
DATA = 2 << 30
# One example's text. The Bible has under 5 MB; its tokens take a hundred times the memory.
TEXT = 32 << 20
# An adapter of rank 64 on all linears of a model with 70 billion weights has 3.3 GB in float32.
TENSORS = 8 << 30
# A journal of a million steps with 40 numbers each.
JOURNAL = 4 << 30
# The largest known ones have under 40 MB.
TOKENIZER = 512 << 20
# Settings as JSON. With every module of a deep model by name they have under 1 MB.
SETTINGS = 32 << 20


def check_size(path: Path, most: int) -> None:
    """Raise a UserError unless ``path`` is a regular file of at most ``most`` bytes."""
    try:
        found = path.stat()
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from e
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a regular file")
    if found.st_size > most:
        raise UserError(f"{path} holds {found.st_size:,} bytes; prge reads at most {most:,} of such a file")


def read_bounded(path: Path, most: int) -> bytes:
    """The bytes of a file of at most ``most`` bytes.

    Raises:
        UserError: as `check_size`, or the file cannot be read.
    """
    check_size(path, most)
    try:
        return path.read_bytes()
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
