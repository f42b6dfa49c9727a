"""`prge train` and `prge replay`: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prge.cli.options import (
    Choices,
    Data,
    Dev,
    DevFraction,
    Device,
    Examples,
    Json,
    Label,
    MaxTargets,
    MaxTokens,
    Runtime,
    Target,
    TaskName,
    Template,
    TextOf,
    Tokenizer,
    Truncate,
)
from prge.commands import export as exporting
from prge.commands import replay as replaying
from prge.commands import train as training
from prge.commands.screen import err, show
from prge.errors import UserError
from prge.examples.detect import Asked
from prge.files.folders import PROGRAM_FOLDER, refuse_used
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.loop.stopping import Limits
from prge.runtime_driver.program.step import is_program

# What a run that is resumed may be told anew: where its files are, and when to stop.
_ANEW = {"resume", "program", "data", "dev", "max_minutes", "max_temperature", "min_battery", "as_json"}


def train(
    context: typer.Context,
    program: Annotated[
        Path | None, typer.Argument(help="A program.pte or its folder; or a model, exported first.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="New folder for the run.")] = None,
    data: Data = None,
    dev: Dev = None,
    dev_fraction: DevFraction = 0.2,
    examples: Examples = None,
    steps: Annotated[int, typer.Option(min=1)] = 300,
    lr: Annotated[str, typer.Option(help="Of the first step; auto: measured on a few batches.")] = "auto",
    eps: Annotated[float | None, typer.Option(help="Perturbation's size; default: the program's.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1)] = 0,
    eval_every: Annotated[int, typer.Option(min=0, help="Steps between evaluations; 0: at the end only.")] = 50,
    truncate: Truncate = False,
    tokenizer: Tokenizer = None,
    task: TaskName = None,
    text: TextOf = None,
    label: Label = None,
    template: Template = None,
    target: Target = None,
    choices: Choices = None,
    max_tokens: MaxTokens = None,
    max_targets: MaxTargets = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Go on from this run folder, state or PEFT adapter folder.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="A run folder whose run was stopped or cut off: go on to its end.")
    ] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after so long; --resume goes on.")] = None,
    max_temperature: Annotated[
        float | None, typer.Option(help="Wait while the hottest sensor is above (degrees Celsius).")
    ] = None,
    min_battery: Annotated[float | None, typer.Option(help="Stop below (per cent), unless the charger is in.")] = None,
    runtime: Runtime = "executorch",
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Fine-tune: forward passes only, on this machine's ExecuTorch runtime."""
    limits, console = Limits(max_minutes, max_temperature, min_battery), None if as_json else err
    if resume:
        fixed = [name for name in context.params if name not in _ANEW and _given(context, name)]
        if fixed:
            raise UserError(f"--resume goes on with the run's own settings; leave {', '.join(fixed)} out")
        result = training.resume(resume, limits, console, program, data, dev)
        show(result, as_json, "Trained" if result["completed"] else "Stopped")
        return
    if program is None or output is None:
        raise UserError("give a program (or a model) and --output, or --resume and a run folder")
    asked = Asked(task, text, tuple(label or ()), template, target, choices, max_tokens, max_targets)
    rate, exported = parse_lr(lr), {}
    if not is_program(program):
        refuse_used(output)
        exported = exporting.export_for_training(
            str(program), output / PROGRAM_FOLDER, asked, data, dev=dev, dev_fraction=dev_fraction, limit=examples,
            seed=seed, console=console,
        )  # fmt: skip
        program = output / PROGRAM_FOLDER
    elif asked != Asked():
        raise UserError(f"{program} is a program and has its form; options of the form go with a model")
    paths = [str(path.resolve()) if path else None for path in (data, dev, tokenizer)]
    source = Source(paths[0], paths[1], dev_fraction, examples, seed, truncate, paths[2])
    result = exported | training.begin(
        program, source, output, steps=steps, lr=rate, eps=eps, seed=seed, eval_every=eval_every, limits=limits,
        console=console, start=start, runtime=runtime, device=device,
    )  # fmt: skip
    show(result, as_json, "Trained" if result["completed"] else "Stopped")


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


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


def replay(
    run: Annotated[Path, typer.Argument(help="A run folder; its config.json and log.jsonl are enough.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder for state and adapter.")],
    program: Annotated[Path | None, typer.Option(help="The run's program, if it has moved.")] = None,
    steps: Annotated[int | None, typer.Option(min=0, help="Only the first so many: undo what came after.")] = None,
    data: Data = None,
    dev: Dev = None,
    as_json: Json = False,
) -> None:
    """Make a run's state again from its journal: from seeds and losses alone where weights are perturbed."""
    console = None if as_json else err
    show(replaying.replay_run(run, output, program, data, dev, steps, console), as_json, "Replayed")
