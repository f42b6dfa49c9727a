"""Hidden states of the frozen part, kept: computed once for all examples, in a file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prge.cost import cache_bytes
from prge.errors import UserError
from prge.examples.rows import Example
from prge.files.checked import scratch_of
from prge.files.large import LargeTensor, Rows, write_large
from prge.manifest import Manifest
from prge.options import parse_bytes
from prge.runtime_driver.data.packed import digest

HIDDEN_FILE = "hidden.safetensors"
# With the one that is being written.
HIDDEN_FILES = (HIDDEN_FILE, scratch_of(Path(HIDDEN_FILE)).name)
# The name of a file in a folder that runs share: of which program, and of which examples.
SHARED_NAME = re.compile(r"hidden-[0-9a-f]{8}-[0-9a-f]{8}\.safetensors")
_VERSION = "1"

# Bytes that hidden states may take where nobody says how many, and the share of the disk's free space.
_BUDGET, _SHARE = 4e9, 0.25


class HiddenStates:
    """The hidden states of all token rows of some examples.

    The file holds f32[N, H]. It has the states of every distinct row, one token after the other. The rows are in the
    order in which they occur first. What a row is padded to changes nothing here.
    """

    def __init__(self, path: Path, manifest: Manifest, examples: Sequence[Example]):
        """Open a file that `write_hidden` made. Its checksum is compared, which reads all of it once.

        Raises:
            UserError: missing, damaged, or made of another program or other examples.
        """
        self._states = open_hidden(path)
        rows, m, metadata = list(_distinct(examples)), manifest, self._states.metadata
        expected = (sum(map(len, rows)), m.architecture.hidden)
        if metadata != _described(m, examples) | {"crc": metadata["crc"]} or self._states.shape != expected:
            raise UserError(f"{path} holds the hidden states of other examples, or of another program")
        self._pad = m.pad_token
        self._places: dict[bytes, tuple[int, int]] = {}
        at = 0
        for row in rows:
            # Of rows that differ in padding tokens at their ends, the longest has the states of all.
            key = _key(np.array(row, dtype=np.int64), self._pad)
            if key not in self._places or self._places[key][1] < len(row):
                self._places[key] = at, len(row)
            at += len(row)

    def rows(self, tokens: Tensor) -> Tensor | None:
        """Hidden states f32[n, T, H] of rows of tokens i64[n, T], zeros at the padding; None if one is not there.

        Raises:
            UserError: the file cannot be read any more.
        """
        places = [self._places.get(_key(row, self._pad)) for row in tokens.numpy()]
        found = torch.zeros(*tokens.shape, self._states.shape[1])
        for place, out in zip(places, found.numpy(), strict=True):
            if place is None:
                return None
            self._states.read(place[0], out[: place[1]])
        return found


def open_hidden(path: Path) -> LargeTensor:
    """A file that `write_hidden` made, of any examples: f32[N, H].

    Raises:
        UserError: it is missing, damaged, or no such file.
    """
    return LargeTensor(path, "hidden", "a file of hidden states")


def kept_in(folder: Path, config: dict[str, Any]) -> Path | None:
    """The file of a run's hidden states, by the run's description; None where it keeps none."""
    cache = config["data"]["cache"]
    return folder / cache if cache else None


@dataclass(frozen=True)
class Keeping:
    """Where hidden states are kept, if they are.

    Attributes:
        folder: a folder that runs share; None for the run's own.
        budget: bytes that they may take; 0 to keep none. None for 4 GB, and at most a quarter of the free space.
    """

    folder: Path | None = None
    budget: float | None = None

    @classmethod
    def parse(cls, text: str) -> Keeping:
        """'off', a size as '2GB', or a folder."""
        if text == "off":
            return cls(budget=0.0)
        if text[:1].isdigit() and text[-2:].upper() in ("MB", "GB"):
            return cls(budget=parse_bytes(text))
        if not text:
            raise UserError("--cache takes a size as 2GB, a folder, or off")
        return cls(Path(text))

    def file(self, folder: Path, manifest: Manifest, examples: Sequence[Example]) -> Path | None:
        """The file for a run in ``folder``; None where the states need more than the budget.

        Raises:
            UserError: the folder cannot be written.
        """
        if self.budget == 0:
            return None
        place = self.folder.resolve() if self.folder else folder
        name = f"hidden-{manifest.frozen_sha256[:8]}-{digest(examples)}.safetensors" if self.folder else HIDDEN_FILE
        try:
            place.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(place).free
        except OSError as e:
            raise UserError(f"{place} cannot be written: {e.strerror}") from e
        budget = min(_BUDGET, _SHARE * free) if self.budget is None else self.budget
        there = (place / name).is_file()  # its space is not counted twice
        needed = cache_bytes(manifest, sum(map(len, _distinct(examples))))
        return place / name if there or needed <= budget else None


def write_hidden(
    path: Path,
    manifest: Manifest,
    examples: Sequence[Example],
    states: Callable[[Tensor], Tensor],
    progress: Callable[[int, int], None],
) -> None:
    """Compute the hidden states of all token rows, and write them.

    The rows are taken by length, as many at a time as an execution takes. So the bits depend on the examples alone.

    Args:
        states: gives those of rows of tokens i64[n, T], f32[n, T, H].
        progress: hears how many of the tokens are done, and of how many.

    Raises:
        OSError: when the file cannot be written.
    """
    m, rows = manifest, list(_distinct(examples))
    starts = [0, *np.cumsum([len(row) for row in rows]).tolist()]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))

    def fill(put: Callable[[int, Rows], None]) -> None:
        done = 0
        for start in range(0, len(order), m.frozen_rows):
            part = order[start : start + m.frozen_rows]
            length = max(m.min_tokens, len(rows[part[-1]]))
            tokens = torch.full((len(part), length), m.pad_token, dtype=torch.int64)
            for row, i in zip(tokens, part, strict=True):
                row[: len(rows[i])] = torch.tensor(rows[i])
            for i, hidden in zip(part, states(tokens), strict=True):
                put(starts[i], hidden[: len(rows[i])].numpy())
                done += len(rows[i])
            progress(done, starts[-1])

    write_large(path, "hidden", (starts[-1], m.architecture.hidden), _described(m, examples), fill)


def _described(manifest: Manifest, examples: Iterable[Example]) -> dict[str, str]:
    return {"hidden": _VERSION, "frozen_sha256": manifest.frozen_sha256, "examples": digest(examples)}


def _distinct(examples: Iterable[Example]) -> Iterator[tuple[int, ...]]:
    """Every token row once, in the order of first occurrence; of an example with candidates, theirs."""
    return iter(dict.fromkeys(row.tokens for e in examples for row in e.rows))


def _key(row: np.ndarray[tuple[int, ...], np.dtype[np.int64]], pad: int) -> bytes:
    """A row without the padding at its end."""
    held = np.flatnonzero(row != pad)
    return row[: held[-1] + 1 if len(held) else 0].tobytes()
