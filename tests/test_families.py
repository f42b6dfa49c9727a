"""The engine-friendly modules compute what transformers' own compute, for every family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import randomized
from transformers import AutoConfig, AutoModelForCausalLM

from prge.models.adapter import AdapterConfig
from prge.models.build import FAMILIES, LabelWordsObjective, LanguageModelObjective, UnsupportedModel, build_step
from prge.models.step import StepConfig

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
}


def tiny(family: str) -> Any:
    torch.manual_seed(0)
    return randomized(AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES))).eval()


@pytest.mark.parametrize("step_config", [StepConfig(2, 4), StepConfig(1, 2, "weights")])
@pytest.mark.parametrize("family", FAMILIES)
def test_step_losses_equal_the_model_s(family: str, step_config: StepConfig) -> None:
    tokens = torch.randint(0, 100, (4, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = tiny(family)(tokens).logits
        step = build_step(
            tiny(family), AdapterConfig(rank=2), step_config, LabelWordsObjective([5, 7, 9]), max_tokens=16
        ).step
        position, label = torch.tensor([10, 3, 0, 7]), torch.tensor([0, 1, 2, 0])
        zero, one = torch.zeros(1), torch.ones(1, dtype=torch.int64)
        _, losses, scores = step(torch.zeros(step.state_size), tokens, (position.unsqueeze(1), label), one, zero, zero)
    expected = logits[torch.arange(4), position][:, [5, 7, 9]]
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(losses, torch.nn.functional.cross_entropy(expected, label, reduction="none"))


@pytest.mark.parametrize("step_config", [StepConfig(2, 2), StepConfig(1, 1, "weights")])
def test_language_model_losses_equal_the_model_s(step_config: StepConfig) -> None:
    tokens = torch.randint(0, 100, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = tiny("llama")(tokens).logits
        objective = LanguageModelObjective(max_targets=3)
        step = build_step(tiny("llama"), AdapterConfig(rank=2), step_config, objective, max_tokens=16).step
        position, target = torch.tensor([[2, 3, 0], [5, 6, 7]]), torch.tensor([[11, 12, 0], [13, 14, 15]])
        weight = torch.tensor([[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]])
        zero, one = torch.zeros(1), torch.ones(1, dtype=torch.int64)
        _, losses, _ = step(torch.zeros(step.state_size), tokens, (position, target, weight), one, zero, zero)
    first = torch.nn.functional.cross_entropy(logits[0, 2:4], target[0, :2])
    second = torch.nn.functional.cross_entropy(logits[1, 5:8], target[1])
    torch.testing.assert_close(losses, torch.stack([first, second]))


def test_other_families_are_refused_by_name() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", n_layer=1, n_embd=8, n_head=1, vocab_size=50))
    with pytest.raises(UnsupportedModel, match=r"gpt2.*llama"):
        build_step(model, AdapterConfig(), StepConfig(), LabelWordsObjective([1, 2]), 8)


def test_too_short_a_window_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("mistral", **SIZES, sliding_window=8))
    with pytest.raises(UnsupportedModel, match="8 tokens"):
        build_step(model, AdapterConfig(), StepConfig(), LabelWordsObjective([1, 2]), 16)
