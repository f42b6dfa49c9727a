"""JSON as rows: an array, JSON Lines, objects one after the other, any of these in an object, or cells by column."""

from __future__ import annotations

import json
import re
from typing import Any

from prge.errors import UserError
from prge.files.typed import parse_json

Row = dict[str, Any]

_BETWEEN = re.compile(r"[\s,]*")


class RecordNumber(int):
    """The number of a record, where it has no line of its own."""


def is_json(text: str) -> bool:
    """Whether a text begins as JSON's rows do."""
    return text.lstrip()[:1] in ("[", "{")


def json_rows(where: object, text: str) -> list[tuple[int, Row]]:
    """The rows, each with the number of its line; in an array, with its own.

    Raises:
        UserError: it is not JSON, or its values are no objects. The message has the line, where there is one.
    """
    if text.lstrip().startswith("["):
        try:
            return _numbered(where, parse_json(text))
        except ValueError as e:
            if not _alone(text):
                raise UserError(f"{where}: not JSON ({e})") from e
    rows = _lines(where, text) if _alone(text) else _objects(where, text)
    if len(rows) == 1 and isinstance(rows[0][1], dict):
        inside = _by_column(rows[0][1]) or _unwrapped(where, rows[0][1])
        return _numbered(where, inside) if inside is not None else rows
    return rows


def _alone(text: str) -> bool:
    """Whether the first line is JSON by itself."""
    try:
        parse_json(text.lstrip().partition("\n")[0])
    except ValueError:
        return False
    return True


def _numbered(where: object, rows: Any) -> list[tuple[int, Row]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UserError(f"{where}, record {number}: a list of JSON objects was expected, and this is {_short(row)}")
    return [(RecordNumber(number), row) for number, row in enumerate(rows, 1)]


def _lines(where: object, text: str) -> list[tuple[int, Row]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as e:
            raise UserError(f"{where}, line {number}: not a JSON object ({e})") from e
        if not isinstance(row, dict):
            raise UserError(f'{where}, line {number}: a JSON object was expected, as {{"text": ..., "label": ...}}')
        rows.append((number, row))
    return rows


def _objects(where: object, text: str) -> list[tuple[int, Row]]:
    """Objects over several lines, with or without commas between them."""
    decoder, rows, at, line = json.JSONDecoder(), list[tuple[int, Row]](), 0, 1
    while True:
        start = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", at, start)
        if start == len(text):
            return rows
        try:
            _, at = decoder.raw_decode(text, start)
            row = parse_json(text[start:at])
        except (ValueError, RecursionError) as e:
            inside = e.lineno if isinstance(e, json.JSONDecodeError) else line
            raise UserError(f"{where}, line {inside}: not JSON ({e})") from e
        if not isinstance(row, dict):
            raise UserError(f"{where}, line {line}: a JSON object was expected, and this is {_short(row)}")
        rows.append((line, row))
        line += text.count("\n", start, at)


def _unwrapped(where: object, row: Row) -> list[Row] | None:
    """The rows in an object that wraps them; None for an object that is a row itself."""
    lists = {name: value for name, value in row.items() if _holds_rows(value)}
    if not lists or any(_is_turn(value[0]) for value in lists.values()):
        return None
    if len(lists) > 1:
        raise UserError(
            f"{where} holds several lists ({', '.join(lists)}): put the one to learn from into a file of its own"
        )
    (found,) = lists.values()
    return found


def _by_column(row: Row) -> list[Row] | None:
    """The rows of a table that pandas wrote: of each column, the cells by the number of their row."""
    columns = list(row.values())
    if not columns or not all(isinstance(cells, dict) and cells.keys() == columns[0].keys() for cells in columns):
        return None
    if not all(number.isdecimal() for number in columns[0]):
        return None
    return [{name: cells[number] for name, cells in row.items()} for number in columns[0]]


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)


def _is_turn(row: Row) -> bool:
    """Whether it is a message of a conversation, or one of its tools."""
    return bool(row.keys() & {"role", "from", "speaker", "function"})


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
