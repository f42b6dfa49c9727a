"""The step in eager PyTorch gives the program's states and losses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prge.eager import TorchProgram, build_again
from prge.errors import UserError
from prge.export.lower import example_inputs
from prge.export.quantize import quantize
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.train import TrainConfig, fold
from prge.runtime_driver.program.step import StepProgram

WEIGHTS = StepConfig(2, 2, "weights", "sgd")
EXACT = StepConfig(1, 2, "exact")
LOOPS = StepConfig(2, 2, "weights", "sgd", outer=False, inner=False)


def five_steps(program: StepProgram, data: Path, lr: float = 5e-3) -> tuple[torch.Tensor, torch.Tensor]:
    """(the state after five steps, their losses)."""
    encoder = Encoder(program.manifest, program.path.parent / "tokenizer.json", truncate=True)
    config, state, losses = TrainConfig(5, lr, program.manifest.eps), program.initial_state(), []
    for new_state, record in fold(program, state, encoder.examples(data, 16), [], config):
        state = new_state
        losses.append(record.loss)
    return state, torch.tensor(losses)


@pytest.mark.parametrize(("subspace", "seed"), [(None, 7), ("svd", 0), ("fisher", 0)])
def test_the_frozen_factors_are_the_program_s(export: Callable[..., Path], subspace: Any, seed: int) -> None:
    """From whatever they were made at export: LoRA-FA's A here is of another seed than the default."""
    adapter = AdapterConfig(rank=4, alpha=8.0, subspace=subspace, directions=3, seed=seed)
    program = StepProgram(export(step=WEIGHTS, adapter=adapter))
    built = build_again(program, program.manifest.max_tokens)
    factors = [f.reshape(-1) for layer in built.adapters for f in (layer.down, layer.up) if f is not None]
    assert torch.equal(torch.cat(factors), program.frozen())


def test_five_steps_of_lora_fa_with_another_seed(export: Callable[..., Path], demo_data: Path) -> None:
    folder = export(step=WEIGHTS, adapter=AdapterConfig(rank=4, alpha=8.0, subspace=None, seed=7))
    expected, losses = five_steps(StepProgram(folder), demo_data / "train.tsv", lr=0.05)
    state, others = five_steps(TorchProgram(folder), demo_data / "train.tsv", lr=0.05)
    torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(others, losses, rtol=0, atol=1e-5)


@pytest.mark.parametrize("step", [None, EXACT, WEIGHTS, LOOPS], ids=["activations", "exact", "weights", "loops"])
def test_five_steps_give_the_program_s_state(export: Callable[..., Path], demo_data: Path, step: Any) -> None:
    folder = export(step=step)
    expected, losses = five_steps(StepProgram(folder), demo_data / "train.tsv")
    state, others = five_steps(TorchProgram(folder), demo_data / "train.tsv")
    size = StepProgram(folder).manifest.parameters
    torch.testing.assert_close(state[:size], expected[:size], rtol=1e-4, atol=1e-5)
    # Means of gradients: a loss's rounding, 1e-6, over eps.
    torch.testing.assert_close(state[size:], expected[size:], rtol=1e-4, atol=5e-5)
    torch.testing.assert_close(others, losses, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("quantization", "tolerance"), [("8da8w", 5e-3), ("8da4w", 3e-2)])
def test_quantized_losses_agree(
    export: Callable[..., Path], make_model: Callable[..., Path], demo_data: Path, quantization: str, tolerance: float
) -> None:
    """Of five batches at the initial state; 8da4w's delegate rounds its weights' scales to bfloat16."""
    folder = export(model=make_model(tiny_config(initializer_range=0.1)), quantization=quantization)
    _, expected = five_steps(StepProgram(folder), demo_data / "train.tsv", lr=0.0)
    _, losses = five_steps(TorchProgram(folder), demo_data / "train.tsv", lr=0.0)
    torch.testing.assert_close(losses, expected, rtol=0, atol=tolerance)


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of another device than meta; wrapped numbers may be anywhere."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, kwargs, result)):
            assert not isinstance(tensor, torch.Tensor) or tensor.dim() == 0 or tensor.is_meta, func
        return result


@pytest.mark.parametrize("quantization", ["f32", "8da8w", "8da4w"])
@pytest.mark.parametrize("step", [None, WEIGHTS], ids=["activations", "weights"])
def test_all_of_a_step_stays_on_its_device(export: Callable[..., Path], step: Any, quantization: Any) -> None:
    program = StepProgram(export(step=step))
    built = build_again(program, program.manifest.max_tokens)
    quantize(built.step, built.base_linears, quantization)
    state, _, tokens, targets, *scalars = example_inputs(built.step, 9)
    state, tokens, *scalars = (t.to("meta") for t in (state, tokens, *scalars))
    module, targets = built.step.to("meta"), tuple(t.to("meta") for t in targets)
    with torch.no_grad(), OneDevice():
        results = module(state, module.backbone.frozen(tokens), tokens, targets, *scalars)
    assert results[0].shape == state.shape and all(t.is_meta for t in results)


def test_runs_on_either_runtime_are_alike(
    prge: Callable[..., tuple[int, Any]], program_folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    """The same log but for the seconds, and a state that the other runtime goes on from, or evaluates."""
    data = ["--data", demo_data / "train.tsv", "--truncate"]
    command = ["train", program_folder, *data, "--examples", 20, "--steps", 3, "--lr", 0.01]
    logs = []
    for runtime in ("executorch", "torch"):
        code, _ = prge(*command, "--runtime", runtime, "-o", tmp_path / runtime)
        assert code == 0
        logs.append([json.loads(line) for line in (tmp_path / runtime / "log.jsonl").read_text().splitlines()])
        described = json.loads((tmp_path / runtime / "config.json").read_text())
        assert described["runtime"] == {"executorch": "executorch", "torch": "torch cpu"}[runtime]
    for row, other in zip(*logs, strict=True):
        assert row.keys() == other.keys()
        for name in row.keys() - {"seconds", "dev", "crc"}:
            assert row[name] == pytest.approx(other[name], rel=1e-5), name
    code, done = prge(*command, "--from", tmp_path / "torch", "-o", tmp_path / "more")
    assert code == 0 and done["steps"] == 3
    evaluations = [
        prge("eval", program_folder, *data, "--state", tmp_path / "more", "--runtime", runtime)[1]
        for runtime in ("executorch", "torch")
    ]
    assert evaluations[0]["loss"] == pytest.approx(evaluations[1]["loss"], abs=1e-5)


def test_a_missing_device_is_refused(program_folder: Path) -> None:
    for device in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"--device {device}: PyTorch has no such device"):
            TorchProgram(program_folder, device)
