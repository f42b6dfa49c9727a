"""The `prge` command. Every command speaks to a person, or with --json to a program."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from prge.errors import UserError
from prge.quiet import quiet
from prge.runtime_driver import commands, exporting
from prge.runtime_driver.adapters_cli import compare, merge
from prge.runtime_driver.bench.cli import bench
from prge.runtime_driver.console import (
    AllowPickle,
    Data,
    Device,
    Json,
    Program,
    Runtime,
    State,
    Tokenizer,
    Truncate,
    err,
    out,
    show,
)
from prge.runtime_driver.generating import generate as generate_command

app = typer.Typer(
    help="Export language models that fine-tune themselves on the ExecuTorch runtime, and drive them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A preset (smollm2-135m), folder, .gguf file or hub id.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for program and tokenizer.")],
    template: Annotated[str, typer.Option(help="Prompt, with the data's columns in braces.")] = "{text}",
    label: Annotated[
        list[str] | None, typer.Option(help="NAME=WORD, a class and its label word; once per class.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="The data's column of class names.")] = "label",
    target: Annotated[str, typer.Option(help="Template of the target text (without --label).")] = "",
    max_targets: Annotated[int, typer.Option(min=1, help="Most target tokens of an example (without --label).")] = 32,
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
    max_tokens: Annotated[int, typer.Option(min=2, help="Longest row.")] = 128,
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
        from prge.export.program import ExportConfig
        from prge.models.adapter import AdapterConfig
        from prge.models.step import StepConfig

    if texts and subspace not in (None, "fisher"):
        raise UserError(f"--texts choose the directions of --subspace fisher; {subspace} takes none of them")
    usual = 16 if label else 4  # copies of a target of many tokens are long
    try:
        step = StepConfig(queries or usual, batch or usual, perturb, optimizer, outer, inner, noise)
    except ValueError as e:
        raise UserError(str(e)) from e
    if adapter and (module or layers or rank or alpha or subspace or texts):
        raise UserError(
            "--adapter says what trains: leave out --module, --layers, --rank, --alpha, --subspace and --texts"
        )
    rank = rank or AdapterConfig.rank
    config = ExportConfig(
        adapter=AdapterConfig(
            rank=rank,
            alpha=rank if alpha is None else alpha,
            modules=tuple(module) if module else None,
            layers=None if layers is None else parse_slice(layers),
            subspace=None if subspace == "none" else subspace or ("fisher" if texts else "svd"),
            directions=directions,
        ),
        step=step,
        template=template,
        label_words=tuple(parse_label(text) for text in label or []),
        label_column=label_column,
        target=target,
        max_targets=max_targets,
        min_tokens=max_tokens if fixed else min(4, max_tokens),
        max_tokens=max_tokens,
        quantization=quantization,
        backend=backend,
        eps=eps,
        lr=lr,
        context=context if generate else 0,
    )
    console = None if as_json else err
    show(exporting.export(model, output, config, texts, console, adapter, allow_pickle), as_json, "Exported")


@app.command()
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
    result = exporting.plan(model, parse_bytes(memory), tokens, queries, batch, max_targets)
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


def parse_label(text: str) -> tuple[str, str]:
    """'NAME=WORD', the word with its leading space."""
    name, equals, word = text.partition("=")
    if not (name and equals and word):
        raise UserError(f"--label {text!r}: write NAME=WORD, as '1= great'")
    return name, word


@app.command()
def train(
    program: Program,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for the run.")],
    dev: Annotated[Path | None, typer.Option(help="Examples to evaluate on.")] = None,
    dev_fraction: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="Without --dev: this share of the data; 0 for no evaluation.")
    ] = 0.2,
    examples: Annotated[int | None, typer.Option(min=1, help="Use the first so many of --data.")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 300,
    lr: Annotated[str, typer.Option(help="Of the first step; auto: measured on a few batches.")] = "auto",
    eps: Annotated[float | None, typer.Option(help="Perturbation's size; default: the program's.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    eval_every: Annotated[int, typer.Option(min=0, help="Steps between evaluations; 0: at the end only.")] = 50,
    truncate: Truncate = False,
    tokenizer: Tokenizer = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Go on from this run folder, state or PEFT adapter folder.")
    ] = None,
    runtime: Runtime = "executorch",
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Fine-tune: forward passes only, on this machine's ExecuTorch runtime."""
    result = commands.train(
        program, data, output, dev=dev, dev_fraction=dev_fraction, limit=examples, steps=steps, lr=parse_lr(lr),
        eps=eps, seed=seed, eval_every=eval_every, truncate=truncate, tokenizer=tokenizer,
        console=None if as_json else err, start=start, runtime=runtime, device=device,
    )  # fmt: skip
    show(result, as_json, "Trained" if result["completed"] else "Stopped")


def parse_lr(text: str) -> float | None:
    """A number above zero; None for auto."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise UserError(f"--lr {text!r}: give a number above zero, or auto")
    return value


@app.command()
def calibrate(
    program: Program,
    data: Data,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A PNG of what was measured.")] = None,
    examples: Annotated[int | None, typer.Option(min=1, help="Use the first so many of --data.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Time to train in; proposes the steps too.")] = None,
    megabytes: Annotated[float | None, typer.Option(min=1, help="Memory to stay within; bounds the batch.")] = None,
    truncate: Truncate = False,
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Measure the estimate's quality on this data, and propose eps, lr, q and B."""
    result = commands.calibrate(
        program, data, output, limit=examples, minutes=minutes, megabytes=megabytes, truncate=truncate,
        tokenizer=tokenizer, console=None if as_json else err,
    )  # fmt: skip
    show(result, as_json, "Calibrated")


@app.command(name="eval")
def evaluate(
    program: Program, data: Data, state: State = None, truncate: Truncate = False, tokenizer: Tokenizer = None,
    runtime: Runtime = "executorch", device: Device = "cpu", as_json: Json = False,
) -> None:  # fmt: skip
    """Loss and accuracy on labelled examples."""
    show(commands.evaluate_file(program, data, state, truncate, tokenizer, runtime, device), as_json, "Evaluated")


@app.command()
def predict(
    program: Program,
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to classify; or give --data.")] = None,
    data: Annotated[Path | None, typer.Option(help="Examples with named columns; labels are not needed.")] = None,
    state: State = None,
    truncate: Truncate = False,
    tokenizer: Tokenizer = None,
    runtime: Runtime = "executorch",
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Classify texts."""
    predictions = commands.predict(program, texts or [], data, state, truncate, tokenizer, runtime, device)
    if as_json:
        print(json.dumps({"predictions": predictions}))
        return
    table = Table(box=None)
    for column in ("label", "probability", "text"):
        table.add_column(column, justify="left")
    for p in predictions:
        table.add_row(Text(p["label"]), f"{p['probability']:.2f}", Text(p["text"]))
    out.print(table)


@app.command()
def inspect(program: Program, as_json: Json = False) -> None:
    """What a program says about itself."""
    show(commands.inspect(program, as_json), as_json, str(program))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for program and run.")] = Path("demo-out"),
    model: Annotated[str, typer.Option(help="As for export.")] = "smollm2-135m",
    steps: Annotated[int, typer.Option(min=1)] = 300,
    as_json: Json = False,
) -> None:
    """Teach a language model which messages need a reply today, end to end."""
    result = exporting.demo(output, model, steps, console=None if as_json else err)
    show(result, as_json, "Demo")


app.command()(generate_command)
app.command()(merge)
app.command()(compare)
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line; mistakes of the user's become one sentence and exit code 1."""
    try:
        app()
    except UserError as e:
        message = str(e)
    except ModuleNotFoundError as e:
        if e.name not in ("transformers", "torchao", "peft", "gguf", "accelerate"):
            raise
        message = f"this command needs {e.name}: pip install 'prge[export]' (a device needs only the other commands)"
    if "--json" in sys.argv:
        print(json.dumps({"error": message}))
    err.print("error:", style="bold red", end=" ")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)
