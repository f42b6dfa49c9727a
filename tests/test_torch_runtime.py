"""The step in eager PyTorch gives the program's states and losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prge.errors import UserError
from prge.export.lower import example_inputs
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.runtime_driver.data import Encoder
from prge.runtime_driver.evaluate import evaluate
from prge.runtime_driver.program import StepProgram
from prge.runtime_driver.torch_runtime import TorchProgram, build_again
from prge.runtime_driver.train import TrainConfig, train

LOOPS = StepConfig(2, 2, "weights", "sgd", outer=False, inner=False)


def five_steps(program: StepProgram, data: Path) -> tuple[torch.Tensor, list[float]]:
    encoder = Encoder(program.manifest, program.path.parent / "tokenizer.json", truncate=True)
    config, state, losses = TrainConfig(5, lr=5e-3, eps=program.manifest.eps), program.initial_state(), []
    for new_state, record in train(program, state, encoder.examples(data, 16), [], config):
        state = new_state
        losses.append(record.loss)
    return state, losses


@pytest.mark.parametrize("step", [None, StepConfig(2, 2, "weights", "sgd"), LOOPS], ids=["activations", "weights", "loops"])
def test_five_steps_give_the_program_s_state(export: Callable[..., Path], demo_data: Path, step: Any) -> None:
    folder = export(step=step)
    expected, losses = five_steps(StepProgram(folder), demo_data / "train.tsv")
    state, others = five_steps(TorchProgram(folder), demo_data / "train.tsv")
    print((state - expected).abs().max(), expected.abs().max(), losses, others)
