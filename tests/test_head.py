"""The label words' rows of the head, where they train: against autograd, PEFT and llama.cpp's file format."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from conftest import tiny_config
from gguf import GGUFReader
from peft import PeftModel
from transformers import AutoModelForCausalLM

from prge.errors import UserError
from prge.examples.rows import Example
from prge.lora import read_lora
from prge.manifest import ESTIMATES, Manifest
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.program.generate import GenerateProgram
from prge.runtime_driver.program.state import fit_lora, save_peft
from prge.runtime_driver.program.step import StepProgram

WITH_HEAD = AdapterConfig(rank=4, alpha=8.0, layers=slice(None), subspace="fisher", directions=3, head=True)
Export = Callable[..., Path]


def random_state(program: StepProgram) -> torch.Tensor:
    state, size = program.initial_state(), program.manifest.parameters
    state[:size] = 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(1))
    return state


def rows(m: Manifest) -> list[Example]:
    g = torch.Generator().manual_seed(0)
    lengths = [m.max_tokens, *(9 + i for i in range(m.batch - 1))]
    return [
        Example(tuple(torch.randint(1, 600, (n,), generator=g).tolist()), i % len(m.labels), 1)
        for i, n in enumerate(lengths)
    ]


def scores_of(program: StepProgram, state: torch.Tensor, batch: list[Example]) -> torch.Tensor:
    tokens, targets = collate(batch, program.manifest)
    return program.execute(state, tokens, targets, 0, 0.0, 0.0)[2]


def base(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


@pytest.fixture(scope="session", params=[True, False], ids=["tied", "untied"])
def model(request: Any, tiny_model: Path, make_model: Callable[[Any], Path]) -> Path:
    return tiny_model if request.param else make_model(tiny_config(tie_word_embeddings=False))


@pytest.fixture(scope="session")
def folder(export: Export, model: Path) -> Path:
    """A step and a generator in float32."""
    return export(model=model, step=StepConfig(1, 2, "exact"), adapter=WITH_HEAD, context=64)


@pytest.fixture(scope="session")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a random state is as an adapter of PEFT's."""
    program, saved = StepProgram(folder), tmp_path_factory.mktemp("head") / "adapter"
    save_peft(saved, program.manifest, program.frozen(), random_state(program))
    return saved


@pytest.mark.parametrize("gradient", ["exact", "full"])
def test_its_gradient_is_autograd_s(export: Export, model: Path, gradient: Any) -> None:
    program = StepProgram(export(model=model, step=StepConfig(1, 2, gradient), adapter=WITH_HEAD))
    m, state, hf = program.manifest, random_state(program), base(model)
    head, batch = m.adapter.head, rows(m)
    assert head is not None and head.offset == m.parameters - 32 * len(m.labels)
    new, losses = program.step(state, *collate(batch, m), 0, 0.0, 0.0)
    size = m.parameters
    expected = reference.gradient(hf, m, program.frozen(), state[:size], batch)
    got = new[size : 2 * size] / (1 - m.betas[0])
    every = slice(None) if gradient == "full" else slice(head.offset, None)
    torch.testing.assert_close(got[every], expected[every], rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    each = [reference.loss(hf, m, program.frozen(), state[:size], e) for e in batch]
    torch.testing.assert_close(losses, torch.stack(each).detach(), rtol=1e-4, atol=1e-5)


def test_peft_and_the_generator_compute_the_same(folder: Path, adapter: Path, model: Path) -> None:
    program, generator = StepProgram(folder), GenerateProgram(folder)
    m, state, batch = program.manifest, random_state(program), rows(program.manifest)
    peft = PeftModel.from_pretrained(base(model), str(adapter)).eval()
    scores = scores_of(program, state, batch)
    for row, found in zip(batch, scores, strict=True):
        with torch.no_grad():
            expected = peft(torch.tensor([row.tokens])).logits[0, -1]
        torch.testing.assert_close(found, expected[[label.token for label in m.labels]], rtol=0, atol=1e-4)
        read = generator.read(state, list(row.tokens), generator.new_cache())
        torch.testing.assert_close(read, expected, rtol=0, atol=1e-4)


def test_a_merge_changes_the_head_and_not_the_embedding(
    prge: Callable[..., tuple[int, Any]], adapter: Path, model: Path, tmp_path: Path
) -> None:
    code, _ = prge("merge", adapter, "--model", model, "-o", tmp_path / "merged")
    assert code == 0
    peft, merged = PeftModel.from_pretrained(base(model), str(adapter)).eval(), base(tmp_path / "merged")
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, peft(tokens).logits, rtol=0, atol=1e-4)
    assert torch.equal(merged.get_input_embeddings().weight, base(model).get_input_embeddings().weight)
    assert not torch.equal(merged.get_output_embeddings().weight, base(model).get_output_embeddings().weight)
    code, _ = prge("merge", adapter, "--model", model, "-o", tmp_path / "whole", "--to", "gguf")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "whole" / "model.gguf").tensors}
    assert code == 0
    torch.testing.assert_close(torch.tensor(tensors["output.weight"]), merged.get_output_embeddings().weight.detach())
    code, told = prge("merge", adapter, "--model", model, "-o", tmp_path / "lora", "--to", "lora-gguf")
    if base(model).config.tie_word_embeddings:
        assert code == 1 and "--to gguf" in told["error"] and not (tmp_path / "lora").exists()
        return
    assert code == 0
    pair = {t.name: torch.tensor(t.data) for t in GGUFReader(tmp_path / "lora" / "adapter.gguf").tensors}
    moved = pair["output.weight.lora_b"] @ pair["output.weight.lora_a"]
    expected = merged.get_output_embeddings().weight - base(model).get_output_embeddings().weight
    torch.testing.assert_close(moved, expected.detach(), rtol=0, atol=1e-5)


def test_it_comes_back_as_a_state_and_as_a_program(
    prge: Callable[..., tuple[int, Any]], folder: Path, adapter: Path, model: Path, tmp_path: Path
) -> None:
    program = StepProgram(folder)
    m, state, size = program.manifest, random_state(program), program.manifest.parameters
    torch.testing.assert_close(
        fit_lora(read_lora(adapter), m, program.frozen())[:size], state[:size], rtol=1e-4, atol=1e-5
    )
    words = [f"--label={label.name}={label.word}" for label in m.labels]
    options = ["--template", m.template, "--max-tokens", 40, "-b", 2, "--gradient", "exact", "--quantization", "f32"]
    code, _ = prge("export", model, "-o", tmp_path / "again", *options, *reversed(words), "--adapter", adapter)
    assert code == 0
    other, batch = StepProgram(tmp_path / "again"), rows(m)
    scores = scores_of(other, other.initial_state(), batch)
    torch.testing.assert_close(scores.flip(1), scores_of(program, state, batch), rtol=0, atol=1e-3)
    code, told = prge(
        "export", model, "-o", tmp_path / "other", *options, "--label=a= in", "--label=b= to", "--adapter", adapter
    )
    assert code == 1 and "--label options" in told["error"] and not (tmp_path / "other").exists()


def test_it_trains_where_there_are_many_classes(export: Export) -> None:
    """And an exact or a full gradient."""
    words = tuple((f"kind {c}", c) for c in "ABCDEFGHIJK")
    cases: list[tuple[Any, Any, bool]] = [
        (words, "exact", True), (words, "full", True), (words[:10], "exact", False), (words, "activations", False)
    ]  # fmt: skip
    for labels, gradient, trains in cases:
        step = StepConfig(2 if gradient in ESTIMATES else 1, 2, gradient)
        program = StepProgram(export(step=step, label_words=labels))
        m = program.manifest
        assert (m.adapter.head is not None) == trains
        if not trains:  # a digest is as it was before heads could train
            layout = {**asdict(m.adapter), "sha256": ""}
            del layout["head"]
            factors = program.constant("frozen").numpy().tobytes()
            assert m.adapter.sha256 == hashlib.sha256(json.dumps(layout).encode() + factors).hexdigest()
        assert m.state_size == 3 * (sum(x.size for x in m.adapter.modules) + 32 * len(labels) * trains)


def test_a_program_from_before_has_no_trained_head(program_folder: Path) -> None:
    old = json.loads(StepProgram(program_folder).manifest.to_json()) | {"version": 4}
    del old["adapter"]["head"]
    assert Manifest.from_json(json.dumps(old), "old").adapter.head is None
    for version in (3, 6):
        with pytest.raises(UserError, match=f"manifest version {version}"):
            Manifest.from_json(json.dumps(old | {"version": version}), "old")


def test_a_head_that_cannot_train_is_refused(
    prge: Callable[..., tuple[int, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    words = ["--label", "today= today", "--label", "later= later"]
    for options in (["--gradient", "activations", *words], ["--target", " {label}"]):
        code, told = prge("export", tiny_model, "-o", tmp_path / "out", "--head", *options)
        assert code == 1 and "--head trains" in told["error"] and not (tmp_path / "out").exists()
