"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path


def file_sha256(path: Path, size: int | None = None) -> str:
    """Hex SHA-256 digest of a file's first ``size`` bytes; None for all."""
    digest, left = hashlib.sha256(), path.stat().st_size if size is None else size
    with path.open("rb") as f:
        while left and (block := f.read(min(left, 1 << 20))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()
