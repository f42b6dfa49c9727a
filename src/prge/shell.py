"""Paths as words of a command that a user may copy."""

from __future__ import annotations

import os
import shlex


def word(path: str | os.PathLike[str]) -> str:
    """A path as one word for a shell, which is taken for no option."""
    text = os.fspath(path)
    return shlex.quote(f".{os.sep}{text}" if text.startswith("-") else text)
