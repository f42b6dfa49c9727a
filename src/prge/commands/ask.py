"""How a command settles what an example is: by its options, by the data, and where that leaves two ways, by asking."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.examples.detect import FormOptions, Reading, Unsure, read_form, words


def settled(asked: FormOptions, data: Path | None, hooks: Hooks) -> Reading:
    """How the data are read. What is worth saying of it is told.

    Raises:
        UserError: as `read_form`; or two ways are near, and nobody is there to choose. The message has a command for
            each.
    """
    while True:
        try:
            reading = read_form(asked, data)
            break
        except Unsure as e:
            chosen = hooks.ask(e.question, [what for what, _ in e.ways])
            if chosen is None:
                raise UserError(f"{e.question}; say what to do: {', or '.join(commands(e))}") from e
            asked = with_options(asked, e.ways[chosen][1])
    if reading.notes:
        hooks.tell("\n".join([f"Of {data}", *(f"  - {note}" for note in reading.notes)]))
    return reading


def with_options(asked: FormOptions, more: dict[str, Any]) -> FormOptions:
    """The options with those of one way."""
    return replace(asked, **{**more, "label": (*asked.label, *more.get("label", ()))})


def commands(unsure: Unsure) -> list[str]:
    """What to call for each way, spelled out, and what it means."""
    program, *given = sys.argv
    whole = shlex.join(["prge", *given]) + " " if Path(program).name in ("prge", "__main__.py") else ""
    return [f"`{whole}{words(options)}` ({what})" for what, options in unsure.ways]
