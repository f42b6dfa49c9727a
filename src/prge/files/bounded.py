"""Files from anywhere, read only if they are files, and of a size that their kind can have."""

from __future__ import annotations

import stat
from pathlib import Path

from prge.errors import UserError

# Examples are held in memory several times over while they are read.
DATA = 2 << 30
# Of one example; the Bible has under 5 MB, and tokens take a hundred times the memory.
TEXT = 32 << 20
# An adapter of rank 64 on all linears of a model with 70 billion weights has 3.3 GB in float32.
TENSORS = 8 << 30
# A hundred bytes per number of a batch and step: a million steps.
JOURNAL = 4 << 30
# The largest that are known have under 40 MB.
TOKENIZER = 512 << 20
# Settings; those with every module of a deep model by name have under 1 MB.
SETTINGS = 32 << 20


def check_size(path: Path, most: int) -> None:
    """Raise a UserError when a path is no regular file, or one of more bytes."""
    try:
        found = path.stat()
    except (OSError, ValueError) as e:
        raise UserError(f"{path} cannot be read: {getattr(e, 'strerror', None) or e}") from e
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a regular file")
    if found.st_size > most:
        raise UserError(f"{path} holds {found.st_size:,} bytes; of such a file prge reads at most {most:,}")


def read_bounded(path: Path, most: int) -> bytes:
    """All bytes of a file.

    Raises:
        UserError: as `check_size`, or it cannot be read.
    """
    check_size(path, most)
    try:
        return path.read_bytes()
    except OSError as e:
        raise UserError(f"{path} cannot be read: {e.strerror}") from e
