"""The options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from prge.manifest import TOKENIZER_FILE

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
