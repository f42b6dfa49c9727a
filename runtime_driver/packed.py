"""Examples as 32-bit words, little-endian: what two drivers, or two days, must have alike to make the same run."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from prge.runtime_driver.data import Example


def words(examples: Iterable[Example]) -> Iterator[int]:
    """Of each: label, targets, number of tokens, number of candidates; the tokens; and the candidates likewise."""
    for e in examples:
        yield from (e.label, e.targets, len(e.tokens), len(e.candidates), *e.tokens)
        yield from words(e.candidates)


def digest(examples: Iterable[Example]) -> str:
    """CRC-32 of the words, in hex."""
    return f"{zlib.crc32(np.fromiter(words(examples), '<i4').tobytes()):08x}"
