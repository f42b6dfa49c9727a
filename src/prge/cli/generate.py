"""`prge generate`: the text is written as it comes."""

from __future__ import annotations

from functools import partial
from typing import Any

from prge.cli.options import JSON, call, described, parameters
from prge.commands import screen
from prge.commands.generate import generate as continue_text


def generate(as_json: bool, **given: Any) -> None:
    """Set by `described`."""
    if as_json:
        screen.print_json(call(continue_text, given, as_json))
        return
    found = call(continue_text, given, as_json, write=partial(print, end="", flush=True))
    print()
    screen.err.print(
        f"{found['new_tokens']} tokens, {found['tokens_per_second']:.1f} per second, after "
        f"{found['prompt_tokens']} read in {found['prompt_seconds']:.2f} s; ended by {found['ended_by']}",
        style="dim",
        highlight=False,
    )


described(generate, continue_text, [*parameters(continue_text), JSON])
