"""`prge bench compare`: reports of `prge bench step` side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from prge.errors import UserError
from prge.files.typed import parse, parse_json
from prge.options import AnyPath, Option


def compare(
    reports: Annotated[tuple[AnyPath, ...], Option("Two or more folders of `prge bench step`.", argument=True)],
) -> dict[str, Any]:
    """Reports of several machines side by side, as multiples of the first one's seconds.

    Returns:
        ``reports``, ``machines`` and ``limits``, in the order given; ``rows``, the contenders of the first report, each
        with T and the seconds of its step in every report, None where it is not in that one.

    Raises:
        UserError: there are fewer than two, or one holds no whole report.
    """
    folders = [Path(report) for report in reports]
    if len(folders) < 2:
        raise UserError("give at least two reports to compare")
    read = [_read(folder / "step.json") for folder in folders]
    seconds = [{(row.contender, row.tokens): row.seconds for row in report.rows} for report in read]
    rows = [
        {"contender": name, "tokens": tokens, "seconds": [found.get((name, tokens)) for found in seconds]}
        for name, tokens in seconds[0]
    ]
    return {
        "reports": [str(folder) for folder in folders],
        "machines": [report.machine for report in read],
        "limits": [report.limits for report in read],
        "rows": rows,
    }


@dataclass(frozen=True)
class _Row:
    """What is compared of a report's row."""

    contender: str
    tokens: int
    seconds: float


@dataclass(frozen=True)
class _Report:
    machine: dict[str, Any]
    limits: dict[str, float]
    rows: list[_Row]


def _read(path: Path) -> _Report:
    try:
        report = parse_json(path.read_bytes())
        rows = [parse(_Row, {name: row[name] for name in _Row.__dataclass_fields__}) for row in report["rows"]]
        if any(row.seconds <= 0 for row in rows):
            raise ValueError("a step took no time")
        return _Report(dict(report["machine"]), dict(report["limits"]), rows)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path} is no report of `prge bench step`: {e!r}") from e
