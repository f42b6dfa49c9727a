"""`prge verify` and `prge forget`: their options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prge.cli.options import Json
from prge.commands.forget import forget as remove
from prge.commands.forget import written
from prge.commands.screen import err, show
from prge.commands.verify import verify as look
from prge.errors import UserError


def verify(
    file: Annotated[
        Path, typer.Argument(help="A program, run, adapter, state, tokenizer or data file, or its folder.")
    ],
    as_json: Json = False,
) -> None:
    """Say what a file or folder is, and whether it is whole; a program runs once, in a process of its own."""
    show(look(file), as_json, str(file))


def forget(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove a run: its journal, snapshots, adapter, picture and description, and the program that it made."""
    files = written(run)
    if not yes:
        if as_json:
            raise UserError("--json does not ask; add --yes to remove the run")
        for file in files:
            err.print(str(file), markup=False, highlight=False)
        typer.confirm(f"Remove these {len(files)} files?", abort=True, err=True)
    show(remove(run), as_json, f"Removed {run}")
