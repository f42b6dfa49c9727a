"""Packed files: the examples of one program, its training and its dev set, as 32-bit words.

Two drivers that read the same words make the same run. docs/run-folder.md gives the layout.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prge.errors import UserError
from prge.examples.rows import Example
from prge.files.checked import load_checked, save_checked
from prge.files.typed import parse, parse_json
from prge.manifest import Manifest

VERSION = "1"

# The beginning of the metadata, by which a packed file is known.
_MARK = b'{"__metadata__":{"packed":'


def words(examples: Iterable[Example]) -> Iterator[int]:
    """The words of each example: its label, targets, number of tokens, number of candidates, and its tokens.

    The words of its candidates follow in the same way.
    """
    for e in examples:
        yield from (e.label, e.targets, len(e.tokens), len(e.candidates), *e.tokens)
        yield from words(e.candidates)


def digest(examples: Iterable[Example]) -> str:
    """CRC-32 of the examples' words (little-endian), in hex: equal examples have the same."""
    return f"{zlib.crc32(_tensor(examples).numpy().tobytes()):08x}"


def _tensor(examples: Iterable[Example]) -> Tensor:
    return torch.from_numpy(np.fromiter(words(examples), "<i4"))


def form(manifest: Manifest) -> str:
    """CRC-32, in hex, of all in the manifest that decides which examples a text becomes; the tokenizer is apart."""
    m = manifest
    texts = [m.objective, m.template, m.target, m.label_column, m.choices, m.chat_template, m.answer_at]
    texts += [str(-1 if m.mask_token is None else m.mask_token), str(m.max_tokens), str(m.max_targets)]
    texts += [*(label.name for label in m.labels), *map(str, m.stop_tokens)]
    whole = b"".join(text.encode() + b"\0" for text in texts)
    return f"{zlib.crc32(whole):08x}"


def pack(path: Path, manifest: Manifest, train: Sequence[Example], dev: Sequence[Example], dropped: int) -> None:
    """Write a packed file. If that is interrupted, the file that was there before stays.

    Args:
        dropped: how many training examples were left out because they are in dev.

    Raises:
        UserError: it cannot be written.
    """
    counts = {"train": len(train), "dev": len(dev), "dropped": dropped}
    described = {"packed": VERSION, "tokenizer_sha256": manifest.tokenizer_sha256, "form": form(manifest)}
    described |= {name: str(count) for name, count in counts.items()}
    try:
        save_checked(path, {"words": _tensor([*train, *dev])}, described)
    except OSError as e:
        raise UserError(f"{path} cannot be written: {e.strerror}") from e


def is_packed(path: Path) -> bool:
    """Whether a file begins like a packed file."""
    try:
        with path.open("rb") as f:
            return f.read(8 + len(_MARK))[8:] == _MARK
    except OSError:
        return False


def read_packed(path: Path) -> tuple[dict[str, str], list[int], list[int]]:
    """Read a packed file, of any program.

    Returns:
        its metadata; how many training examples it holds, how many of dev, and how many were left out; and its words.

    Raises:
        UserError: it is damaged, of another version, or no packed file.
    """
    tensors, metadata = load_checked(path, "a file of `prge pack`", required=True)
    version, content = metadata.get("packed"), tensors.get("words")
    if version is None or content is None or content.dtype != torch.int32 or content.dim() != 1:
        raise UserError(f"{path} is not a file of `prge pack`")
    if version != VERSION:
        raise UserError(f"{path} has version {version}, not {VERSION}; pack the data again")
    try:
        counts = [parse(int, parse_json(metadata[name])) for name in ("train", "dev", "dropped")]
    except (KeyError, ValueError) as e:
        raise UserError(f"{path} is damaged: it does not say how many examples it holds") from e
    return metadata, counts, content.tolist()


def unpack(path: Path, manifest: Manifest) -> tuple[list[Example], list[Example], int]:
    """Read the packed file of a program.

    Returns:
        training examples, dev examples, and how many of the former were left out because they are in dev.

    Raises:
        UserError: as `read_packed`, or it was packed for a program with another tokenizer or form.
    """
    metadata, (train, dev, dropped), content = read_packed(path)
    if metadata.get("tokenizer_sha256") != manifest.tokenizer_sha256:
        raise UserError(f"{path} was packed with another tokenizer than the program's; pack the data again")
    if metadata.get("form") != form(manifest):
        raise UserError(
            f"{path} was packed for a program with another template, other labels or another bound of tokens; "
            "pack the data again"
        )
    try:
        examples, at = [], 0
        for _ in range(train + dev):
            example, at = _example(content, at, manifest)
            examples.append(example)
        if at != len(content) or not 0 < train <= len(examples) or not 0 <= dropped < 2**31:
            raise ValueError
    except ValueError as e:
        raise UserError(f"{path} is damaged: what it holds are no examples of this program") from e
    return examples[:train], examples[train:], dropped


def _example(content: Sequence[int], at: int, m: Manifest, candidate: bool = False) -> tuple[Example, int]:
    """(the example that begins at a word, index of the word behind it); a ValueError if there is none."""
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
