"""How far two texts, or two rows of tokens, are alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items at their beginnings are the same."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
