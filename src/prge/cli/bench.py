"""`prge bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from prge.commands.screen import err, out, plain, print_json

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Examples = Annotated[int | None, typer.Option(min=1, help="Use the first so many of --data.")]

bench = typer.Typer(help="Measure against what you would use instead.", no_args_is_help=True)


@bench.command()
def convergence(
    programs: Annotated[list[Path], typer.Argument(help="Programs; the first one's time is the others' budget.")],
    data: Annotated[Path, typer.Option(help="Examples to train on.")],
    dev: Annotated[Path, typer.Option(help="Examples to evaluate on.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for table, picture and JSON.")],
    examples: Examples = None,
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of the first program.")] = 300,
    lora_steps: Annotated[int, typer.Option(min=1, help="Of PyTorch LoRA with AdamW, batch 16.")] = 100,
    lora_lr: Annotated[list[float] | None, typer.Option(help="To choose from; default: 5e-4, 1e-3, 2e-3.")] = None,
    target: Annotated[float, typer.Option(min=0, max=1, help="Accuracy to measure the time to.")] = 0.8,
    curve: Annotated[int, typer.Option(min=1, help="Dev examples that draw the curve; the end uses all.")] = 300,
    as_json: Json = False,
) -> None:
    """Accuracy over wall-clock: programs against PyTorch + PEFT LoRA with AdamW on this machine."""
    from prge.bench.convergence import convergence as run

    result = run(
        programs, output, data, dev, examples=examples, seeds=seeds, steps=steps, lora_steps=lora_steps,
        lora_lrs=lora_lr or [5e-4, 1e-3, 2e-3], target=target, curve=curve,
        listener=(lambda text: None) if as_json else (lambda text: err.print(text, highlight=False)),
    )  # fmt: skip
    if as_json:
        print_json(result)
        return
    table = Table(box=None)
    for column in result["rows"][0]:
        table.add_column(column.replace("_", " "))
    for row in result["rows"]:
        table.add_row(*("not reached" if v is None else plain(v) for v in row.values()))
    out.print(table)
    out.print(result["picture"])


@bench.command()
def step(
    programs: Annotated[list[Path], typer.Argument(help="Programs; the first is what the others are set against.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for tables, picture and JSON.")],
    tokens: Annotated[list[int] | None, typer.Option(min=2, help="T, once per length; default: 32.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Each times everything once, in turn.")] = 7,
    peers: Annotated[
        bool, typer.Option(help="Also inference alone, and PyTorch: the step, LoRA by backpropagation.")
    ] = True,
    threads: Annotated[int, typer.Option(min=0, help="Of everything measured; 0: as many as each chooses.")] = 0,
    runner: Annotated[
        str, typer.Option(help="Also the native runner: native (built for it), or prge-run or its folder.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Seconds and memory of a step, against this machine's limits and what you would use instead."""
    from prge.bench.step import bench_step, cells

    listener = (lambda text: None) if as_json else (lambda text: err.print(text, highlight=False))
    report = bench_step(programs, output, tokens or [], rounds, peers, threads, listener, runner)
    if as_json:
        print_json(report)
        return
    table = Table(box=None)
    for column in ("contender", "q x B x T", "seconds", "positions/s", "GFLOP/s", "of limit", "peak MB", "times"):
        table.add_column(column)
    for row in report["rows"]:
        table.add_row(*cells(row, report["rows"]))
    out.print(table)
    out.print(f"tables and picture in {output}")


@bench.command()
def compare(
    reports: Annotated[list[Path], typer.Argument(help="Two or more folders of `prge bench step`.")],
    as_json: Json = False,
) -> None:
    """Reports of several machines side by side, as times of the first one's seconds."""
    from prge.bench.compare import compare as side_by_side

    result = side_by_side(reports)
    if as_json:
        print_json(result)
        return
    for name, machine in zip(result["reports"], result["machines"], strict=True):
        out.print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)
    table = Table(box=None)
    for column in ("contender", "T", *result["reports"]):
        table.add_column(column)
    for row in result["rows"]:
        seconds = ["" if s is None else f"{s:.3f} ({s / row['seconds'][0]:.2f})" for s in row["seconds"]]
        table.add_row(row["contender"], str(row["tokens"]), *seconds)
    out.print(table)
