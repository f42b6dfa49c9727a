"""A program's digest, written behind its end. With it a copy can be checked before anything reads it."""

from __future__ import annotations

from pathlib import Path

from prge.files.digest import file_sha256

_MAGIC = b"prge-seal"
# Bytes that a seal takes.
SIZE = len(_MAGIC) + 32


def seal(path: Path) -> None:
    """Append the SHA-256 of the file's bytes. The runtime reads only to the program's own end, and not the seal."""
    digest = bytes.fromhex(file_sha256(path))
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
    return tail[len(_MAGIC) :] == bytes.fromhex(file_sha256(path, size)) if tail.startswith(_MAGIC) else None
