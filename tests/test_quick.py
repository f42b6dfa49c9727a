"""What an export leaves out of torch's and ExecuTorch's work changes no byte of what it writes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, TEMPLATE

from prge.export.config import ExportConfig
from prge.export.program import export_program
from prge.manifest import FROZEN_FILE, PROGRAM_FILE
from prge.models.adapter import AdapterConfig
from prge.models.checkpoints import load_checkpoint
from prge.models.step import StepConfig
from prge.quiet import quiet

SETTINGS: list[dict[str, Any]] = [
    {"step": StepConfig(1, 2, "exact"), "quantization": "8da8w"},
    {"step": StepConfig(2, 2), "backend": "portable"},
    {"step": StepConfig(2, 2, "weights", "sgd")},
    {"step": StepConfig(1, 2, "full"), "label_words": (), "target": " {label}", "max_targets": 4, "context": 64},
]


@pytest.mark.parametrize("settings", SETTINGS[: None if os.environ.get("PRGE_THOROUGH") else 1])
def test_programs_are_the_same_bytes_with_all_of_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    adapter = AdapterConfig(4, 8.0, layers=slice(1, None))
    common: dict[str, Any] = {"template": TEMPLATE, "label_words": LABELS, "max_tokens": 40, "adapter": adapter}
    config, files = ExportConfig(**common | settings), list[dict[str, bytes]]()
    for folder in (tmp_path / "quick", tmp_path / "all"):
        with quiet():
            export_program(load_checkpoint(str(tiny_model)), config, folder)
        files.append({file.name: file.read_bytes() for file in folder.glob("*.pte")})
        monkeypatch.setattr(sys.modules["prge.export.lower"], "quick", quiet)
    assert set(files[0]) >= {PROGRAM_FILE, FROZEN_FILE}
    assert files[0] == files[1]
