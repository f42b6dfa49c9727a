"""`prge pack` and `prge build-runner`: the options of what the native runner needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prge.cli.options import Data, Dev, DevFraction, Examples, Json, Program, Tokenizer, Truncate
from prge.commands import build_runner as builder
from prge.commands.open import open_program
from prge.commands.screen import show
from prge.runtime_driver.data.packed import pack as write_packed
from prge.runtime_driver.data.source import Source


def pack(
    program: Program,
    output: Annotated[Path, typer.Option("--output", "-o", help="The packed file, as data.prge.")],
    data: Data = None,
    dev: Dev = None,
    dev_fraction: DevFraction = 0.2,
    examples: Examples = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of what is split off.")] = 0,
    truncate: Truncate = False,
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Turn examples into tokens, in one file that `prge train --data` and `prge-run` read."""
    loaded, encoder = open_program(program, tokenizer, truncate)
    paths = [str(path.resolve()) if path else None for path in (data, dev)]
    source = Source(paths[0], paths[1], dev_fraction, examples, seed, truncate)
    train, held, dropped = source.read(encoder)
    write_packed(output, loaded.manifest, train, held, dropped)
    result = {"examples": len(train), "dev": len(held), "bytes": output.stat().st_size, "packed": str(output)}
    show(result, as_json, "Packed")


def build_runner(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the program and its libraries.")],
    target: Annotated[str | None, typer.Option(help="Another processor to build for: aarch64.")] = None,
    wheel: Annotated[
        Path | None, typer.Option(help="The target's executorch wheel, or its folder; default: pip's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Build prge-run: the native runner for devices without Python."""
    show(builder.build_runner(output, target, wheel), as_json, "Built")
