"""Data files as rows by column name: JSONL, CSV, TSV, JSON, Parquet and plain text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from prge.errors import UserError
from prge.files.bounded import DATA, TEXT, check_size, read_bounded
from prge.files.typed import parse_json

# A row: its text by column. JSON's lists and objects stay what they are.
Record = dict[str, Any]
Part = Literal["train", "dev"]

_PARTS: dict[Part, set[str]] = {"train": {"train"}, "dev": {"dev", "val", "valid", "validation"}}
_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet")


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
        if file.suffix.lower() in _KINDS and _PARTS[part] & set(re.split(r"[^a-z]+", file.stem.lower()))
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
    return f"{path}, {'record' if Path(path).suffix in ('', '.json', '.parquet') else 'line'} {number}"


def read_records(
    path: Path, columns: Sequence[str] = ("text", "label"), aliases: Sequence[str] = ()
) -> list[tuple[int, Record]]:
    """The rows of a file, each with the number of its line (of the record, in JSON and Parquet).

    - CSV has a header.
    - TSV has one if its first line holds any of ``columns`` or ``aliases``; if not, its columns are ``columns``.
    - ``.txt`` is such a TSV if its first line has a tab; if not, each paragraph is a row with the column ``text``.
    - JSON is a list of rows, or one row.

    Raises:
        UserError: missing, too large, empty, of an unknown kind, or malformed (with the line's number).
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        records = list(enumerate(map(as_text, _parquet(path)), 1))
    elif suffix in _KINDS:
        records = _parse(path, suffix, columns, aliases)
    else:
        raise UserError(f"{path}: unknown kind of data file; use {', '.join(_KINDS)}")
    if not records:
        raise UserError(f"{path} holds no examples")
    return records


def _parse(path: Path, suffix: str, columns: Sequence[str], aliases: Sequence[str]) -> list[tuple[int, Record]]:
    try:
        text = read_bounded(path, DATA).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as e:
        raise UserError(f"{path} is not UTF-8 text (byte {e.start}); save it as UTF-8") from e
    if suffix in (".jsonl", ".ndjson"):
        return _jsonl(path, text)
    if suffix == ".json":
        return _json(path, text)
    if suffix == ".txt" and "\t" not in text.partition("\n")[0]:
        return _paragraphs(text)
    return _table(path, text, "," if suffix == ".csv" else "\t", columns, aliases)


def as_text(row: dict[str, Any]) -> Record:
    """A row with its numbers, truth values, dates and the like as text. Lists and objects stay what they are."""
    return {str(name): _as_text(value) for name, value in row.items()}


def _as_text(value: Any) -> Any:
    if isinstance(value, (str, list, dict)):
        return value
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    return str(value)  # Parquet and the hub also have dates, decimals and bytes


def _jsonl(path: Path, text: str) -> list[tuple[int, Record]]:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as e:
            raise UserError(f"{path}, line {number}: not a JSON object ({e})") from e
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {number}: a JSON object was expected, as {{"text": ..., "label": ...}}')
        records.append((number, as_text(row)))
    return records


def _json(path: Path, text: str) -> list[tuple[int, Record]]:
    try:
        document = parse_json(text)
    except ValueError as e:
        raise UserError(f"{path}: not JSON ({e})") from e
    rows = document if isinstance(document, list) else [document]
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: a list of JSON objects was expected")
    return list(enumerate(map(as_text, rows), 1))


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


def _table(
    path: Path, text: str, delimiter: str, columns: Sequence[str], aliases: Sequence[str]
) -> list[tuple[int, Record]]:
    # In a TSV only tabs separate: quotes are part of the text.
    quoting: Any = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    csv.field_size_limit(TEXT)
    header: list[str] | None = None
    records = []
    try:
        for row in reader:
            if not row:
                continue
            if header is None:
                names = [name.strip() for name in row]
                if delimiter == "," or set(names) & {*columns, *aliases}:
                    header = names
                    continue
                header = list(columns)
            if len(row) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(row)} columns where {len(header)} were expected "
                    f"({', '.join(header)})"
                )
            records.append((reader.line_num, dict(zip(header, row, strict=True))))
    except csv.Error as e:
        raise UserError(f"{path}, line {reader.line_num}: {e}") from e
    return records
