"""`prge federated`: what has to do with many devices."""

from __future__ import annotations

import typer

from prge.cli.options import command
from prge.federated.init import init

federated = typer.Typer(help="Many devices teach one adapter, on Flower.", no_args_is_help=True)
federated.callback()(lambda: None)  # so that a single command keeps its name
federated.command("init")(command(init, "Written"))
