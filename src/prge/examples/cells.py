"""The cells of a table's lines: which sign separates them, and how they are quoted."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prge.errors import UserError
from prge.files.bounded import TEXT

Cells = list[str]
Line = tuple[int, Cells]

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
# So many lines tell the separator.
_LOOK = 1000

_PLAIN: dict[str, Any] = {"quoting": csv.QUOTE_MINIMAL}
_UNQUOTED: dict[str, Any] = {"quoting": csv.QUOTE_NONE}
_SPACED = {**_PLAIN, "skipinitialspace": True}
_ESCAPED = {**_PLAIN, "escapechar": "\\", "doublequote": False}


@dataclass
class Lines:
    """A table's lines.

    Attributes:
        lines: the cells of each, with its number. Empty lines are none.
        separator: what stands between the cells.
        notes: what is worth saying of how they were read, in sentences.
    """

    lines: list[Line]
    separator: str
    notes: list[str] = field(default_factory=list)


def cells_of(where: object, text: str, usual: str) -> Lines:
    """The lines of a table.

    Args:
        usual: the separator that a file of this name has.

    Raises:
        UserError: a quote is never closed, or a cell goes on behind its quote (with the line).
    """
    first = text.partition("\n")[0].strip()
    named = first[4:] if first.startswith("sep=") and first[4:] in SEPARATORS else ""  # as Excel begins some
    separator = named or separator_of(text, usual) or usual
    found = _unquoted(where, text, separator) if separator == "\t" else _quoted(where, text, separator)
    if separator != usual:
        found.notes.append(f"the cells are separated by {SEPARATORS[separator]}")
    if named:
        del found.lines[0]
    return found


def separator_of(text: str, usual: str) -> str:
    """The sign that gives all lines equally many cells; the usual one if it does; empty where none does."""
    head = "\n".join(text.split("\n", _LOOK)[:_LOOK])
    best, most = "", (0.0, False, 0)
    for sign in SEPARATORS:
        lines, _ = _read(head, sign, _UNQUOTED if sign == "\t" else _PLAIN)
        if not lines:
            continue
        width, count = _width(lines)
        rank = (count / len(lines), sign == usual, width)
        if width > 1 and rank[0] > 0.9 and rank > most:
            best, most = sign, rank
    return best


def _unquoted(where: object, text: str, separator: str) -> Lines:
    """In a table with tabs only these separate: quotes are part of the text, unless a program quoted all it needs."""
    lines, _ = _read(text, separator, _UNQUOTED)
    if '"' in text and lines:
        quoted, wrong = _read(text, separator, _PLAIN)
        names = all(cell[:1] == cell[-1:] == '"' and len(cell) > 1 for cell in lines[0][1])
        if not wrong and _regular(quoted) and (names or not _regular(lines)):
            return Lines(quoted, separator)
    return Lines(lines, separator)


def _quoted(where: object, text: str, separator: str) -> Lines:
    lines, wrong = _read(text, separator, _PLAIN)
    if wrong and '\\"' in text:
        escaped, also_wrong = _read(text, separator, _ESCAPED)
        if not also_wrong:
            return Lines(escaped, separator, ["quotes within the cells are written with a backslash"])
    if wrong:
        raise UserError(f"{where}, {wrong}")
    # A space before a quote makes the quote a part of the text, which nobody means where all have it.
    spaced = sum(any(cell.startswith(' "') and cell.endswith('"') for cell in cells[1:]) for _, cells in lines)
    if 2 * spaced > len(lines):
        skipped, also_wrong = _read(text, separator, _SPACED)
        if not also_wrong:
            return Lines(skipped, separator)
    return Lines(lines, separator)


def _read(text: str, separator: str, way: dict[str, Any]) -> tuple[list[Line], str]:
    """The lines, and what is wrong with the one behind them; empty if they are all."""
    csv.field_size_limit(TEXT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True, **way)
    lines: list[Line] = []
    try:
        lines.extend((reader.line_num, cells) for cells in reader if cells)
    except csv.Error as e:
        return lines, f"line {reader.line_num}: {e}"
    return lines, ""


def _width(lines: Sequence[Line]) -> tuple[int, int]:
    """The usual number of cells, and how many lines have it."""
    return Counter(len(cells) for _, cells in lines).most_common(1)[0]


def _regular(lines: Sequence[Line]) -> bool:
    return bool(lines) and _width(lines)[1] == len(lines)
