"""The `prge generate` command: a text's continuation, written as it comes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from tokenizers.decoders import DecodeStream

from prge.cli.options import Json, State, Tokenizer
from prge.commands.open import read_state
from prge.commands.screen import err
from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.form import fill
from prge.manifest import TOKENIZER_FILE
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.program.generate import GenerateProgram


def generate(
    program: Annotated[Path, typer.Argument(help="A generate.pte, or the folder that holds it.")],
    text: Annotated[str, typer.Argument(help="What to continue.")],
    state: State = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: always the most likely token.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Draw among the likeliest tokens that sum to so much.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the draws.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="TEXT is a message, and what follows its answer.")] = False,
    tokenizer: Tokenizer = None,
    as_json: Json = False,
) -> None:
    """Continue a text, with what was trained applied."""
    loaded = GenerateProgram(program)
    encoder = Encoder(loaded.manifest, tokenizer or loaded.path.parent / TOKENIZER_FILE)
    m = loaded.manifest
    if chat:
        if not m.chat_template:
            raise UserError(f"{m.model} has no chat template; give the text without --chat")
        text = Chat(m.chat_template, m.special_tokens).render([{"role": "user", "content": text}], reply=True)
    text = fill("{text}", {"text": text}, "the text")
    prompt = encoder.tokenizer.encode(text, add_special_tokens=not chat).ids  # a chat template writes its own
    tokens = loaded.generate(prompt, read_state(loaded, state), max_new_tokens, temperature, top_p, seed)
    loaded.load()  # not on the clock
    # What is not yet a whole character waits for the tokens to come.
    stream, pieces = DecodeStream(ids=prompt, skip_special_tokens=True), list[str]()
    times, ended_by = [time.perf_counter()], "the model"
    try:
        for token in tokens:
            times.append(time.perf_counter())
            piece = stream.step(encoder.tokenizer, token)
            if piece:
                pieces.append(piece)
                if not as_json:
                    print(piece, end="", flush=True)
    except KeyboardInterrupt:
        ended_by = "interruption"
    count = len(times) - 1
    if count == max_new_tokens:
        ended_by = "--max-new-tokens"
    elif len(prompt) + count == m.max_tokens:
        ended_by = "the context's end"
    first = times[min(1, count)]
    result = {
        "text": "".join(pieces),
        "prompt_tokens": len(prompt),
        "new_tokens": count,
        "ended_by": ended_by,
        "prompt_seconds": first - times[0],
        "tokens_per_second": (count - 1) / (times[-1] - first) if count > 1 else 0.0,
    }
    if as_json:
        print(json.dumps(result))
        return
    print()
    err.print(
        f"{count} tokens, {result['tokens_per_second']:.1f} per second, after {len(prompt)} read in "
        f"{result['prompt_seconds']:.2f} s; ended by {ended_by}",
        style="dim",
        highlight=False,
    )
