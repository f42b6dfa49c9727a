"""How results and progress look on a terminal."""

from __future__ import annotations

import io
import os
import sys
import time
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
err = Console(file=os.fdopen(os.dup(2), "w", encoding=getattr(sys.stderr, "encoding", None), errors="backslashreplace"))


def take_any_letter() -> None:
    """Write what stdout's encoding does not have as an escape, in place of an error."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def progress() -> Iterator[Hooks]:
    """Hooks that show how far it is, on stderr: as a bar on a terminal, and as lines in a file."""
    with _bar() if err.is_terminal else _lines() as hooks:
        yield hooks


@contextmanager
def _lines() -> Iterator[Hooks]:
    """Hooks that write a line when a phase ends, and at every tenth of a phase whose length is known."""
    phase, said, began, tenth = "", "", 0.0, 0

    def tell(text: str) -> None:
        err.print(text, markup=False, highlight=False, soft_wrap=True)

    def end() -> None:
        if phase:
            tell(f"{phase}: {time.monotonic() - began:.1f} s" + (f", {said}" if said else ""))

    def show(name: str, done: int, total: int | None, note: str) -> None:
        nonlocal phase, said, began, tenth
        if name != phase:
            end()
            phase, began, tenth = name, time.monotonic(), 0
        said = f"{done:,} of {total:,} {note}".strip() if total else note
        if total and 10 * done // total > tenth and done < total:
            tenth = 10 * done // total
            tell(f"{phase}: {said}")

    try:
        yield Hooks(tell, show)
    finally:
        end()


@contextmanager
def _bar() -> Iterator[Hooks]:
    """Hooks that show one progress bar, and above it the lines that are told."""
    letters = "dots" if err.encoding.startswith("utf") else "line"
    columns = (
        SpinnerColumn(letters), TextColumn("{task.description}"), BarColumn(bar_width=10), MofNCompleteColumn(),
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
