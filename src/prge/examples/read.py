"""Data files as rows by column name, and the files of a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from prge.errors import UserError
from prge.examples.contents import Contents, unit
from prge.examples.decode import text_of
from prge.examples.json_rows import is_json, json_rows
from prge.examples.json_shapes import with_class_names
from prge.examples.plain_text import text_rows
from prge.examples.table import Expected, table_rows
from prge.files.bounded import DATA, check_size

# A row: its text by column. JSON's lists and objects stay what they are.
Record = dict[str, Any]
Part = Literal["train", "dev"]

_PARTS: dict[Part, set[str]] = {"train": {"train"}, "dev": {"dev", "val", "valid", "validation", "eval"}}
_JSON = (".jsonl", ".ndjson", ".json", ".jsonlines")
_TEXT = (".txt", ".md")
_SEPARATED = {".csv": ",", ".tsv": "\t", ".psv": "|"}
_KINDS = (*_JSON, *_SEPARATED, *_TEXT, ".parquet")
# What to do with files that other programs read.
_ADVICE = {
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), "save the sheet as CSV"),
    **dict.fromkeys((".arrow", ".feather"), "write it as .parquet or .jsonl, as `Dataset.to_json` does"),
    **dict.fromkeys((".zip", ".tar", ".7z", ".bz2", ".xz", ".zst", ".tgz"), "unpack it"),
    **dict.fromkeys((".docx", ".doc", ".odt", ".rtf", ".pdf", ".html", ".htm", ".epub"), "save its text as .txt"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".db", ".sqlite"), "write its rows as .jsonl or .csv"),
}


def part_file(path: Path, part: Part) -> Path:
    """The file itself; or of a folder its one file for a part, as ``train.tsv`` or ``val.jsonl``.

    The only file of a folder is the one to train on.

    Raises:
        UserError: a folder with none or several such files.
    """
    if not path.is_dir():
        return path
    files = [file for file in sorted(path.iterdir()) if file.is_file() and _kind(file) in _KINDS]
    files = [file for file in files if not file.name.lower().startswith(("readme", "license", "dataset_info"))]
    found = [file for file in files if _PARTS[part] & _words(file)]
    if part == "train" and len(files) == 1 and not {"test", *_PARTS["dev"]} & _words(files[0]):
        found = files
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(file.name for file in found[:5]) + (", ..." if len(found) > 5 else "")
        raise UserError(f"{path} holds several files for {part}: {names}; put them into one, or name one")
    held = [file.name for file in files] or [f"{f.name}/" for f in sorted(path.iterdir()) if f.is_dir()]
    shown = ", ".join(held[:5]) + (", ..." if len(held) > 5 else "")
    raise UserError(f"{path} holds no {part} file, but {shown or 'no data at all'}; name the file itself")


def _words(file: Path) -> set[str]:
    return set(re.split(r"[^a-z]+", file.name.lower()))


def has_part(path: Path, part: Part) -> bool:
    """Whether ``path`` is a folder with one file for a part."""
    try:
        return path.is_dir() and part_file(path, part).is_file()
    except UserError:
        return False


def place(path: Path | str, number: int) -> str:
    """A row's place, for messages: its file and line."""
    return f"{path}, {'record' if Path(path).suffix in ('', '.parquet') else unit(number)} {number}"


def read_records(
    path: Path, columns: Sequence[str] = ("text", "label"), aliases: Sequence[str] = (), labels: Sequence[str] = ()
) -> list[tuple[int, Record]]:
    """The rows of `read_file`, where it is known which columns they have. None may be broken."""
    contents = read_file(path, Expected(columns, aliases, labels))
    contents.check(path, strict=True)
    return contents.rows


def read_file(path: Path, expected: Expected = Expected()) -> Contents:
    """The rows of a file.

    Its name's end tells whether it is Parquet, JSON, a table or text, and its content the rest: how it is encoded,
    which kind of JSON it is (`json_rows`), what separates the cells and whether there is a header (`table_rows`), and
    what a text's rows are (`text_rows`).

    Args:
        expected: what is known of a table's columns.

    Raises:
        UserError: missing, too large, empty, of an unknown kind, or malformed in more than a few rows (with the line's
            number).
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    kind = _kind(path)
    if kind not in _KINDS:
        advice = _ADVICE.get(path.suffix.lower(), f"use {', '.join(_KINDS)}, or one of these in .gz")
        raise UserError(f"{path}: unknown kind of data file; {advice}")
    if kind == ".parquet":
        contents = Contents([*enumerate(_parquet(path), 1)])
    else:
        text, notes = text_of(path)
        contents = _parse(path, text.removeprefix("\ufeff"), kind, expected)
        contents.notes[:0] = notes
    if not contents.rows:
        raise UserError(f"{path} holds no examples")
    contents.rows = [(number, as_text(row)) for number, row in contents.rows]
    return contents


def _kind(path: Path) -> str:
    """The end of a file's name, without that of its archive."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix == ".gz" else suffix


def _parse(path: Path, text: str, kind: str, expected: Expected) -> Contents:
    if kind in _JSON:
        return json_rows(path, text, expected)
    if is_json(text):
        try:
            contents = json_rows(path, text, expected)
        except UserError:
            pass  # a table or a text that begins with a bracket
        else:
            contents.notes.append(f"the file holds JSON, although its name ends in {kind}")
            return contents
    if kind in _TEXT:
        return text_rows(path, text, expected)
    return table_rows(path, text, _SEPARATED[kind], expected)


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
        table = parquet.read_table(path)
        rows: list[dict[str, Any]] = table.to_pylist()
        described = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        return with_class_names(rows, described.get("info", {}).get("features"))
    except (ArrowException, OSError, ValueError, OverflowError) as e:  # the last two: of values that Python has not
        raise UserError(f"{path} is not a Parquet file, or holds what cannot be read: {e}") from e
