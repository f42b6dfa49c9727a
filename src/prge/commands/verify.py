"""`prge verify`: what a file or folder is, and whether it is whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from tokenizers import Tokenizer

from prge.commands.first_run import run_once
from prge.errors import UserError
from prge.examples.read import read_file
from prge.files.bounded import TOKENIZER, check_size
from prge.lora import CONFIG_FILE as ADAPTER_CONFIG
from prge.lora import WEIGHTS_FILE, adapter_folder, read_lora
from prge.manifest import GENERATE_FILE, PROGRAM_FILE, TOKENIZER_FILE
from prge.options import AnyPath, Option
from prge.runtime_driver.data.hidden import HIDDEN_FILE, SHARED_NAME, kept_in, open_hidden
from prge.runtime_driver.data.packed import is_packed, read_packed
from prge.runtime_driver.loop.best import best_of
from prge.runtime_driver.program.state import open_state, steps_said
from prge.runtime_driver.run.folder import LOG_FILE, START_FILE, read_config, read_start
from prge.runtime_driver.run.journal import check_rows, read_journal
from prge.runtime_driver.run.snapshots import BEST_FILE, STATE_FILE, newest, read_snapshot
from prge.shell import word


def verify(
    file: Annotated[
        AnyPath,
        Option("A program, run, adapter, state, tokenizer or data file, or its folder.", argument=True),
    ],
) -> dict[str, Any]:
    """Say what a file or folder is, and whether it is whole; a program runs once, in a process of its own.

    Raises:
        UserError: it is nothing that prge knows, or it is damaged. The message says where.
    """
    path = Path(file)
    if path.is_dir():
        for name, look in ((PROGRAM_FILE, _programs), (LOG_FILE, _run), (ADAPTER_CONFIG, _adapter)):
            if (path / name).is_file():
                return look(path)
        if (path / GENERATE_FILE).is_file():
            return run_once(path / GENERATE_FILE)
        raise UserError(
            f"{path} is not a program, run or adapter folder (no {PROGRAM_FILE}, {LOG_FILE}, {ADAPTER_CONFIG})"
        )
    if path.suffix == ".pte":
        return run_once(path)
    if path.name in (ADAPTER_CONFIG, WEIGHTS_FILE):
        return _adapter(path.parent)
    if path.name == HIDDEN_FILE or SHARED_NAME.fullmatch(path.name):
        return _hidden(path)
    if path.suffix == ".safetensors":
        return _state(path)
    if path.name == LOG_FILE:
        return _run(path.parent)
    if path.name == TOKENIZER_FILE:
        return _tokenizer(path)
    if is_packed(path):
        _, (train, dev, _), words = read_packed(path)
        return {"kind": "packed data", "examples": train, "dev": dev, "words": len(words)}
    found = read_file(path).rows
    return {"kind": "data", "examples": len(found), "columns": sorted({name for _, row in found for name in row})}


def _programs(folder: Path) -> dict[str, Any]:
    found = run_once(folder / PROGRAM_FILE)
    if (folder / GENERATE_FILE).is_file():
        found["generator"] = run_once(folder / GENERATE_FILE)
    return found


def _run(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    rows, ends = read_journal(folder / LOG_FILE)
    check_rows(rows, folder / LOG_FILE)
    size, stands, start = (folder / LOG_FILE).stat().st_size, newest(folder, len(rows)), read_start(folder, config)
    if (folder / STATE_FILE).exists():
        try:
            read_snapshot(folder / STATE_FILE)
        except UserError as e:
            raise UserError(f"{e}; `prge train --resume {word(folder)}` goes on from step {stands.steps}") from e
    if start is not None and start.shape != stands.state.shape:
        raise UserError(
            f"{folder / START_FILE} holds {len(start):,} numbers, not {len(stands.state):,} as {STATE_FILE}"
        )
    best = _best(folder, config["train"]["after"], rows)
    found = {
        "kind": "run",
        "steps": len(rows),
        **({} if best is None else {"best_step": best}),
        "torn_bytes": size - (ends[-1] if ends else 0),
        "resumes_from_step": stands.steps,
    }
    if adapter_folder(folder) != folder:
        found["adapter"] = _adapter(adapter_folder(folder))
    hidden = kept_in(folder, config)
    if hidden and hidden.is_file():
        found["hidden_states"] = _hidden(hidden)
    return found


def _best(folder: Path, after: int, rows: Sequence[dict[str, Any]]) -> int | None:
    """The step behind which a run was the best, of a journal's ``rows``; its state's file is compared with it."""
    best, file = best_of(rows), folder / BEST_FILE
    if best is None and not file.is_file():
        return None
    steps = steps_said(file, open_state(file)[1]) - after
    # A run that was cut off may be ahead of its journal here: this file is written through first.
    if steps != best and rows and steps <= len(rows):
        raise UserError(f"{file} is the state of step {steps}, and the journal says that step {best} was the best")
    return best


def _adapter(folder: Path) -> dict[str, Any]:
    lora = read_lora(folder)
    numbers = sum(a.numel() + b.numel() for a, b in lora.pairs.values())
    return {"kind": "adapter", "base": lora.base, "rank": lora.rank, "modules": len(lora.pairs), "numbers": numbers}


def _hidden(path: Path) -> dict[str, Any]:
    states = open_hidden(path)
    return {"kind": "hidden states", "tokens": states.shape[0], "width": states.shape[1]}


def _state(path: Path) -> dict[str, Any]:
    state, metadata = open_state(path)
    return {
        "kind": "state",
        "base": metadata.get("base"),
        "numbers": state.numel(),
        "steps": metadata.get("steps"),
        "checksum": "right" if "crc" in metadata else "none",
    }


def _tokenizer(path: Path) -> dict[str, Any]:
    check_size(path, TOKENIZER)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as e:  # the library raises bare Exception
        raise UserError(f"{path} is not a tokenizer: {e}") from e
    return {"kind": "tokenizer", "tokens": tokenizer.get_vocab_size()}
