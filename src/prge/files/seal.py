"""A program's digest, written behind its end. With it a copy can be checked before anything reads it."""

from __future__ import annotations

import hashlib
from pathlib import Path

_MAGIC = b"prge-seal"
# Bytes that a seal takes.
SIZE = len(_MAGIC) + 32


def seal(path: Path) -> str:
    """Append the SHA-256 of the file's bytes. The runtime reads only to the program's own end, and not the seal.

    Returns:
        the digest, in hex.
    """
    digest = _digest(path, path.stat().st_size)
    with path.open("ab") as f:
        f.write(_MAGIC + digest)
    return digest.hex()


def sealed(path: Path) -> bool | None:
    """Whether a file's bytes are those that were sealed; None if it has no seal."""
    size = path.stat().st_size - SIZE
    if size < 0:
        return None
    with path.open("rb") as f:
        f.seek(size)
        tail = f.read()
    return tail[len(_MAGIC) :] == _digest(path, size) if tail.startswith(_MAGIC) else None


def seal_of(path: Path) -> str | None:
    """The digest that a file was sealed with, in hex; None if it has no seal. Its bytes are not read."""
    size = path.stat().st_size - SIZE
    with path.open("rb") as f:
        f.seek(max(0, size))
        tail = f.read()
    return tail[len(_MAGIC) :].hex() if size >= 0 and tail.startswith(_MAGIC) else None


def _digest(path: Path, size: int) -> bytes:
    """SHA-256 of the first ``size`` bytes."""
    sha = hashlib.sha256()
    with path.open("rb") as f:
        while size and (block := f.read(min(size, 1 << 20))):
            sha.update(block)
            size -= len(block)
    return sha.digest()
