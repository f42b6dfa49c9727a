"""A program's digest, written behind its end. With it a copy can be checked before anything reads it."""

from __future__ import annotations

import hashlib
from pathlib import Path

_MAGIC = b"prge-seal"
# Bytes that a seal takes.
SIZE = len(_MAGIC) + 32


def seal(path: Path) -> None:
    """Append the SHA-256 of the file's bytes. The runtime reads only to the program's own end, and not the seal."""
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as f:
        f.write(_MAGIC + digest)


def sealed(path: Path) -> bool | None:
    """Whether a file's bytes are those that were sealed; None if it has no seal."""
    size = path.stat().st_size - SIZE
    if size < 0:
        return None
    with path.open("rb") as f:
        f.seek(size)
        tail = f.read()
    return tail[len(_MAGIC) :] == _digest(path, size) if tail.startswith(_MAGIC) else None


def _digest(path: Path, size: int) -> bytes:
    """SHA-256 of the first ``size`` bytes."""
    sha = hashlib.sha256()
    with path.open("rb") as f:
        while size and (block := f.read(min(size, 1 << 20))):
            sha.update(block)
            size -= len(block)
    return sha.digest()
