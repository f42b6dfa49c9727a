"""`prge merge` and `prge compare`: what is done with adapters once they are trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from prge.cli.options import AllowPickle, Json
from prge.commands.compare import compare_runs, table_rows
from prge.commands.plots import plot_runs
from prge.commands.screen import out, plain, show
from prge.lora import adapter_folder
from prge.quiet import quiet
from prge.runtime_driver.run.folder import read_log


def merge(
    adapters: Annotated[list[Path], typer.Argument(help="Run folders, or PEFT adapter folders, of one base.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the merged model.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="Of an adapter's update in the sum, once per adapter; default: 1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The base model; default: the one the adapters name.")] = None,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Fold adapters into their base model and write a plain Hugging Face checkpoint."""
    with quiet():
        from prge.export.merge import merge_adapters

    result = merge_adapters([adapter_folder(path) for path in adapters], output, model, weight or (), allow_pickle)
    show(result, as_json, "Merged")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A PNG of all runs' losses.")] = None,
    as_json: Json = False,
) -> None:
    """Runs side by side: settings that differ, losses, time, and how alike the adapters' updates are."""
    result = compare_runs(runs)
    if output is not None:
        plot_runs(output, {str(run): read_log(run) for run in runs})
        result["picture"] = str(output)
    if as_json:
        print(json.dumps(result))
        return
    table = Table(box=None)
    for column in ("", *(str(run) for run in runs)):
        table.add_column(column, overflow="fold")
    for name, values in table_rows(result):
        table.add_row(name, *("" if value is None else plain(value) for value in values))
    out.print(table)
    if output is not None:
        out.print(str(output))
