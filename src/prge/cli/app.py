"""The `prge` command. Every command speaks to a person, or with --json to a program."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from prge.cli.adapters import compare, merge
from prge.cli.bench import bench
from prge.cli.export import export, plan
from prge.cli.files import forget, verify
from prge.cli.generate import generate as generate_command
from prge.cli.native import build_runner, pack
from prge.cli.options import Data, Device, Examples, Json, Program, Runtime, State, Tokenizer, Truncate
from prge.cli.train import replay, train
from prge.commands.calibrate import calibrate as run_calibrate
from prge.commands.demo import demo as run_demo
from prge.commands.evaluate import evaluate_file
from prge.commands.evaluate import predict as run_predict
from prge.commands.inspect import inspect as run_inspect
from prge.commands.screen import err, out, show
from prge.errors import UserError
from prge.examples.tasks import TASKS

app = typer.Typer(
    help="Export language models that fine-tune themselves on the ExecuTorch runtime, and drive them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


app.command()(export)
app.command()(plan)


app.command()(train)
app.command()(replay)
app.command()(pack)
app.command()(build_runner)


@app.command()
def calibrate(
    program: Program,
    data: Data = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A PNG of what was measured.")] = None,
    examples: Examples = None,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Time to train in; proposes the steps too.")] = None,
    megabytes: Annotated[float | None, typer.Option(min=1, help="Memory to stay within; bounds the batch.")] = None,
    truncate: Truncate = False,
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Measure the estimate's quality on this data, and propose eps, lr, q and B."""
    result = run_calibrate(
        program, data, output, limit=examples, minutes=minutes, megabytes=megabytes, truncate=truncate,
        tokenizer=tokenizer, console=None if as_json else err,
    )  # fmt: skip
    show(result, as_json, "Calibrated")


@app.command(name="eval")
def evaluate(
    program: Program, data: Data = None, state: State = None, truncate: Truncate = False, tokenizer: Tokenizer = None,
    generate: Annotated[
        bool, typer.Option("--generate", help="Also write the answers (generate.pte) and score exact match and F1.")
    ] = False,
    runtime: Runtime = "executorch", device: Device = "cpu", as_json: Json = False,
) -> None:  # fmt: skip
    """Loss, and how many answers are right, on labelled examples."""
    result = evaluate_file(program, data, state, truncate, tokenizer, runtime, device, generate)
    show(result, as_json, "Evaluated")


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
    predictions = run_predict(program, texts or [], data, state, truncate, tokenizer, runtime, device)
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
def tasks(as_json: Json = False) -> None:
    """The tasks that export and train know by name."""
    if as_json:
        print(json.dumps({name: task.described() for name, task in TASKS.items()}))
        return
    table = Table(box=None)
    for column in ("task", "kind", "metrics", "data on the hub", "about"):
        table.add_column(column)
    for name, task in TASKS.items():
        table.add_row(name, task.kind, ", ".join(task.metrics), task.hub[0], task.about)
    out.print(table)


@app.command()
def inspect(program: Program, as_json: Json = False) -> None:
    """What a program says about itself."""
    show(run_inspect(program, as_json), as_json, str(program))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for program and run.")] = Path("demo-out"),
    model: Annotated[str, typer.Option(help="As for export.")] = "smollm2-135m",
    steps: Annotated[int, typer.Option(min=1)] = 300,
    as_json: Json = False,
) -> None:
    """Teach a language model which messages need a reply today, end to end."""
    result = run_demo(output, model, steps, console=None if as_json else err)
    show(result, as_json, "Demo")


app.command()(generate_command)
app.command()(merge)
app.command()(compare)
app.command()(verify)
app.command()(forget)
app.add_typer(bench, name="bench")


def main() -> None:
    """Run the command line; mistakes of the user's become one sentence and exit code 1."""
    try:
        app()
    except UserError as e:
        message = str(e).encode(errors="backslashreplace").decode()  # names of files may be no text
    except ModuleNotFoundError as e:
        if e.name not in ("transformers", "torchao", "peft", "gguf", "accelerate"):
            raise
        message = f"this command needs {e.name}: pip install 'prge[export]' (a device needs only the other commands)"
    except (OSError, MemoryError) as e:  # of the machine; what a command knows to say better is a UserError already
        message = f"{getattr(e, 'filename', None) or 'the system'}: {getattr(e, 'strerror', None) or type(e).__name__}"
    if "--json" in sys.argv:
        print(json.dumps({"error": message}))
    err.print("error:", style="bold red", end=" ")
    err.print(message, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)
