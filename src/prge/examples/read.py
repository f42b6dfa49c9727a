"""Data files as rows by column name: JSONL, CSV, TSV, JSON, Parquet and plain text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prge.errors import UserError
from prge.examples.decode import text_of
from prge.examples.json_rows import RecordNumber, is_json, json_rows
from prge.examples.table import Expected, table_rows
from prge.files.bounded import DATA, check_size

# A row: its text by column. JSON's lists and objects stay what they are.
Record = dict[str, Any]
Part = Literal["train", "dev"]

_PARTS: dict[Part, set[str]] = {"train": {"train"}, "dev": {"dev", "val", "valid", "validation"}}
_JSON = (".jsonl", ".ndjson", ".json")
_KINDS = (*_JSON, ".csv", ".tsv", ".txt", ".parquet")


def part_file(path: Path, part: Part) -> Path:
    """The file itself; or of a folder its one file for a part, as ``train.tsv`` or ``val.jsonl``.

    Raises:
        UserError: a folder with none or several such files.
    """
    if not path.is_dir():
        return path
    found = [
        file
        for file in sorted(path.iterdir())
        if _kind(file) in _KINDS and _PARTS[part] & set(re.split(r"[^a-z]+", file.name.lower()))
    ]
    if len(found) != 1:
        held = f"several files for {part}: {', '.join(file.name for file in found)}" if found else f"no {part} file"
        raise UserError(f"{path} holds {held}; name the file itself")
    return found[0]


def has_part(path: Path, part: Part) -> bool:
    """Whether ``path`` is a folder with one file for a part."""
    try:
        return path.is_dir() and part_file(path, part).is_file()
    except UserError:
        return False


def place(path: Path | str, number: int) -> str:
    """A row's place, for messages: its file and line."""
    recorded = isinstance(number, RecordNumber) or Path(path).suffix in ("", ".parquet")
    return f"{path}, {'record' if recorded else 'line'} {number}"


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        rows: each with the number of its line, or of the record where it has no line of its own.
        notes: what is worth saying of how it was read, in sentences.
    """

    rows: list[tuple[int, Record]]
    notes: list[str]


def read_records(
    path: Path, columns: Sequence[str] = ("text", "label"), aliases: Sequence[str] = (), labels: Sequence[str] = ()
) -> list[tuple[int, Record]]:
    """The rows of `read_file`, where it is known which columns they have."""
    return read_file(path, Expected(columns, aliases, labels)).rows


def read_file(path: Path, expected: Expected = Expected()) -> Contents:
    """The rows of a file.

    Its name's end tells whether it is Parquet, JSON, a table or text, and its content the rest: how it is encoded,
    which kind of JSON it is (`json_rows`), what separates the cells and whether there is a header (`table_rows`). A
    ``.txt`` is a table if its first line has a tab; if not, each paragraph is a row with the column ``text``.

    Args:
        expected: what is known of a table's columns.

    Raises:
        UserError: missing, too large, empty, of an unknown kind, or malformed (with the line's number).
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    kind = _kind(path)
    if kind not in _KINDS:
        raise UserError(f"{path}: unknown kind of data file; use {', '.join(_KINDS)}, or one of these in .gz")
    notes = list[str]()
    if kind == ".parquet":
        rows: list[tuple[int, dict[str, Any]]] = [*enumerate(_parquet(path), 1)]
    else:
        text, notes = text_of(path)
        rows, more = _parse(path, text.removeprefix("\ufeff"), kind, expected)
        notes += more
    if not rows:
        raise UserError(f"{path} holds no examples")
    return Contents([(number, as_text(row)) for number, row in rows], notes)


def _kind(path: Path) -> str:
    """The end of a file's name, without that of its archive."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def _parse(path: Path, text: str, kind: str, expected: Expected) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
    if kind in _JSON:
        return json_rows(path, text), []
    if is_json(text):
        try:
            return json_rows(path, text), [f"the file holds JSON, although its name ends in {kind}"]
        except UserError:
            pass  # a table or a text that begins with a bracket
    if kind == ".txt" and "\t" not in text.partition("\n")[0]:
        return _paragraphs(text), []
    return table_rows(path, text, "," if kind == ".csv" else "\t", expected)


def as_text(row: dict[str, Any]) -> Record:
    """A row with its numbers, truth values, dates and the like as text. Lists and objects stay what they are."""
    return {str(name): _as_text(value) for name, value in row.items()}


def _as_text(value: Any) -> Any:
    if isinstance(value, (str, list, dict)):
        return value
    if value is None or value != value:  # missing, as an empty cell of a table is; pandas writes NaN
        return ""
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return str(value)  # Parquet and the hub also have dates, decimals and bytes


def _parquet(path: Path) -> Iterable[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as e:
        raise UserError(f"{path}: Parquet files need pyarrow: pip install 'prge[tasks]'") from e
    check_size(path, DATA)
    try:
        return parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, ValueError, OverflowError) as e:  # the last two: of values that Python has not
        raise UserError(f"{path} is not a Parquet file, or holds what cannot be read: {e}") from e


def _paragraphs(text: str) -> list[tuple[int, Record]]:
    """Blocks of lines between empty lines, each with the number of its first line."""
    records: list[tuple[int, Record]] = []
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            inside = False
        elif inside:
            records[-1][1]["text"] += "\n" + line
        else:
            records.append((number, {"text": line}))
            inside = True
    return records
