"""Tables as rows: which sign separates the cells, whether there is a header, and what the columns are without one."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from prge.errors import UserError
from prge.examples.columns import KNOWN, Column, key
from prge.files.bounded import TEXT

Cells = list[str]

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# So many rows tell the separator and the columns.
_LOOK = 1000


@dataclass(frozen=True)
class Expected:
    """What a program knows of the tables that it takes; empty where a form is still to be inferred.

    Attributes:
        columns: the names that a header would have, and the columns of a table without one; the label's is the last.
        aliases: more names that a header may have.
        labels: names of classes, which tell the label's column.
    """

    columns: Sequence[str] = ()
    aliases: Collection[str] = ()
    labels: Collection[str] = ()


def table_rows(
    where: object, text: str, usual: str, expected: Expected
) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
    """The rows of a table, each with the number of its line, and what is worth saying of how it was read.

    Args:
        usual: the separator that a file of this name has. With tabs, quotes are part of the text.

    Raises:
        UserError: a row has more or fewer cells than the others, or a quote is never closed (with the line).
    """
    notes = list[str]()
    first = text.partition("\n")[0].strip()
    named = first[4:] if first.startswith("sep=") and first[4:] in SEPARATORS else ""  # as Excel begins some
    separator = named or _separator(text, usual)
    if separator != usual:
        notes.append(f"the cells are separated by {SEPARATORS.get(separator, repr(separator))}")
    lines = _cells(where, text, separator)
    if named:
        next(lines)
    rows = list(lines)
    if not rows:
        return [], notes
    head, *rest = (cells for _, cells in rows[:_LOOK])
    if _is_header(head, rest, usual, expected):
        names = [name.strip() for name in head]
        rows = rows[1:]
        if not (expected.columns or _has_known(names)):
            notes.append("the first line is taken for the columns' names; if it is none, put one with names before it")
    else:
        names = _names([head, *rest], expected)
        shown = ", ".join(f"{name} ({cell[:30]!r} ...)" for name, cell in zip(names, head, strict=False))
        notes.append(
            f"there is no header; the columns are taken for {shown}; to name them yourself, put a line with their "
            f"names first, as {separator.join(names)!r}"
        )
    twice = [name for name, n in Counter(names).items() if n > 1 and name]
    if twice:
        raise UserError(f"{where}: two columns are called {twice[0]!r}; give each a name of its own")
    for number, cells in rows:
        if len(cells) != len(names):
            raise UserError(
                f"{where}, line {number}: {len(cells)} columns where {len(names)} were expected ({', '.join(names)})"
            )
    return [(number, dict(zip(names, cells, strict=True))) for number, cells in rows], notes


def _cells(where: object, text: str, separator: str) -> Iterator[tuple[int, Cells]]:
    # In a table with tabs only these separate: quotes are part of the text.
    quoting: Any = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(TEXT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting, strict=True)
    try:
        yield from ((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as e:
        raise UserError(f"{where}, line {reader.line_num}: {e}") from e


def _separator(text: str, usual: str) -> str:
    """The sign that gives all rows as many cells as the first; the usual one if it does."""
    head = "\n".join(text.split("\n", _LOOK)[:_LOOK])
    best, most = usual, (0.0, False, 0)
    for sign in SEPARATORS:
        try:
            counts = [len(cells) for _, cells in _cells("", head, sign)]
        except UserError:
            continue
        if not counts or counts[0] < 2:
            continue
        like = sum(n == counts[0] for n in counts) / len(counts)
        rank = (like, sign == usual, counts[0])
        if like > 0.9 and rank > most:
            best, most = sign, rank
    return best


def _is_header(head: Cells, rest: Sequence[Cells], usual: str, expected: Expected) -> bool:
    names = [name.strip() for name in head]
    if set(names) & {*expected.columns, *expected.aliases}:
        return True
    if expected.columns:  # a program's: a table with tabs may well have none
        return usual == "," and _looks_like_names(names, rest)
    return _has_known(names) or _looks_like_names(names, rest)


def _has_known(names: Cells) -> bool:
    """Whether one of the names is a usual one, or ends in one."""
    return any(key(name) in KNOWN or key(name).rpartition(" ")[2] in KNOWN for name in names)


def _looks_like_names(names: Cells, rest: Sequence[Cells]) -> bool:
    """Whether cells are names of columns: short, no numbers, no two alike, and none a value further down."""
    held = [name for name in names if name]
    words = 5 if len(names) > 1 else 2  # one column alone is mostly a list of texts
    if len(set(held)) < len(held) or any(len(name) > 60 or len(name.split()) > words for name in names):
        return False
    if any(_is_number(name) for name in names):
        return False
    return not any(cell == row[i] for row in rest for i, cell in enumerate(names) if cell and i < len(row))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _names(rows: Sequence[Cells], expected: Expected) -> list[str]:
    """Names for the columns of a table without a header."""
    width = len(rows[0])
    columns = [Column(str(i), [row[i] if i < len(row) else "" for row in rows]) for i in range(width)]
    label = _label(columns, expected.labels)
    if len(expected.columns) == width:
        names = list(expected.columns)
        if label is not None and expected.labels:
            names.insert(label, names.pop())
        return names
    texts = [i for i, column in enumerate(columns) if i != label and column.free]
    names = [f"column{i + 1}" for i in range(width)]
    if len(texts) == 1:
        names[texts[0]] = "text"
    if texts and label is not None and (not expected.columns or "label" in expected.columns):
        names[label] = "label"
    return names


def _label(columns: Sequence[Column], labels: Collection[str]) -> int | None:
    """The column of the classes: whose cells are known ones, or far the fewest different ones."""
    if labels:
        shares = [sum(cell.strip() in labels for cell in column.cells) for column in columns]
        return shares.index(max(shares)) if max(shares) else None
    found = sorted((len(column.values), i) for i, column in enumerate(columns) if column.classes)
    if not found or (len(found) > 1 and found[1][0] < 3 * found[0][0]):
        return None
    return found[0][1]
