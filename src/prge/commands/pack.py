"""What `prge pack` does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prge.commands.open import ProgramPath, load
from prge.commands.train import skipped_of
from prge.options import AnyPath, Option
from prge.runtime_driver.data.packed import pack as write_packed
from prge.runtime_driver.data.source import Source


def pack(
    program: ProgramPath,
    output: Annotated[AnyPath, Option("The packed file to write, for example data.prge.", ("--output", "-o"))],
    source: Source = Source(),
) -> dict[str, Any]:
    """Turn examples into tokens, in one file that `prge train --data` and `prge-run` read."""
    loaded, output = load(program, tokenizer=source.tokenizer, truncate=source.truncate, first_run=True), Path(output)
    encoder = loaded.encoder()
    train, held, dropped = source.read(encoder)
    write_packed(output, loaded.manifest, train, held, dropped)
    result = {"examples": len(train), "dev": len(held), "bytes": output.stat().st_size, "packed": str(output)}
    return result | skipped_of(encoder)
