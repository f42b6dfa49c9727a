"""Which records have something to learn: missing texts and labels, labels in several spellings, and stray ones."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prge.errors import UserError
from prge.examples.contents import unit
from prge.examples.fit import caption
from prge.examples.form import Form, Numbered, template_columns
from prge.examples.lists import is_answer
from prge.examples.read import Part, Record

# What programs write where there is nothing.
_MISSING = {"", "nan", "NaN", "null", "NULL", "N/A", "#N/A", "<NA>"}
# A label that occurs once is a mistake where the others occur so often, by their median.
_OFTEN = 10


# So many classes are shown one by one.
_SHOWN = 5


@dataclass(frozen=True)
class Classes:
    """The classes in a column.

    Attributes:
        sizes: class, in its commonest spelling -> its rows, in any spelling.
        spellings: name -> (spelling, how often it occurs) of those that are written in several ways.
        strays: labels that occur once where the others are common; they are no classes.
    """

    sizes: dict[str, int]
    spellings: dict[str, list[tuple[str, int]]]
    strays: list[str]

    @property
    def names(self) -> list[str]:
        """The classes, each in its commonest spelling."""
        return list(self.sizes)


def classes_of(cells: Iterable[str]) -> Classes:
    """The classes of a column's cells."""
    counts = Counter(cell for cell in cells if not is_missing(cell))
    groups: dict[str, list[str]] = {}
    for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0] != item[0].strip(), item[0])):
        groups.setdefault(_folded(label), []).append(label)
    named = {(each[0].strip() if len(each) > 1 else each[0]): each for each in groups.values()}
    sizes = {name: sum(counts[label] for label in spelled) for name, spelled in named.items()}
    strays = [name for name, size in sizes.items() if size == 1 and _common(sizes.values())]
    spellings = {name: [(label, counts[label]) for label in each] for name, each in named.items() if len(each) > 1}
    return Classes({name: size for name, size in sizes.items() if name not in strays}, spellings, strays)


def classes_as_text(form: Form) -> str:
    """The column whose classes a form learns as text, because there are many; empty for any other form."""
    column = form.target[2:-1]
    asks = form.target == f" {{{column}}}" and form.template.endswith(f"\n{caption(column)}:")
    return column if asks and not form.task and not is_answer(column) else ""


def is_missing(label: str) -> bool:
    """Whether a label is none, but stands for a missing one."""
    return label.strip() in _MISSING


def _folded(label: str) -> str:
    whole = re.fullmatch(r"\s*(-?\d+)\.0+\s*", label)  # pandas writes 1 as 1.0 where another cell is empty
    return whole[1] if whole else " ".join(label.split()).casefold()


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
        told = list(self.merged.items())
        out += [f"read as {name!r}, which they spell otherwise: {counted(numbers)}" for name, numbers in told[:_SHOWN]]
        if more := told[_SHOWN:]:
            rows = sum(len(numbers) for _, numbers in more)
            out.append(f"read as {len(more):,} other classes, which they spell otherwise: {rows:,} rows")
        return out


def counted(numbers: Sequence[int]) -> str:
    """How many rows, and where the first of them are."""
    word = unit(numbers[0])
    shown = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"{len(numbers):,} row{'s' * (len(numbers) > 1)} ({word}{'s' * (len(numbers) > 1)} {shown})"


def read_kept(form: Form, data: Path | None, part: Part = "train") -> Kept:
    """The records of a file that a form can learn from. Rows that cannot be read are left out too.

    Raises:
        UserError: as `Form.read` and `keep`.
    """
    contents = form.read(data, part)
    found = keep(form, contents.rows, data or form.task)
    broken = {f"what cannot be read, {why.lstrip(', ')}": numbers for why, numbers in contents.broken.items()}
    return replace(found, left_out=broken | found.left_out)


def keep(form: Form, records: Sequence[Numbered], where: object) -> Kept:
    """The records that a form can learn from.

    Left out are those without a label, without a text or without an answer, and labels that are `Classes.strays` and no
    class of the form. A label that differs from one class alone by case or white space is that class; where classes are
    learned as text, it is read in its commonest spelling.

    Raises:
        UserError: none is left, although there are some.
    """
    texts = classes_as_text(form)
    column, names = texts or form.label_column, [name for name, _ in form.labels]
    if texts:
        names = classes_of(_cell(record, column) for _, record in records).names
    known = {_folded(name): name for name in names} if len({_folded(n) for n in names}) == len(names) else {}
    chosen = bool(names or form.choices) and any(not is_missing(_cell(r, column)) for _, r in records)
    strays: set[str] = set()
    if names and not form.task:
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
        if label not in names and _folded(label) in known:
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
