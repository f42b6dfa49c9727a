"""What JSON documents wrap rows in: objects with a list, pandas' tables by column or row, the hub's `row` objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prge.errors import UserError
from prge.examples.contents import Row
from prge.examples.names import IDS, key

# Names of the list to learn from, where there are several.
_ROWS = ("rows", "train", "training", "data", "examples", "instances", "items")
# Objects that hold all of a row beside what numbers it.
_INNER = ("row", "data", "example", "record", "sample", "fields", "item", "translation")


def unwrapped(where: object, whole: Row, notes: list[str]) -> list[Any] | None:
    """The rows in an object; None for an object that is a row itself.

    Args:
        notes: takes what is worth saying of it.

    Raises:
        UserError: there are several lists, and none is named as the one to learn from.
    """
    table = _table(whole)
    if table is not None:
        return table
    lists = {name: value for name, value in whole.items() if _holds_rows(value)}
    if not lists:
        objects = [value for value in whole.values() if isinstance(value, dict)]
        inside = len(objects) == 1 and any(_holds_rows(objects[0].get(name)) for name in _ROWS)
        return unwrapped(where, objects[0], notes) if inside else None
    if any(_is_turn(value[0]) for value in lists.values()):
        return None
    name = next(iter(lists))
    if len(lists) > 1:
        name = next((known for known in _ROWS if known in lists), "")
        if not name:
            raise UserError(
                f"{where} holds several lists ({', '.join(lists)}): put the one to learn from into a file of its own"
            )
        notes.append(f"of the lists {', '.join(lists)}, {name!r} is read")
    features = whole.get("features")
    return with_class_names(bare(lists[name]) or lists[name], features) if features else lists[name]


def bare(rows: Sequence[Row]) -> list[Row] | None:
    """What is in the one object that each row holds beside its number; None where rows are no such wrappers."""
    inner = [_inner(row) for row in rows]
    found = [row for row in inner if row is not None]
    return found if len(found) == len(inner) else None


def _inner(row: Row) -> Row | None:
    objects = {name: value for name, value in row.items() if isinstance(value, dict) and value}
    if len(objects) != 1 or next(iter(objects)) not in _INNER:
        return None
    rest = [name for name, value in row.items() if name not in objects and isinstance(value, str) and value]
    lists = any(isinstance(value, list) and value for value in row.values())
    return None if lists or any(key(name) not in IDS for name in rest) else next(iter(objects.values()))


def _table(whole: Row) -> list[Row] | None:
    """The rows of a table: by column or by the number of the row, as pandas writes them, or by their names."""
    values = list(whole.values())
    columns, data = whole.get("columns"), whole.get("data")
    if isinstance(columns, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        return [dict(zip(map(str, columns), row, strict=False)) for row in data]
    if len(values) < 2:
        return None
    if all(isinstance(cells, list) for cells in values):
        alike = len({len(cells) for cells in values}) == 1 and len(values[0]) > 1
        plain = not any(isinstance(cell, dict) for cells in values for cell in cells)
        return [dict(zip(whole, row, strict=True)) for row in zip(*values, strict=True)] if alike and plain else None
    if not all(isinstance(cells, dict) and cells and cells.keys() == values[0].keys() for cells in values):
        return None
    if all(number.isdecimal() for number in values[0]):
        return [{name: cells[number] for name, cells in whole.items()} for number in values[0]]
    return values if not any(isinstance(cell, (dict, list)) for row in values for cell in row.values()) else None


def cells_in(values: Sequence[Any]) -> list[list[str]] | None:
    """The cells of rows that are lists of texts and numbers; None where they are none."""
    plain = (str, int, float, type(None))
    if not values or not all(isinstance(row, list) and len(row) > 1 for row in values):
        return None
    if not all(isinstance(cell, plain) for row in values for cell in row):
        return None
    return [["" if cell is None else str(cell) for cell in row] for row in values]


def with_class_names(rows: Sequence[Row], features: Any) -> list[Row]:
    """Rows with the names of classes that a description of their columns has, in place of the classes' numbers.

    Args:
        features: the `datasets` library's: an object by column, or the hub's list of ``name`` and ``type``.
    """
    if isinstance(features, list):
        features = {f.get("name"): f.get("type") for f in features if isinstance(f, dict)}
    if not isinstance(features, Mapping):
        return list(rows)
    named = {
        column: kind["names"]
        for column, kind in features.items()
        if isinstance(kind, dict) and isinstance(kind.get("names"), list)
    }

    def name(column: str, value: Any) -> Any:
        names = named[column]
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else value

    return [row | {column: name(column, row.get(column)) for column in named if column in row} for row in rows]


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _is_turn(row: Row) -> bool:
    """Whether it is a message of a conversation, or one of its tools."""
    return bool(row.keys() & {"role", "from", "speaker", "function", "sender", "parts"})
