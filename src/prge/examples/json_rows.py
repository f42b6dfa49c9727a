"""JSON as rows: an array, JSON Lines, objects one after the other, or any of these in an object."""

from __future__ import annotations

import json
import re
from typing import Any

from prge.errors import UserError
from prge.examples.contents import Contents, RecordNumber
from prge.examples.json_shapes import bare, cells_in, unwrapped
from prge.examples.table import Expected, named_rows
from prge.files.typed import parse_json

_BETWEEN = re.compile(r"[\s,]*")
_EXAMPLE = 'a JSON object was expected, as {"text": ..., "label": ...}'


def is_json(text: str) -> bool:
    """Whether a text begins as JSON's rows do."""
    return text.lstrip()[:1] in ("[", "{")


def json_rows(where: object, text: str, expected: Expected = Expected()) -> Contents:
    """The rows, each with the number of its line; in an array, with its own.

    Raises:
        UserError: it is not JSON, or more than a few of its values are no rows. The message has the line, where there
            is one.
    """
    try:
        whole = parse_json(text)
    except ValueError:
        contents = _lines(where, text) if _alone(text) else _objects(where, text)
    else:
        contents = _document(where, whole, expected)
    rows = bare([row for _, row in contents.rows])
    if rows:
        contents.rows = [(n, row) for (n, _), row in zip(contents.rows, rows, strict=True)]
    return contents


def _alone(text: str) -> bool:
    """Whether the first line is JSON by itself."""
    try:
        parse_json(text.lstrip().partition("\n")[0])
    except ValueError:
        return False
    return True


def _document(where: object, whole: Any, expected: Expected) -> Contents:
    """The rows of one JSON value."""
    notes = list[str]()
    if isinstance(whole, dict):
        found = unwrapped(where, whole, notes)
        if found is None:
            return Contents([(1, whole)] if whole else [], notes)
        whole = found
    if not isinstance(whole, list):
        raise UserError(f"{where}, line 1: {_EXAMPLE}")
    cells = cells_in(whole)
    if cells:
        return named_rows(where, [(RecordNumber(n), row) for n, row in enumerate(cells, 1)], ",", ",", expected)
    contents = Contents(notes=notes)
    for number, value in enumerate(whole, 1):
        _add(contents, RecordNumber(number), value, "a list of JSON objects was expected, and this is " + _short(value))
    contents.check(where)
    return contents


def _lines(where: object, text: str) -> Contents:
    contents = Contents()
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                _add(contents, number, parse_json(line), _EXAMPLE)
            except ValueError as e:
                contents.leave_out(number, f"not a JSON object ({e})")
    contents.check(where)
    return contents


def _add(contents: Contents, number: int, value: Any, otherwise: str) -> None:
    """Take a value as a row: an object, a conversation's list of messages, or a text."""
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        value = {"messages": value}
    elif isinstance(value, str):
        value = {"text": value}
    if isinstance(value, dict):
        contents.rows.append((number, value))
    else:
        contents.leave_out(number, otherwise)


def _objects(where: object, text: str) -> Contents:
    """Objects over several lines, with or without commas between them; also of an array that is not well-formed."""
    decoder, contents, line = json.JSONDecoder(), Contents(), 1
    at = text.index("[") + 1 if text.lstrip().startswith("[") else 0
    array = at > 0
    while True:
        start = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]
        line += text.count("\n", at, start)
        if start == len(text):
            if array:
                contents.notes.append("the file's list is never closed: it may have been cut off")
            return contents
        if array and text[start] == "]" and not text[start + 1 :].strip():
            return contents
        try:
            _, at = decoder.raw_decode(text, start)
            row = parse_json(text[start:at])
        except (ValueError, RecursionError) as e:
            inside = e.lineno if isinstance(e, json.JSONDecodeError) else line
            raise UserError(f"{where}, line {inside}: not JSON ({e})") from e
        if not isinstance(row, dict):
            raise UserError(f"{where}, line {line}: a JSON object was expected, and this is {_short(row)}")
        contents.rows.append((line, row))
        line += text.count("\n", start, at)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
