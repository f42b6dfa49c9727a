"""A program's digest, written behind its end. With it a copy can be checked before anything reads it."""

from __future__ import annotations

from pathlib import Path

from prge.files.digest import file_sha256

_MAGIC = b"prge-seal"
# Bytes that a seal takes.
SIZE = len(_MAGIC) + 32


def seal(path: Path) -> str:
    """Append the SHA-256 of the file's bytes. The runtime reads only to the program's own end, and not the seal.

    Returns:
        the digest, in hex.
    """
    digest = file_sha256(path)
    with path.open("ab") as f:
        f.write(_MAGIC + bytes.fromhex(digest))
    return digest


def sealed(path: Path) -> bool | None:
    """Whether a file's bytes are those that were sealed; None if it has no seal."""
    claimed = seal_of(path)
    return claimed if claimed is None else claimed == file_sha256(path, path.stat().st_size - SIZE)


def seal_of(path: Path) -> str | None:
    """The digest that a file was sealed with, in hex; None if it has no seal. The sealed bytes are not read."""
    size = path.stat().st_size - SIZE
    with path.open("rb") as f:
        f.seek(max(0, size))
        tail = f.read()
    return tail[len(_MAGIC) :].hex() if size >= 0 and tail.startswith(_MAGIC) else None
