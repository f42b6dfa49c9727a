"""`prge bench compare`: reports of `prge bench step` side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prge.errors import UserError


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """What all reports of some folders have measured that the first one has.

    Returns:
        ``reports`` and ``machines`` in order; ``rows`` with the contender, T, and the seconds in
        each report, None where it has none.

    Raises:
        UserError: fewer than two, or a folder without a report.
    """
    if len(folders) < 2:
        raise UserError("give at least two reports to compare")
    reports = [_read(folder / "step.json") for folder in folders]
    seconds = [{(r["contender"], r["tokens"]): r["seconds"] for r in report["rows"]} for report in reports]
    rows = [
        {"contender": name, "tokens": tokens, "seconds": [found.get((name, tokens)) for found in seconds]}
        for name, tokens in seconds[0]
    ]
    return {
        "reports": [str(folder) for folder in folders],
        "machines": [report["machine"] for report in reports],
        "limits": [report["limits"] for report in reports],
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
