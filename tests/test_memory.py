"""What is said of memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prge import memory
from prge.cost import positions
from prge.runtime_driver.loop.calibrate import example_positions
from prge.runtime_driver.program.step import StepProgram


def test_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    here = memory.peak_megabytes()

    def missing(self: Path, *arguments: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr("prge.memory.Path.read_text", missing)
    assert abs(memory.peak_megabytes() - here) < 0.2 * here + 100


def test_an_example_s_share_of_memory_follows_its_positions(program_folder: Path, weights_program: Path) -> None:
    """Another q has as many positions as a program of that q would have."""
    for folder in (program_folder, weights_program):
        m = StepProgram(folder).manifest
        for queries in (1, 3, 16):
            whole = positions(replace(m, queries=queries), 20)[1]
            assert example_positions(m, queries, 20) * m.batch == whole
