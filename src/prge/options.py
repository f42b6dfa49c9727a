"""What a parameter means to a user: one text for who reads the signature and for the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prge.errors import UserError

# Paths are taken as text too.
AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Option:
    """Stands beside a parameter's type, as ``Annotated[int, Option("...")]``.

    The parameters of the functions in `prge.commands` are the command line's options: `prge.cli.options` reads them.

    Attributes:
        help: what it does, in a sentence.
        names: on the command line; empty for the parameter's own name.
        least, most: bounds of a number, included.
        parse: makes the value of a user's text; raises a `UserError` where it cannot.
        shown: the default as a person reads it; None for the default itself.
        argument: whether it is given by its place, without a name.
    """

    help: str
    names: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    parse: Callable[[str], Any] | None = None
    shown: str | None = None
    argument: bool = False


def parse_bytes(text: str) -> float:
    """'1.5GB' or '800MB', in bytes; a UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB)", text.strip(), re.IGNORECASE)
    if not found:
        raise UserError(f"{text!r}: write a number and MB or GB, as 1.5GB")
    return float(found[1]) * {"mb": 1e6, "gb": 1e9}[found[2].lower()]
