"""What an export leaves out of torch's and ExecuTorch's work changes no byte of what it writes."""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import LABELS, TEMPLATE
from executorch.exir.tracer import _default_decomposition_table
from torch import nn
from torch.export import ExportedProgram
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

from prge.export.config import ExportConfig
from prge.export.known_calls import known_calls
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


def test_a_call_that_torch_has_seen_is_written_down_as_if_it_were_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same operator on other tensors, on one tensor twice, on other numbers; in place, of constants, of several."""

    def calls(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        known = torch.tensor([1.0, 2.0])
        found = [x * x, x * y, y * x, x * 0.0, x * -0.0, x.t() * y.t(), x * known, y * known, (known + 1.0) * x]
        for each in (x, y):
            changed = each.clone()
            changed.add_(each)
            found += [changed, *torch.var_mean(each, 0), *each.split(1), each.contiguous(), each.reshape(-1)]
            found += [
                torch.nn.functional.layer_norm(each, (2,)),
                torch.arange(2) * each,
                each * (known + 1.0)[0].item(),
            ]
        return [a + 0 * b for a, b in pairwise(found) if a.shape == b.shape] + found

    inputs = torch.zeros(2, 2), torch.zeros(2, 2)
    new = make_fx(calls, tracing_mode="fake")(*inputs)
    torch_s_own = Mock(side_effect=proxy_tensor.proxy_call)
    monkeypatch.setattr(proxy_tensor, "proxy_call", torch_s_own)
    monkeypatch.setattr(proxy_tensor, "proxy_call", known_calls())
    known = make_fx(calls, tracing_mode="fake")(*inputs)
    assert known.code == new.code
    for a, b in zip(known.graph.nodes, new.graph.nodes, strict=True):
        assert a.meta.get("tensor_meta") == b.meta.get("tensor_meta")
    assert 0 < torch_s_own.call_count < 0.8 * len(new.graph.nodes)
