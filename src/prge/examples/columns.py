"""What the columns of a file hold."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from prge.examples.lists import as_one, is_answer, is_class
from prge.examples.names import IDS, KNOWN, key

# A class is at most so long, in letters.
_NAME = 40


class Column:
    """A column of texts.

    Attributes:
        name: as the file has it.
        cells: its texts in the order of the rows; empty where one is missing.
    """

    def __init__(self, name: str, cells: Sequence[str]):
        self.name, self.cells = name, cells

    @cached_property
    def values(self) -> Counter[str]:
        """The different texts, as they are compared, and how often each occurs. Missing ones are none."""
        return Counter(cell.strip() for cell in self.cells if cell.strip())

    @cached_property
    def words(self) -> float:
        """The mean number of words."""
        total = self.values.total()
        return sum(n * len(text.split()) for text, n in self.values.items()) / total if total else 0.0

    @cached_property
    def numbers(self) -> bool:
        """Whether all are numbers."""
        return bool(self.values) and all(re.fullmatch(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", text) for text in self.values)

    @property
    def constant(self) -> bool:
        return len(self.values) < 2

    @property
    def identifies(self) -> bool:
        """Whether it only tells the rows apart, or when and where they are from."""
        distinct = len(self.values) > 0.9 * len(self.cells)
        coded = all(
            re.fullmatch(r"[!-~]*\d[!-~]*", text) and not re.fullmatch(r"-?\d*\.\d+", text) for text in self.values
        )
        name = key(self.name)
        numbering = bool({name, name.rpartition(" ")[2]} & IDS) and not is_class(self.name)
        return numbering or (distinct and len(self.values) > 4 and coded)

    @cached_property
    def short(self) -> bool:
        """Whether it has a few short texts that recur: it may be a class, or an answer that is one."""
        few = 2 <= len(self.values) <= min(max(20, self.values.total() // 4), self.values.total() // 2)
        return few and max(map(len, self.values)) <= _NAME

    @property
    def classes(self) -> bool:
        """Whether it may be a class, whatever its name is."""
        return self.short and not self.identifies

    @property
    def free(self) -> bool:
        """Whether people wrote it: it is no number, no class and no key."""
        return not (self.constant or self.numbers or self.identifies) and (self.words >= 2 or not self.short)


class Columns:
    """The columns of a file that hold text alone.

    Attributes:
        rows: the file's rows. Other columns hold lists and objects.
        names: of all columns.
    """

    def __init__(self, rows: Sequence[dict[str, Any]]):
        self.rows = rows
        self.names = list(dict.fromkeys(name for row in rows for name in row if name))
        self._all: dict[str, Column] = {}
        for name in self.names:
            cells = [row.get(name, "") for row in rows]
            if is_class(name) or is_answer(name):
                cells = [as_one(name, cell) for cell in cells]
            texts = [cell if isinstance(cell, str) else "" for cell in cells]
            # A few rows with something else do not change what the column is.
            if len(rows) - sum(isinstance(cell, str) for cell in cells) <= len(rows) // 20:
                self._all[name] = Column(name, texts)
        self._by_key: dict[str, str] = {}
        for name in self._all:
            self._by_key.setdefault(key(name), name)

    def __getitem__(self, name: str) -> Column:
        return self._all[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all

    def __iter__(self) -> Any:
        return iter(self._all.values())

    def find(self, known: str) -> str | None:
        """The column that has a usual name, in whatever spelling; None where there is none or it is empty."""
        name = self._by_key.get(known)
        return name if name is not None and self._all[name].values else None

    def first(self, known: Iterable[str]) -> str | None:
        """The first of the usual names that there is; else a column whose last word is one, as in 'Tweet text'."""
        names = list(known)
        exact = next((name for name in map(self.find, names) if name), None)
        if exact:
            return exact
        ends = {
            k.rpartition(" ")[2]: name
            for k, name in reversed(self._by_key.items())
            if " " in k and k not in KNOWN and self._all[name].values
        }
        return next((ends[name] for name in names if name in ends), None)

    def several(self, name: str) -> list[str]:
        """The first of a column's cells that is a list of several; empty where there is none."""
        lists = (row.get(name) for row in self.rows)
        return next((each for each in lists if isinstance(each, list) and len(each) > 1), [])
