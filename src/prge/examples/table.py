"""Tables as rows: whether there is a header, what the columns are without one, and lines of another length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from prge.errors import UserError
from prge.examples.cells import Cells, Line, cells_of
from prge.examples.columns import Column
from prge.examples.contents import Contents
from prge.examples.names import KNOWN, key

# So many rows tell the columns.
_LOOK = 1000
# So many lines may stand before the header, as a title does.
_ABOVE = 5


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


def table_rows(where: object, text: str, usual: str, expected: Expected) -> Contents:
    """The rows of a table, each with the number of its line.

    Args:
        usual: the separator that a file of this name has.

    Raises:
        UserError: more than a few rows have more or fewer cells than the header, or a quote is never closed (with the
            line).
    """
    found = cells_of(where, text, usual)
    contents = named_rows(where, found.lines, usual, found.separator, expected)
    contents.notes[:0] = found.notes
    return contents


def named_rows(where: object, lines: Sequence[Line], usual: str, separator: str, expected: Expected) -> Contents:
    """Lines of cells as rows by column name.

    Args:
        usual, separator: what separates cells in a file of this name, and in this one.

    Raises:
        UserError: as `table_rows`.
    """
    contents = Contents()
    lines = _below_title(lines, expected, contents.notes)
    if not lines:
        return contents
    head, *rest = (cells for _, cells in lines[:_LOOK])
    head = [name.strip() for name in head]
    if _is_header(head, rest, usual, expected):
        names = head
        lines = lines[1:]
        if not (expected.columns or _has_known(names)):
            contents.notes.append(
                "the first line is taken for the columns' names; if it is none, put one with names before it"
            )
    else:
        if [name for name in head if name] == [str(i) for i in range(len([n for n in head if n]))]:
            lines = lines[1:]  # as pandas numbers columns without names
            head, *rest = ([cells for _, cells in lines[:_LOOK]]) or [head]
        names = _names([head, *rest], expected)
        shown = ", ".join(f"{name} ({cell[:30]!r} ...)" for name, cell in zip(names, head, strict=False))
        contents.notes.append(
            f"there is no header; the columns are taken for {shown}; to name them yourself, put a line with their "
            f"names first, as {separator.join(names)!r}"
        )
    twice = [name for name, n in Counter(names).items() if n > 1 and name]
    if twice:
        raise UserError(f"{where}: two columns are called {twice[0]!r}; give each a name of its own")
    longer = False
    for number, cells in lines:
        if not any(cells[len(names) :]):  # separators at a line's end
            cells = cells[: len(names)]
        if len(cells) == len(names):
            contents.rows.append((number, dict(zip(names, cells, strict=True))))
            continue
        longer |= len(cells) > len(names)
        contents.leave_out(number, f"{len(cells)} columns where {len(names)} were expected ({', '.join(names)})")
    sign = {"\t": "tab", " ": "space"}.get(separator, separator)
    contents.check(where, help=f'; put a text with a {sign} in it between quotes ("...")' if longer else "")
    return contents


def _below_title(lines: Sequence[Line], expected: Expected, notes: list[str]) -> Sequence[Line]:
    """The lines from the header on, where a title or a comment stands above it."""
    if not lines:
        return lines
    width = Counter(len(cells) for _, cells in lines).most_common(1)[0][0]
    for i, (number, cells) in enumerate(lines[: _ABOVE + 1]):
        if len(cells) == width or len(cells) > 1:
            known = {name.strip() for name in cells} & {*expected.columns, *expected.aliases}
            if i and len(cells) == width and (known or _has_known(cells)):
                notes.append(f"line {number} is taken for the header; what stands above it is not read")
                return lines[i:]
            return lines
    return lines


def _is_header(names: Cells, rest: Sequence[Cells], usual: str, expected: Expected) -> bool:
    if set(names) & {*expected.columns, *expected.aliases}:
        return True
    if expected.columns:  # a program's: a table with tabs may well have none
        return usual == "," and _looks_like_names(names, rest)
    return (_has_known(names) and not _recurs(names, rest)) or _looks_like_names(names, rest)


def _has_known(names: Cells) -> bool:
    """Whether one of the names is a usual one; or ends in one, and no other is a number."""
    keys = [key(name) for name in names]
    if any(name in KNOWN for name in keys):
        return True
    return not any(map(_is_number, names)) and any(name.rpartition(" ")[2] in KNOWN for name in keys)


def _looks_like_names(names: Cells, rest: Sequence[Cells]) -> bool:
    """Whether cells are names of columns: short, no numbers, no two alike, and none a value further down."""
    held = [name for name in names if name]
    words = 5 if len(names) > 1 else 2  # one column alone is mostly a list of texts
    if len(set(held)) < len(held) or any(len(name) > 60 or len(name.split()) > words for name in names):
        return False
    return not any(map(_is_number, names)) and not _recurs(names, rest)


def _recurs(names: Cells, rest: Sequence[Cells]) -> bool:
    """Whether a name is a value further down its column, too."""
    return any(cell == row[i] for row in rest for i, cell in enumerate(names) if cell and i < len(row))


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
