"""What `prge generate` does: continues a text, piece by piece."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tokenizers.decoders import DecodeStream

from prge.commands.first_run import try_first
from prge.commands.hooks import Hooks
from prge.commands.open import StatePath, Tokenizer, read_state
from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.form import fill
from prge.examples.rows import check_known
from prge.manifest import TOKENIZER_FILE
from prge.options import AnyPath, Option
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.program.generate import GenerateProgram


def generate(
    program: Annotated[AnyPath, Option("A generate.pte, or the folder that holds it.", argument=True)],
    text: Annotated[str, Option("What to continue.", argument=True)],
    state: StatePath = None,
    max_new_tokens: Annotated[int, Option("Most tokens to write.", least=1)] = 128,
    temperature: Annotated[
        float, Option("Divides the logits before a random draw; 0 takes the most likely token.", least=0.0)
    ] = 0.0,
    top_p: Annotated[
        float, Option("Draw only among the most likely tokens whose probabilities add up to this.", least=0.0, most=1.0)
    ] = 1.0,
    seed: Annotated[int, Option("Seed of the random draws.", least=0, most=2**31 - 1)] = 0,
    chat: Annotated[bool, Option("Take TEXT as a chat message and write the answer.", ("--chat",))] = False,
    tokenizer: Tokenizer = None,
    write: Callable[[str], None] = lambda piece: None,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Continue a text, with what was trained applied.

    Args:
        write: hears every piece of text as it comes.

    Returns:
        ``text``, what was written; ``prompt_tokens`` and ``new_tokens``; ``ended_by``; ``prompt_seconds``, to the first
        token; ``tokens_per_second`` of the others.
    """
    try_first(Path(program), "generate", hooks)
    loaded = GenerateProgram(Path(program))
    m = loaded.manifest
    encoder = Encoder(m, Path(tokenizer) if tokenizer else loaded.path.parent / TOKENIZER_FILE)
    if chat:
        if not m.chat_template:
            raise UserError(f"{m.model} has no chat template; give the text without --chat")
        text = Chat(m.chat_template, m.special_tokens).render([{"role": "user", "content": text}], reply=True)
    text = fill("{text}", {"text": text}, "the text")
    prompt = encoder.tokenizer.encode(text, add_special_tokens=not chat).ids  # a chat template writes its own
    check_known(prompt, m.architecture.vocabulary, encoder.tokenizer, "the text")
    tokens = loaded.generate(prompt, read_state(loaded, state), max_new_tokens, temperature, top_p, seed)
    loaded.load()  # not on the clock
    # A character of several tokens is written when its last one has come.
    stream, pieces = DecodeStream(ids=prompt, skip_special_tokens=True), list[str]()
    times, ended_by = [time.perf_counter()], "the model"
    try:
        for token in tokens:
            times.append(time.perf_counter())
            piece = stream.step(encoder.tokenizer, token)
            if piece:
                pieces.append(piece)
                write(piece)
    except KeyboardInterrupt:
        ended_by = "interruption"
    count = len(times) - 1
    if count == max_new_tokens:
        ended_by = "--max-new-tokens"
    elif len(prompt) + count == m.max_tokens:
        ended_by = "the context's end"
    first = times[min(1, count)]
    return {
        "text": "".join(pieces),
        "prompt_tokens": len(prompt),
        "new_tokens": count,
        "ended_by": ended_by,
        "prompt_seconds": first - times[0],
        "tokens_per_second": (count - 1) / (times[-1] - first) if count > 1 else 0.0,
    }
