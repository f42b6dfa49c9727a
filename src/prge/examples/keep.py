"""Which records have something to learn: missing texts and labels, labels in several spellings, and stray ones."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from prge.errors import UserError
from prge.examples.form import Form, Numbered, template_columns
from prge.examples.json_rows import RecordNumber
from prge.examples.read import Record

# What programs write where there is nothing.
_MISSING = {"", "nan", "NaN", "null", "NULL", "N/A", "#N/A", "<NA>"}
# A label that occurs once is a mistake where the others occur so often, by their median.
_OFTEN = 10


@dataclass(frozen=True)
class Classes:
    """The classes in a column.

    Attributes:
        names: of all, each in its commonest spelling.
        spellings: name -> (spelling, how often it occurs) of those that are written in several ways.
        strays: labels that occur once where the others are common; they are no classes.
    """

    names: list[str]
    spellings: dict[str, list[tuple[str, int]]]
    strays: list[str]


def classes_of(cells: Iterable[str]) -> Classes:
    """The classes of a column's cells."""
    counts = Counter(cell for cell in cells if not is_missing(cell))
    groups: dict[str, list[str]] = {}
    for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0] != item[0].strip(), item[0])):
        groups.setdefault(_folded(label), []).append(label)
    sizes = {spelled[0]: sum(counts[label] for label in spelled) for spelled in groups.values()}
    strays = [name for name, size in sizes.items() if size == 1 and _common(sizes.values())]
    names = [name for name in sizes if name not in strays]
    spellings = {each[0]: [(label, counts[label]) for label in each] for each in groups.values() if len(each) > 1}
    return Classes(names, spellings, strays)


def is_missing(label: str) -> bool:
    """Whether a label is none, but stands for a missing one."""
    return label.strip() in _MISSING


def _folded(label: str) -> str:
    return " ".join(label.split()).casefold()


def _common(sizes: Iterable[int]) -> bool:
    others = [size for size in sizes if size > 1]
    return len(others) >= 2 and statistics.median(others) >= _OFTEN


@dataclass
class Kept:
    """The records with something to learn.

    Attributes:
        records: with the classes as the form names them.
        left_out: reason -> the numbers of the others.
        merged: class -> the numbers of those in which it was written in another way.
    """

    records: list[Numbered] = field(default_factory=list)
    left_out: dict[str, list[int]] = field(default_factory=dict)
    merged: dict[str, list[int]] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """How many were left out."""
        return sum(map(len, self.left_out.values()))

    @property
    def told(self) -> list[str]:
        """What a user should know of it, in sentences."""
        out = [f"left out for {why}: {counted(numbers)}" for why, numbers in self.left_out.items()]
        return out + [f"read as {name!r}, which they spell otherwise: {counted(n)}" for name, n in self.merged.items()]


def counted(numbers: Sequence[int]) -> str:
    """How many rows, and where the first of them are."""
    word = "record" if isinstance(numbers[0], RecordNumber) else "line"
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"{len(numbers):,} row{'s' * (len(numbers) > 1)} ({word}{'s' * (len(numbers) > 1)} {shown})"


def keep(form: Form, records: Sequence[Numbered], where: object) -> Kept:
    """The records that a form can learn from.

    Left out are those without a label, without a text or without an answer, and labels that are `Classes.strays` and no
    class of the form. A label that differs from one class alone by case or white space is that class.

    Raises:
        UserError: none is left, although there are some.
    """
    column, names = form.label_column, [name for name, _ in form.labels]
    known = {_folded(name): name for name in names} if len({_folded(n) for n in names}) == len(names) else {}
    chosen = bool(form.labels or form.choices) and any(not is_missing(_cell(r, column)) for _, r in records)
    strays: set[str] = set()
    if form.labels and not form.task:
        strays = set(classes_of(_cell(record, column) for _, record in records).strays) - set(names)
    found = Kept()
    for number, record in records:
        label = _cell(record, column)
        why = _lack(form, record)
        if chosen and label not in names and is_missing(label):
            why = "having no label"
        elif label in strays and _folded(label) not in known:
            why = f"a label that occurs once, {label!r}"
        if why:
            found.left_out.setdefault(why, []).append(number)
            continue
        if form.labels and label not in names and _folded(label) in known:
            name = known[_folded(label)]
            found.merged.setdefault(name, []).append(number)
            record = {**record, column: name}
        found.records.append((number, record))
    if records and not found.records:
        raise UserError(f"{where}: nothing is left to learn from: {'; '.join(found.told)}")
    return found


def _cell(record: Record, column: str) -> str:
    value = record.get(column, "")
    return value if isinstance(value, str) else str(value)


def _lack(form: Form, record: Record) -> str:
    """What a record lacks, of what the form learns from."""
    for template, what in ((form.target, "an empty answer"), (form.template, "an empty text")):
        columns = template_columns(template)
        if columns and all(record.get(name) == "" for name in columns):
            return what
    return ""
