"""`prge bench compare`: reports of `prge bench step` side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from prge.errors import UserError
from prge.options import AnyPath, Option


def compare(
    reports: Annotated[tuple[AnyPath, ...], Option("Two or more folders of `prge bench step`.", argument=True)],
) -> dict[str, Any]:
    """Reports of several machines side by side, as multiples of the first one's seconds.

    Returns:
        ``reports`` and ``machines`` in order; ``rows`` with the contender, T, and the seconds in
        each report, None where it has none.

    Raises:
        UserError: fewer than two, or a folder without a report.
    """
    folders = [Path(report) for report in reports]
    if len(folders) < 2:
        raise UserError("give at least two reports to compare")
    read = [_read(folder / "step.json") for folder in folders]
    seconds = [{(r["contender"], r["tokens"]): r["seconds"] for r in report["rows"]} for report in read]
    rows = [
        {"contender": name, "tokens": tokens, "seconds": [found.get((name, tokens)) for found in seconds]}
        for name, tokens in seconds[0]
    ]
    return {
        "reports": [str(folder) for folder in folders],
        "machines": [report["machine"] for report in read],
        "limits": [report["limits"] for report in read],
        "rows": rows,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        if not {"machine", "limits", "rows"} <= report.keys():
            raise ValueError("it lacks machine, limits or rows")
        return report
    except (OSError, ValueError) as e:
        raise UserError(f"{path} is no report of `prge bench step`: {e}") from e
