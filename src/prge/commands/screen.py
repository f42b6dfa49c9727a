"""How results and progress look on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from prge.commands.hooks import Hooks
from prge.files.typed import to_json

out = Console()
# On a descriptor of its own, which `quiet` does not hold back.
err = Console(file=os.fdopen(os.dup(2), "w"))


@contextmanager
def progress() -> Iterator[Hooks]:
    """Hooks that show one progress bar on stderr, and above it the lines that are told."""
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=10), MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("", total=None, note="", visible=False)

        def show(phase: str, done: int, total: int | None, note: str) -> None:
            if bar.tasks[0].description != phase:
                bar.reset(task, total=total, description=phase)
            bar.update(task, completed=done, total=total, note=note, visible=True)

        def tell(text: str) -> None:
            bar.console.print(text, markup=False, highlight=False)

        def ask(question: str, answers: Sequence[str]) -> int | None:
            if not (sys.stdin.isatty() and err.is_terminal):
                return None
            bar.stop()
            lines = [f"  {i}. {answer}" for i, answer in enumerate(answers, 1)]
            bar.console.print("\n".join([f"{question}.", *lines]), markup=False, highlight=False)
            said = input(f"1 to {len(answers)}, or nothing to stop: ").strip()
            bar.start()
            return int(said) - 1 if said.isdecimal() and 1 <= int(said) <= len(answers) else None

        yield Hooks(tell, show, ask)


def show(result: dict[str, Any], title: str) -> None:
    """Print a result as a table of two columns."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for key, value in result.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {plain(v)}" for k, v in value.items())
        table.add_row(key.replace("_", " "), Text(plain(value)))
    out.print(table)


def columns(*names: str) -> Table:
    """A table to fill, without lines."""
    table = Table(box=None)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def plain(value: Any) -> str:
    """A value as a person reads it; None is empty."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def print_json(result: Any) -> None:
    """One line of JSON on stdout; null for a number that is not finite."""
    print(to_json(result))
