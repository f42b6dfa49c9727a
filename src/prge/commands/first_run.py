"""A program that is new to this installation runs once in a process of its own, before a command loads it.

A program that was made to crash the runtime then takes down that process, and not the command. Its digest is
remembered, so this happens once. What `prge export` made here is not new.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.examples.rows import Example
from prge.files.cache import cache_folder
from prge.files.seal import seal_of
from prge.manifest import FROZEN_FILE, GENERATE_FILE, TOKENIZER_FILE
from prge.quiet import quiet
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.program.base import check_file, find_program
from prge.runtime_driver.program.frozen import FrozenProgram
from prge.runtime_driver.program.generate import GenerateProgram
from prge.runtime_driver.program.step import StepProgram

# Seconds for a program to load and run once.
_PATIENCE = 600
# Of the cache: an empty file for every program that ran, by its digest.
_KNOWN = "known-programs"
# Of program, by the names that they are written under.
_KINDS = {FROZEN_FILE: "frozen", GENERATE_FILE: "generate"}


def try_first(path: Path, kind: str = "step", hooks: Hooks = Hooks()) -> None:
    """Run a program once in a process of its own, unless this installation knows it.

    The digest is the one that the program was sealed with. Loading it compares that with its bytes.

    Args:
        path: of the program, or its folder.
        kind: of program, as for `find_program`.

    Raises:
        UserError: as `run_once`.
    """
    file = find_program(path, kind)
    digest = seal_of(file)
    with suppress(UserError):  # without a cache nothing is known
        if digest and (cache_folder() / _KNOWN / digest).exists():
            return
    hooks.show("first run", 0, None, "a program that is new here, in a process of its own")
    run_once(file, kind)
    remember(file)
    hooks.tell(f"{file} is new here: it ran once in a process of its own, and is known from now on.")


def remember(file: Path) -> None:
    """Know a program from now on. Where nothing can be kept, it stays new."""
    with suppress(UserError, OSError):
        folder = cache_folder() / _KNOWN
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(seal_of(file))).touch()


def run_once(path: Path, kind: str | None = None) -> dict[str, Any]:
    """Run a program once, in a process of its own; gives what it is.

    One that was made to crash the runtime passes every check of its bytes.

    Args:
        kind: as for `try_first`; None to go by the file's name.

    Raises:
        UserError: it is missing or damaged, crashes the runtime, or takes longer than ten minutes.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    check_file(path)
    command = [sys.executable, "-m", "prge.commands.first_run", str(path), kind or _KINDS.get(path.name, "step")]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE)
    except subprocess.TimeoutExpired as e:
        raise UserError(f"one execution of {path} takes longer than {_PATIENCE} s") from e
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as e:
        died = f" ({signal.Signals(-done.returncode).name})" if done.returncode < 0 else ""
        raise UserError(f"{path} crashes the runtime{died}: it is damaged, or was made to do so; do not use it") from e
    if "error" in found:
        raise UserError(found["error"])
    return found


def _try(path: Path, kind: str) -> dict[str, Any]:
    """Run a program once, on rows of padding. A step runs its frozen part too."""
    if kind == "frozen":
        below = FrozenProgram(path)
        m = below.manifest
        below.states(torch.full((m.frozen_rows, max(m.min_tokens, 2)), m.pad_token))
        return {"kind": "frozen part", "model": m.model, "bytes": path.stat().st_size, "layers": m.first_layer}
    program = (GenerateProgram if kind == "generate" else StepProgram)(path)
    m, size, frozen = program.manifest, len(program.frozen()), program.constant("frozen")
    if m.adapter.sha256 != m.adapter.digest(frozen.numpy().tobytes()):
        raise UserError(f"{path} is not what its manifest says: its frozen factors have another digest")
    tokenizer = path.parent / TOKENIZER_FILE
    if tokenizer.is_file():
        Encoder(m, tokenizer)
    filled = (m.pad_token,) * (max(m.min_tokens, 2) - 1)
    state = program.initial_state()
    if isinstance(program, StepProgram):
        last = m.pad_token if m.mask_token is None else m.mask_token
        tokens, targets = collate([Example((*filled, last), 0, 1)] * m.rows, m)
        program.execute(state, tokens, targets, 0, 0.0, 0.0)
    elif isinstance(program, GenerateProgram):
        list(program.generate(filled, state, 1))
    return {
        "kind": "generator" if kind == "generate" else "program",
        "model": m.model,
        "objective": m.objective,
        "bytes": path.stat().st_size,
        "trains": m.parameters,
        "frozen": size,
        "tokenizer": "whole" if tokenizer.is_file() else "not beside it",
    }


if __name__ == "__main__":
    try:
        with quiet():
            result = _try(Path(sys.argv[1]), sys.argv[2])
    except UserError as e:
        result = {"error": str(e)}
    print(json.dumps(result))
