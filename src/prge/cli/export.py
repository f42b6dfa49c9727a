"""The command line of the server's side: `prge export` and `prge plan`, their options."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from prge.cli.options import (
    AllowPickle,
    Choices,
    Json,
    Label,
    MaxTargets,
    MaxTokens,
    Target,
    TaskName,
    Template,
    TextOf,
)
from prge.commands import export as exporting
from prge.commands.plan import plan as planning
from prge.commands.screen import err, out, show
from prge.errors import UserError
from prge.examples.detect import Asked, form_of
from prge.examples.form import Form
from prge.quiet import quiet


def export(
    model: Annotated[str, typer.Argument(help="A preset (smollm2-135m), folder, .gguf file or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for program and tokenizer.")],
    task: TaskName = None,
    data: Annotated[
        Path | None, typer.Option(help="Examples to train on: what is not given is inferred from them; also --texts.")
    ] = None,
    text: TextOf = None,
    label: Label = None,
    template: Template = None,
    target: Target = None,
    choices: Choices = None,
    max_tokens: MaxTokens = None,
    max_targets: MaxTargets = None,
    queries: Annotated[
        int | None, typer.Option("--queries", "-q", min=1, help="Random directions per step; default: 16, or 4.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", "-b", min=1, help="Examples per step; default: 16, or 4 with --target.")
    ] = None,
    perturb: Annotated[
        Literal["activations", "weights"], typer.Option(help="What the copies differ in; weights: the paper's way.")
    ] = "activations",
    optimizer: Annotated[Literal["adam", "momentum", "sgd"], typer.Option(help="The update rule.")] = "adam",
    fixed: Annotated[bool, typer.Option(help="One fixed row length instead of any up to --max-tokens.")] = False,
    quantization: Annotated[Literal["f32", "8da8w", "8da4w"], typer.Option()] = "8da8w",
    backend: Annotated[Literal["xnnpack", "portable"], typer.Option(help="portable: the f32 reference.")] = "xnnpack",
    module: Annotated[
        list[str] | None,
        typer.Option(
            help="Linear modules to adapt, by name or pattern; default: all but those that make keys or values."
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers to adapt: '20:', ':4', '-10:', ':' for all; default: the upper half.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="Default: 8.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA's alpha; default: the rank.")] = None,
    subspace: Annotated[
        Literal["fisher", "svd", "none"] | None,
        typer.Option(help="Where the core trains; none: LoRA-FA's whole B; default: fisher with --texts, else svd."),
    ] = None,
    directions: Annotated[int, typer.Option(min=1, help="Of a module's outputs (--subspace fisher).")] = 4,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Examples like those to come, labels not needed: the adapter's directions are chosen for them."
        ),
    ] = None,
    noise: Annotated[Literal["rademacher", "gaussian"], typer.Option()] = "rademacher",
    outer: Annotated[bool, typer.Option(help="All queries in one execution.")] = True,
    inner: Annotated[bool, typer.Option(help="Both signs of eps in one execution.")] = True,
    eps: Annotated[float | None, typer.Option(help="Default eps to store in the program.")] = None,
    lr: Annotated[float | None, typer.Option(help="Default learning rate to store in the program.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Beside it a program for `prge generate`.")] = False,
    context: Annotated[int, typer.Option(min=16, help="Its most tokens, with the prompt's (--generate).")] = 2048,
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter folder to go on from.")] = None,
    allow_pickle: AllowPickle = False,
    as_json: Json = False,
) -> None:
    """Turn a Hugging Face model into a program that fine-tunes itself."""
    with quiet():
        from prge.export.config import ExportConfig
        from prge.models.adapter import AdapterConfig
        from prge.models.step import StepConfig

    form = form_of(Asked(task, text, tuple(label or ()), template, target, choices, max_tokens, max_targets), data)
    if texts and subspace not in (None, "fisher"):
        raise UserError(f"--texts choose the directions of --subspace fisher; {subspace} takes none of them")
    if adapter and (module or layers or rank or alpha or subspace or texts):
        raise UserError(
            "--adapter says what trains: leave out --module, --layers, --rank, --alpha, --subspace and --texts"
        )
    texts = texts or data
    rank = rank or AdapterConfig.rank
    usual = exporting.usual(form)
    try:
        step = StepConfig(queries or usual, batch or usual, perturb, optimizer, outer, inner, noise)
    except ValueError as e:
        raise UserError(str(e)) from e
    trains = AdapterConfig(
        rank=rank,
        alpha=rank if alpha is None else alpha,
        modules=tuple(module) if module else None,
        layers=None if layers is None else parse_slice(layers),
        subspace=None if subspace == "none" else subspace or ("fisher" if texts else "svd"),
        directions=directions,
    )

    def configure(form: Form) -> ExportConfig:
        config = ExportConfig(
            trains, step, **exporting.settings(form), quantization=quantization, backend=backend, eps=eps, lr=lr,
            context=context if generate else 0,
        )  # fmt: skip
        return replace(config, min_tokens=config.max_tokens) if fixed else config

    console = None if as_json else err
    result = exporting.export(
        model, output, form, configure, texts, console, adapter=adapter, allow_pickle=allow_pickle
    )
    show(result, as_json, "Exported")


def plan(
    model: Annotated[str, typer.Argument(help="As for export; of a hub model the config alone is fetched.")],
    memory: Annotated[str, typer.Option(help="Of the whole process, as 1.5GB or 800MB.")],
    tokens: Annotated[int, typer.Option(min=2, help="Longest row.")] = 128,
    queries: Annotated[int, typer.Option("--queries", "-q", min=1)] = 16,
    batch: Annotated[int, typer.Option("--batch", "-b", min=1)] = 16,
    max_targets: Annotated[int, typer.Option(min=0, help="Target tokens of an example; 0: label words.")] = 0,
    as_json: Json = False,
) -> None:
    """Which quantization and batch fit a memory, before anything is exported."""
    result = planning(model, parse_bytes(memory), tokens, queries, batch, max_targets)
    if as_json:
        print(json.dumps(result))
        return
    table = Table(box=None)
    for column in ("quantization", "program MB", "peak MB", f"q={queries} B={batch} fits", "largest B"):
        table.add_column(column, justify="right")
    for row in result["rows"]:
        peak = row["peak_bytes"] + result["imports_bytes"]
        fits, largest = "yes" if row["fits"] else "no", row["largest_batch"]
        size = f"{row['program_bytes'] / 1e6:,.0f}"
        table.add_row(row["quantization"], size, f"{peak / 1e6:,.0f}", fits, str(largest or "none"))
    out.print(table)
    out.print(f"peak MB: of the process, {result['imports_bytes'] / 1e6:,.0f} of them Python, torch and the runtime")


def parse_bytes(text: str) -> float:
    """'1.5GB' or '800MB', in bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB)", text.strip(), re.IGNORECASE)
    if not found:
        raise UserError(f"--memory {text!r}: write a number and MB or GB, as 1.5GB")
    return float(found[1]) * {"mb": 1e6, "gb": 1e9}[found[2].lower()]


def parse_slice(text: str) -> slice:
    """'20:' as Python reads it; one number is that layer alone."""
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 1 and parts[0] is not None:
        return slice(parts[0], parts[0] + 1 or None)
    if len(parts) != 2:
        raise UserError(f"--layers {text!r}: write a slice, as '20:', ':4', '-10:' or ':' for all")
    return slice(*parts)
