"""`prge bench`."""

from __future__ import annotations

from typing import Any

import typer

from prge.bench.android import android
from prge.bench.compare import compare
from prge.bench.convergence import convergence
from prge.bench.step import cells, step
from prge.bench.tasks import tasks
from prge.bench.tasks_report import cost_cells, score_cells
from prge.cli.options import command
from prge.commands.screen import columns, out, plain

bench = typer.Typer(help="Measure against what you would use instead.", no_args_is_help=True)


def _raced(result: dict[str, Any]) -> None:
    table = columns(*(name.replace("_", " ") for name in result["rows"][0]))
    for row in result["rows"]:
        table.add_row(*("not reached" if v is None else plain(v) for v in row.values()))
    out.print(table)
    out.print(result["picture"])


def _stepped(report: dict[str, Any]) -> None:
    table = columns("contender", "q x B x T", "seconds", "positions/s", "GFLOP/s", "of limit", "peak MB", "times")
    for row in report["rows"]:
        table.add_row(*cells(row, report["rows"]))
    out.print(table)
    out.print(f"tables beside {report.get('picture', report.get('report'))}")
    if report.get("folder"):
        out.print(f"on the phone: {report['folder']}", highlight=False)


def _side_by_side(result: dict[str, Any]) -> None:
    for name, machine in zip(result["reports"], result["machines"], strict=True):
        out.print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)
    table = columns("contender", "T", *result["reports"])
    for row in result["rows"]:
        seconds = ["" if s is None else f"{s:.3f} ({s / row['seconds'][0]:.2f})" for s in row["seconds"]]
        table.add_row(row["contender"], str(row["tokens"]), *seconds)
    out.print(table)


def _by_task(result: dict[str, Any]) -> None:
    for cells_of in (score_cells, cost_cells):
        head, *lines = cells_of(result["rows"], result["summary"])
        table = columns(*head)
        for line in lines:
            table.add_row(*line)
        out.print(table)
    out.print(f"tables and JSON beside {result['picture']}")


bench.command()(command(tasks, render=_by_task))
bench.command()(command(convergence, render=_raced))
bench.command()(command(step, render=_stepped))
bench.command()(command(compare, render=_side_by_side))
bench.command()(command(android, render=_stepped))
