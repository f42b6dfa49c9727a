"""What the commands share: their options' types, and how results and progress look."""

from __future__ import annotations

import json
import os
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

out = Console()
# On a descriptor of its own, which `quiet` does not hold back.
err = Console(file=os.fdopen(os.dup(2), "w"))


def show(result: dict[str, Any], as_json: bool, title: str, console: Console = out) -> None:
    """Print a result: one JSON object, or a two-column table."""
    if as_json:
        print(json.dumps(result))
        return
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {plain(v)}" for k, v in value.items())
        table.add_row(key.replace("_", " "), Text(plain(value)))
    console.print(table)


def plain(value: Any) -> str:
    """A value as a person reads it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def progress_bar(console: Console | None) -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=10), MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"), TimeRemainingColumn(compact=True),
        console=console or Console(quiet=True),
    )  # fmt: skip
