"""What the commands share: their options' types, and how results and progress look."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from prge.manifest import TOKENIZER_FILE

out = Console()
# On a descriptor of its own, which `quiet` does not hold back.
err = Console(file=os.fdopen(os.dup(2), "w"))

Program = Annotated[Path, typer.Argument(help="A program.pte, or the folder that holds it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Tokenizer = Annotated[Path | None, typer.Option(help=f"The {TOKENIZER_FILE}; default: beside the program.")]
Data = Annotated[
    Path | None,
    typer.Option(help="Examples: .jsonl, .csv, .tsv, .txt ..., or a folder; default: the hub's, for a named task."),
]
Dev = Annotated[Path | None, typer.Option(help="Examples to evaluate on.")]
DevFraction = Annotated[
    float, typer.Option(min=0.0, max=0.9, help="Without --dev: this share of the data; 0 for no evaluation.")
]
Examples = Annotated[int | None, typer.Option(min=1, help="Use the first so many of --data.")]
State = Annotated[
    Path | None, typer.Option(help="A run folder, its state.safetensors, or a PEFT adapter folder; default: none.")
]
Runtime = Annotated[
    Literal["executorch", "torch"], typer.Option(help="What runs the step; torch: eager, from the base model.")
]
Device = Annotated[str, typer.Option(help="Of --runtime torch: cpu, cuda, cuda:1.")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="Also read pickled weights (pytorch_model.bin).")]
Truncate = Annotated[bool, typer.Option(help="Cut long texts from the left instead of refusing them.")]

# What an example is; see `prge.examples.detect.Asked`.
TaskName = Annotated[str | None, typer.Option("--task", help="One of `prge tasks`.")]
TextOf = Annotated[str | None, typer.Option("--text", help="The data's column of text.")]
Label = Annotated[
    list[str] | None,
    typer.Option(
        "--label", "--label-column",
        help="The data's column of classes; or NAME=WORD, a class and its label word, once per class.",
    ),
]  # fmt: skip
Template = Annotated[str | None, typer.Option(help="Prompt, with the data's columns in braces.")]
Target = Annotated[str | None, typer.Option(help="Template of the text to learn, instead of classes.")]
Choices = Annotated[
    str | None, typer.Option(help="The data's column with a list of candidates; {choice} stands for one.")
]
MaxTokens = Annotated[int | None, typer.Option(min=2, help="Longest row; default: what --data need, or 128.")]
MaxTargets = Annotated[
    int | None, typer.Option(min=1, help="Most target tokens of an example; default: what --data need, or 32.")
]


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
