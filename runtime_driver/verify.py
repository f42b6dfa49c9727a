"""`prge verify`: what a file or folder of ours is, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prge.errors import UserError
from prge.lora import CONFIG_FILE as ADAPTER_CONFIG
from prge.lora import read_lora
from prge.manifest import PROGRAM_FILE, TOKENIZER_FILE
from prge.runtime_driver.data import Encoder
from prge.runtime_driver.data_files import read_records
from prge.runtime_driver.journal import read_journal
from prge.runtime_driver.program import StepProgram
from prge.runtime_driver.runs import LOG_FILE
from prge.runtime_driver.snapshots import newest, read_snapshot


def verify(path: Path) -> dict[str, Any]:
    """Read all of it and say what it is.

    Raises:
        UserError: nothing that prge knows, or not whole, with where.
    """
    if path.is_dir():
        for name, look in ((PROGRAM_FILE, _program), (LOG_FILE, _run), (ADAPTER_CONFIG, _adapter)):
            if (path / name).is_file():
                return look(path)
        raise UserError(
            f"{path} is no program, run or adapter folder (no {PROGRAM_FILE}, {LOG_FILE}, {ADAPTER_CONFIG})"
        )
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.suffix == ".pte":
        return _program(path)
    if path.suffix == ".safetensors":
        found = read_snapshot(path)
        return {"kind": "state", "steps": found.steps, "numbers": found.state.numel()}
    return {"kind": "data", "examples": len(read_records(path))}


def _program(path: Path) -> dict[str, Any]:
    program = StepProgram(path)
    m = program.manifest
    tokenizer = program.path.parent / TOKENIZER_FILE
    if tokenizer.is_file():
        Encoder(m, tokenizer)
    return {"kind": "program", "model": m.model, "objective": m.objective, "bytes": program.path.stat().st_size}


def _run(folder: Path) -> dict[str, Any]:
    rows, ends = read_journal(folder / LOG_FILE)
    size = (folder / LOG_FILE).stat().st_size
    stands = newest(folder, len(rows))
    return {
        "kind": "run",
        "steps": len(rows),
        "torn_bytes": size - (ends[-1] if ends else 0),
        "resumes_from_step": stands.steps if stands else 0,
    }


def _adapter(folder: Path) -> dict[str, Any]:
    lora = read_lora(folder)
    return {"kind": "adapter", "base": lora.base, "rank": lora.rank, "modules": len(lora.pairs)}
