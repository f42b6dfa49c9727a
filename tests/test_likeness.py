"""Decoders that nobody declared: taken where what is made of them computes the same; the table in docs/families.md."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import randomized
from test_families import COMMON, ENCODERS, EXACT, GATED, TABLE, all_linears, check_peft, check_scores, config
from test_step import compare_step, random_batch
from transformers import AutoConfig, AutoModelForCausalLM

from prge.errors import UserError
from prge.export.config import ExportConfig
from prge.export.program import export_program
from prge.models.adapter import AdapterConfig
from prge.models.build import LabelWordsObjective, build_step
from prge.models.checkpoints import load_checkpoint
from prge.models.comparison import Original
from prge.models.families import FAMILIES, UnsupportedModel
from prge.models.likeness import _find, family_of
from prge.models.step import StepConfig
from prge.runtime_driver.program.step import StepProgram

THOROUGH = bool(os.environ.get("PRGE_THOROUGH"))

# What each has beside the others.
TAKEN: dict[str, dict[str, Any]] = {
    "smollm3": GATED | {"no_rope_layers": [0, 1]},
    "olmo2": GATED,
    "olmo3": GATED | {"sliding_window": 6},
    "granite": GATED
    | {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    "gemma": GATED,
    "exaone4": GATED | {"sliding_window": 6},
    "ministral": GATED | {"sliding_window": 6},
    "seed_oss": GATED,
    "starcoder2": GATED,
    "stablelm": {"intermediate_size": 48, "num_key_value_heads": 2, "use_parallel_residual": True},
    "phi": {"intermediate_size": 48},
    "arcee": GATED,
    "cohere": GATED | {"logit_scale": 0.5},
    "ernie4_5": GATED,
    "glm4": GATED,
    "helium": GATED,
}
# Who writes a whole program in every run of the tests; the others with PRGE_THOROUGH.
WHOLE = [*TAKEN] if THOROUGH else ["smollm3", "olmo2", "granite", "ernie4_5"]
REFUSED = {
    "nemotron": "the attention of its layer 0 computes otherwise than prge would",
    "diffllama": "the attention of its layer 0 computes otherwise than prge would",
    "xglm": "what it makes of its embeddings computes otherwise than prge would",
    "olmo": "the exact gradient has no rule for 'layer_norm'",
    "llama4_text": "layers of type chunked_attention are not supported",
    "mamba": "its layers have no attention with linears",
    "gemma4_text": "its layers differ in head_dim",
}


def undeclared(kind: str) -> Any:
    return AutoConfig.for_model(kind, **COMMON | (TAKEN.get(kind) or GATED))


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ENCODERS])
def test_what_is_declared_would_be_found(family: str) -> None:
    assert _find(config(family)) == FAMILIES[family]


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("step_config", [EXACT, StepConfig(2, 2)])
def test_the_modules_compute_the_same(kind: str, step_config: StepConfig) -> None:
    """Against the model of transformers, at two positions of rows that are padded by real tokens."""
    torch.manual_seed(0)
    model = randomized(AutoModelForCausalLM.from_config(undeclared(kind))).eval()
    tokens, words = torch.randint(0, 100, (2, 11)), [5, 7, 9]
    original = Original(model, 32)
    with torch.no_grad():
        logits = model(tokens).logits
    built = build_step(model, AdapterConfig(rank=2), step_config, LabelWordsObjective(words), 32)
    original.check(built, words)
    check_scores(built.step, tokens, logits, torch.tensor([10, 3]), torch.tensor([0, 2]))


@pytest.mark.parametrize("kind", WHOLE)
def test_programs_of_undeclared_decoders(
    kind: str, make_model: Callable[..., Path], export: Callable[..., Path], tmp_path: Path
) -> None:
    model = make_model(undeclared(kind))
    program = StepProgram(export(model=model, adapter=all_linears("fisher"), step=EXACT))
    hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    batch = random_batch(program)
    compare_step(program, hf, batch)
    words = [label.token for label in program.manifest.labels]
    check_peft(program, hf, batch, tmp_path, lambda model, tokens: model(tokens).logits[0, -1, words])


@pytest.mark.parametrize(("kind", "reason"), REFUSED.items())
def test_what_computes_otherwise_is_refused(
    kind: str, reason: str, make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Before anything is traced, and nothing is left."""
    settings: dict[str, Any] = {"template": "{text}", "label_words": (("a", "0"), ("b", "1")), "max_tokens": 16}
    with pytest.raises(UserError) as refused:
        checkpoint = load_checkpoint(str(make_model(undeclared(kind))))
        export_program(checkpoint, ExportConfig(all_linears("svd"), EXACT, **settings), tmp_path / "program")
    assert reason in str(refused.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss", "granitemoe", "mixtral", "deepseek_v3"])
def test_mixtures_of_experts_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedModel, match="mixture of experts"):
        family_of(AutoConfig.for_model(kind))


@pytest.mark.parametrize("kind", ["albert", "mpnet", "deberta-v2"])
def test_encoders_have_to_be_declared(kind: str) -> None:
    with pytest.raises(UnsupportedModel, match="encoders of this type are not supported; these are: bert, "):
        family_of(AutoConfig.for_model(kind))


def test_a_part_that_differs_is_named() -> None:
    """Also a little one: an activation's approximation."""

    def built(**changes: Any) -> Any:
        torch.manual_seed(0)
        model = randomized(AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma", **COMMON | GATED | changes)))
        return model.eval()

    def check(other: Any) -> None:
        Original(built(), 16).check(build_step(other, AdapterConfig(2), EXACT, LabelWordsObjective([5, 7]), 16), [5, 7])

    check(built())
    others: list[tuple[dict[str, Any], str]] = [
        ({"hidden_act": "quick_gelu"}, "its layer 0, outside of the attention,"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}, "the attention of its layer 0"),
    ]
    for changes, part in others:
        with pytest.raises(UnsupportedModel, match=f"and {part} computes otherwise"):
            check(built(**changes))


def test_the_page_says_which_are_taken() -> None:
    text = TABLE.read_text()
    begin, end = text.index("<!-- undeclared -->"), text.index("<!-- end of undeclared -->")
    rows = [f"| {kind} | taken |" for kind in TAKEN] + [f"| {kind} | {reason} |" for kind, reason in REFUSED.items()]
    table = "\n".join(["<!-- undeclared -->", "| type | verdict |", "| --- | --- |", *rows, ""])
    if os.environ.get("PRGE_WRITE_TABLES"):
        TABLE.write_text(text[:begin] + table + text[end:])
    else:
        assert text[begin:end] == table
