"""What an export leaves out of torch's and ExecuTorch's work changes no byte of what it writes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LABELS, TEMPLATE
from executorch.exir.tracer import _default_decomposition_table
from torch import nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from prge.export.config import ExportConfig
from prge.export.lower import Backend, LayeredPartitioner
from prge.export.program import export_program
from prge.manifest import FROZEN_FILE, PROGRAM_FILE
from prge.models.adapter import AdapterConfig
from prge.models.checkpoints import load_checkpoint
from prge.models.step import StepConfig
from prge.quiet import quiet

write: Any = sys.modules["prge.export.write"]
SETTINGS: list[dict[str, Any]] = [
    {"step": StepConfig(1, 2, "exact"), "quantization": "8da8w"},
    {"step": StepConfig(2, 2), "backend": "portable", "min_tokens": 40},
    {"step": StepConfig(2, 2, "weights", "sgd")},
    {"step": StepConfig(1, 2, "full"), "label_words": (), "target": " {label}", "max_targets": 4, "context": 64},
]


CASES = SETTINGS[: None if os.environ.get("PRGE_THOROUGH") else 1]


def config_of(settings: dict[str, Any]) -> ExportConfig:
    adapter = AdapterConfig(4, 8.0, layers=slice(1, None))
    common: dict[str, Any] = {"template": TEMPLATE, "label_words": LABELS, "max_tokens": 40, "adapter": adapter}
    return ExportConfig(**common | settings)


def operators(program: ExportedProgram) -> list[Any]:
    """What a program does, one by one, and the sizes of what comes of it; without assertions and what is unused."""
    for node in [node for node in program.graph.nodes if "_assert" in str(node.target)]:
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    sizes = [[getattr(v, "shape", None) for v in tree_leaves(node.meta["val"])] for node in nodes]
    return list(zip([str(node.target) for node in nodes], sizes, strict=True))


@pytest.mark.parametrize("settings", CASES)
def test_a_direct_trace_has_the_operators_of_torch_s_own(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """torch.export traces, then decomposes what it has traced."""
    direct, seen = write.trace, 0

    def both(module: nn.Module, inputs: Any, least: int, most: int, backend: Backend) -> ExportedProgram:
        nonlocal seen
        seen += 1
        table = _default_decomposition_table()
        for op in LayeredPartitioner(range(1)).ops_to_not_decompose(None)[0] if backend == "xnnpack" else []:
            table.pop(op, None)
        with torch.no_grad():
            whole = torch.export.export(module, inputs(least), strict=False).run_decompositions(table)
        found = direct(module, inputs, least, least, backend)
        assert operators(found) == operators(whole)
        return direct(module, inputs, least, most, backend)

    monkeypatch.setattr(write, "trace", both)
    with quiet():
        export_program(load_checkpoint(str(tiny_model)), config_of(settings), tmp_path / "out")
    assert seen >= 2


@pytest.mark.parametrize("settings", CASES)
def test_programs_are_the_same_bytes_with_all_of_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    config, files = config_of(settings), list[dict[str, bytes]]()
    for folder in (tmp_path / "quick", tmp_path / "all"):
        with quiet():
            export_program(load_checkpoint(str(tiny_model)), config, folder)
        files.append({file.name: file.read_bytes() for file in folder.glob("*.pte")})
        monkeypatch.setattr(sys.modules["prge.export.lower"], "quick", quiet)
    assert set(files[0]) >= {PROGRAM_FILE, FROZEN_FILE}
    assert files[0] == files[1]
