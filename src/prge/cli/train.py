"""`prge train`: its options begin a run, or with --resume go on with one."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from prge.cli.options import JSON, call, described, finish, option, parameters
from prge.commands.train import resume as go_on
from prge.commands.train import train as begin
from prge.errors import UserError

# What a run that is resumed may be told anew: where its files are, when to stop, and who watches.
_ANEW = {
    *("resume", "program", "train", "dev", "max_minutes", "max_temperature", "min_battery", "patience", "report_to"),
    "as_json",
}

_RESUME = option(
    "resume",
    None,
    Annotated[Path | None, typer.Option(help="Continue this run, which was stopped or cut off, to its end.")],
)
_CONTEXT = option("context", inspect.Parameter.empty, typer.Context)


def train(context: typer.Context, resume: Path | None, as_json: bool, **given: Any) -> None:
    """Set by `described`."""
    if resume:
        source = context.get_parameter_source
        fixed = [p.name for p in context.command.params if p.name not in _ANEW and _asked(source(p.name or ""))]
        if fixed:
            raise UserError(f"--resume goes on with the run's own settings; leave {', '.join(map(str, fixed))} out")
        result = call(go_on, {**given, "run": resume, "data": given["train"]}, as_json)
    elif given["program"] is None or given["output"] is None:
        raise UserError("give a program (or a model) and --output, or --resume and a run folder")
    else:
        result = call(begin, given, as_json)
    finish(result, as_json, "Trained" if result["completed"] else "Stopped")


def _asked(source: Any) -> bool:
    return source is not None and source.name == "COMMANDLINE"


# Neither stands with --resume.
_OPEN = ("program", "output")
_options = [
    p.replace(default=None, annotation=_optional) if p.name in _OPEN else p
    for p in parameters(begin)
    for _optional in [Annotated[Path | None, p.annotation.__metadata__[0]]]
]
described(train, begin, [_CONTEXT, *_options, _RESUME, JSON])
