"""A run as a process of its own, light enough to be started hundreds of times."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prge.commands.train import resume as resume
from prge.commands.train import train
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.run.folder import CONFIG_FILE

STEPS = 400


def begin(program: Path, data: Path, output: Path, steps: int = STEPS, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "lr": 0.01,
        "eps": 0.02,
        "eval_every": 50,
    }
    tokenizer = changes.pop("tokenizer", None)
    source = Source(str(data / "train.tsv"), str(data / "test.tsv"), seed=3, truncate=True, tokenizer=tokenizer)
    return train(program, output, source, steps=steps, **settings | changes)


def go_on(program: Path, data: Path, run: Path) -> None:
    """What a user does after a kill, in silence."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    if (run / CONFIG_FILE).exists():
        resume(run)
    else:
        begin(program, data, run)
