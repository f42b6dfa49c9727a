"""`prge forget`: asks before it removes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prge.cli.options import JSON, call, described, finish, option, parameters
from prge.commands import screen
from prge.commands.forget import forget as remove
from prge.commands.forget import written
from prge.errors import UserError

_YES = option("yes", False, Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")])


def forget(yes: bool, as_json: bool, **given: Any) -> None:
    """Set by `described`."""
    files = written(Path(given["run"]))
    if not yes:
        if as_json:
            raise UserError("--json does not ask; add --yes to remove the run")
        for file in files:
            screen.err.print(str(file), markup=False, highlight=False)
        typer.confirm(f"Remove these {len(files)} files?", abort=True, err=True)
    finish(call(remove, given, as_json), as_json, f"Removed {given['run']}")


described(forget, remove, [*parameters(remove), _YES, JSON])
