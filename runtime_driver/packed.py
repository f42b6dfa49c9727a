"""Examples as 32-bit words, little-endian: what two drivers, or two days, must have alike to make the same run.

A packed file holds those of one program's training and dev set; docs/run-folder.md gives its layout.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prge.bounded import DATA, read_bounded
from prge.checked import replace
from prge.errors import UserError
from prge.manifest import Manifest
from prge.runtime_driver.data import Example

MAGIC = b"\x89PRGE\r\n\x1a"
VERSION = 1

# Behind the magic: version, form, counts of training and dev examples and of those left out, number of words, and
# the tokenizer's SHA-256; then the words, and the CRC-32 of all before.
_HEADER = struct.Struct("<8s6I32s")
_CRC = struct.Struct("<I")


def words(examples: Iterable[Example]) -> Iterator[int]:
    """Of each: label, targets, number of tokens, number of candidates; the tokens; and the candidates likewise."""
    for e in examples:
        yield from (e.label, e.targets, len(e.tokens), len(e.candidates), *e.tokens)
        yield from words(e.candidates)


def digest(examples: Iterable[Example]) -> str:
    """CRC-32 of the words, in hex."""
    return f"{zlib.crc32(np.fromiter(words(examples), '<i4').tobytes()):08x}"


def form(manifest: Manifest) -> int:
    """CRC-32 of all that decides, beside the tokenizer, which examples a text becomes."""
    m = manifest
    texts = [m.objective, m.template, m.target, m.label_column, m.choices, m.chat_template, m.answer_at]
    texts += [str(-1 if m.mask_token is None else m.mask_token), str(m.max_tokens), str(m.max_targets)]
    return zlib.crc32(b"".join(text.encode() + b"\0" for text in (*texts, *(label.name for label in m.labels))))


def pack(path: Path, manifest: Manifest, train: Sequence[Example], dev: Sequence[Example], dropped: int) -> None:
    """Write a packed file; an interrupted write leaves the file that was there.

    Raises:
        UserError: it cannot be written.
    """
    content = np.fromiter(words([*train, *dev]), "<i4")
    counts = (VERSION, form(manifest), len(train), len(dev), dropped, len(content))
    data = _HEADER.pack(MAGIC, *counts, bytes.fromhex(manifest.tokenizer_sha256)) + content.tobytes()
    try:
        replace(path, data, _CRC.pack(zlib.crc32(data)))
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from e


def is_packed(path: Path) -> bool:
    """Whether a file begins as a packed one does."""
    try:
        with path.open("rb") as f:
            return f.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@dataclass(frozen=True)
class Packed:
    """A packed file's header, and its words."""

    form: int
    train: int
    dev: int
    dropped: int
    tokenizer_sha256: str
    content: list[int]


def read_packed(path: Path) -> Packed:
    """A packed file as it is, for whatever program.

    Raises:
        UserError: damaged, of another version, or no packed file.
    """
    data = read_bounded(path, DATA)
    if len(data) < _HEADER.size + _CRC.size or data[: len(MAGIC)] != MAGIC:
        raise UserError(f"{path} is not a file of `prge pack`")
    _, version, of, train, dev, dropped, size, tokenizer = _HEADER.unpack_from(data)
    if version != VERSION:
        raise UserError(f"{path} has version {version}, not {VERSION}; pack the data again")
    whole = len(data) == _HEADER.size + 4 * size + _CRC.size
    if not whole or zlib.crc32(data[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        raise UserError(f"{path} is damaged: its size or its checksum is another; pack or copy it again")
    return Packed(of, train, dev, dropped, tokenizer.hex(), np.frombuffer(data, "<i4", size, _HEADER.size).tolist())


def unpack(path: Path, manifest: Manifest) -> tuple[list[Example], list[Example], int]:
    """(training examples, dev examples, how many of the former were left out because they are in dev).

    Raises:
        UserError: as `read_packed`, or packed for a program with another tokenizer or form.
    """
    packed = read_packed(path)
    if packed.tokenizer_sha256 != manifest.tokenizer_sha256:
        raise UserError(f"{path} was packed with another tokenizer than the program's; pack the data again")
    if packed.form != form(manifest):
        raise UserError(
            f"{path} was packed for a program with another template, other labels or another bound of tokens; "
            "pack the data again"
        )
    try:
        examples, at = [], 0
        for _ in range(packed.train + packed.dev):
            example, at = _example(packed.content, at, manifest)
            examples.append(example)
        if at != len(packed.content) or not packed.train:
            raise ValueError
    except ValueError as e:
        raise UserError(f"{path} is damaged: what it holds are no examples of this program") from e
    return examples[: packed.train], examples[packed.train :], packed.dropped


def _example(content: Sequence[int], at: int, m: Manifest, candidate: bool = False) -> tuple[Example, int]:
    """The example at a place, and the place behind it; a ValueError where there is none."""
    label, targets, count, choices = content[at : at + 4]
    at += 4
    tokens = tuple(content[at : at + max(count, 0)])
    if not 0 < count == len(tokens) <= m.max_tokens or min(tokens) < 0 or max(tokens) >= m.architecture.vocabulary:
        raise ValueError
    if choices < 0 or (choices > 0) != (bool(m.choices) and not candidate):
        raise ValueError
    if m.objective == "label-words":
        once = m.answer_at != "mask" or tokens.count(m.mask_token or 0) == 1
        fits = once and targets == 0 and 0 <= label < len(m.labels)
    else:
        fits = 0 < targets <= min(m.max_targets, count - 1) and (0 <= label < choices if choices else label == -1)
    if not fits:
        raise ValueError
    at, candidates = at + count, []
    for _ in range(choices):
        one, at = _example(content, at, m, candidate=True)
        candidates.append(one)
    return Example(tokens, label, targets, tuple(candidates)), at
