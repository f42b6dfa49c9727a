"""What the columns of a file hold, and the names that columns usually have."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

# Usual names, the likeliest first, as `key` writes them.
TEXTS = (
    "text", "sentence", "content", "review", "message", "body", "utterance", "document", "tweet", "comment", "article",
    "post", "dialogue", "passage",
)  # fmt: skip
TITLES = ("title", "subject", "headline", "description")
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence 1", "sentence 2"), ("question1", "question2"),
    ("text1", "text2"), ("text a", "text b"), ("passage", "question"), ("context", "question"),
    ("question", "sentence"),
)  # fmt: skip
LABELS = (
    "label text", "label name", "label", "labels", "class", "category", "sentiment", "intent", "topic", "emotion",
    "stars", "rating", "genre",
)  # fmt: skip
CONTEXTS = ("context", "passage", "background", "ctx")
PROMPTS = ("instruction", "prompt", "question", "query", "input", "inputs", "source", "problem", "user", "human")
ANSWERS = (
    "output", "outputs", "response", "completion", "answer", "target", "targets", "summary", "highlights", "reply",
    "solution", "assistant", "chosen",
)  # fmt: skip
CHATS = ("messages", "conversations", "conversation")
CHOICES = ("choices", "options", "candidates", "endings")
KNOWN = {
    *TEXTS, *TITLES, *LABELS, *CONTEXTS, *PROMPTS, *ANSWERS, *CHATS, *CHOICES,
    *(name for pair in PAIRS for name in pair),
}  # fmt: skip
IDS = {"id", "idx", "index", "uid", "uuid", "guid", "qid", "row", "no", "number", "url", "link", "date", "time"}

# A class is at most so long, in letters.
_NAME = 40


def key(name: str) -> str:
    """A column's name as it is compared: ``Label_Text`` is ``label text``."""
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


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
        coded = all(re.fullmatch(r"\S*\d\S*", text) and not re.fullmatch(r"-?\d*\.\d+", text) for text in self.values)
        return key(self.name) in IDS or (distinct and len(self.values) > 4 and coded)

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
        self._all = {
            name: Column(name, [row.get(name, "") for row in rows])
            for name in self.names
            if all(isinstance(row.get(name, ""), str) for row in rows)
        }
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
            k.split()[-1]: name for k, name in reversed(self._by_key.items()) if " " in k and self._all[name].values
        }
        return next((ends[name] for name in names if name in ends), None)
