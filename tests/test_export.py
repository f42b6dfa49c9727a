"""What cannot be exported or used is refused in one sentence, before anything slow is done."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, TEMPLATE, tiny_config
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForMaskedLM

from prge.errors import UserError
from prge.export.config import ExportConfig
from prge.export.describe import refuse_unusable
from prge.export.merge import merge_adapters
from prge.export.program import export_program
from prge.manifest import Label, Manifest
from prge.models.adapter import AdapterConfig
from prge.models.checkpoints import load_checkpoint, load_sizes
from prge.models.step import StepConfig
from prge.runtime_driver.program.state import save_peft
from prge.runtime_driver.program.step import StepProgram

FISHER, SVD = {"subspace": "fisher"}, {"subspace": "svd"}
RECORDS = [{"text": "a text", "label": "today"}]
MOST = 2**31 - 1


@pytest.fixture
def refused(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The sentence with which an export is refused; nothing slow may begin, and nothing may be left."""

    def slow(*_: Any, **__: Any) -> None:
        raise AssertionError("something slow was begun")

    module = sys.modules["prge.export.program"]  # `prge.export` by itself is the function
    for name in ("text_rows", "fisher_factors", "lora_factors", "build_step", "add_label_head", "write_program"):
        monkeypatch.setattr(module, name, slow)

    def run(
        model: Path | None = None, adapter: Any = SVD, step: Any = None, texts: bool = False, **changes: Any
    ) -> str:
        settings: dict[str, Any] = {"template": TEMPLATE, "label_words": LABELS, "max_tokens": 40} | changes
        config = ExportConfig(AdapterConfig(**{"rank": 4, **adapter}), StepConfig(**step or {}), **settings)
        checkpoint = load_checkpoint(str(model or tiny_model))
        with pytest.raises(UserError) as error:
            export_program(checkpoint, config, tmp_path / "out", records=RECORDS if texts else ())
        assert list(tmp_path.iterdir()) == []
        return str(error.value)

    return run


@pytest.mark.parametrize("name", ["eps", "lr", "alpha"])
@pytest.mark.parametrize("value", [0.0, -1.0, nan, inf, -inf, 1e39, 1e-50])
def test_numbers_that_no_step_could_use(refused: Callable[..., str], name: str, value: float) -> None:
    changes = {"adapter": {"alpha": value}} if name == "alpha" else {name: value}
    assert refused(**changes) == f"--{name} must be above zero, and a number that float32 can hold, not {value}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"adapter": FISHER | {"directions": 33}, "texts": True}, r"33 directions are more than the 32 outputs"),
        ({"adapter": FISHER | {"directions": 0}, "texts": True}, r"--directions \(0\) must be at least 1"),
        ({"adapter": FISHER | {"rank": 33}, "texts": True}, r"rank 33 is larger.*q_proj \(32 x 32\)"),
        ({"adapter": {"rank": 0}}, r"--rank \(0\)"),
        ({"adapter": FISHER}, r"give some with --texts"),
        ({"adapter": SVD, "texts": True}, r"the subspace is svd; leave --texts out"),
        ({"adapter": {"subspace": None}, "step": {"gradient": "weights"}, "texts": True}, r"the subspace is none"),
        ({"adapter": {"subspace": None}}, r"--subspace none needs --gradient weights"),
        ({"adapter": {"layers": slice(50, None)}}, r"the model has 2 layers, 0 to 1; layers 50: select none of them"),
        ({"adapter": {"layers": slice(1, 1)}}, r"the model has 2 layers, 0 to 1; layers 1:1 select none"),
        ({"adapter": {"layers": slice(None, -2)}}, r"layers :-2 select none"),
        ({"adapter": {"modules": ("w_pack", "c_fc")}}, r"named w_pack or c_fc; the model has q_proj, k_proj, v_proj"),
        ({"step": {"queries": MOST + 1}}, r"--queries must be from 1 to 2,147,483,647, not 2,147,483,648"),
        ({"step": {"batch": MOST + 1}}, r"--batch must be from 1"),
        ({"max_tokens": MOST + 1}, r"--max-tokens must be from 1"),
        ({"max_tokens": 3}, r"--min-tokens must be at most max_tokens \(3\), not 4"),
        ({"min_tokens": 0}, r"--min-tokens must be from 1"),
        ({"min_tokens": 1}, r"at least 2 tokens"),
        ({"label_words": (), "target": "{label}", "max_targets": 0}, r"--max-targets must be from 1"),
        ({"backend": "portable"}, r"one length only; add --fixed"),
        ({"context": 1}, r"--context must be at least 2 tokens, not 1"),
    ],
)
def test_settings_that_do_not_fit(refused: Callable[..., str], changes: dict[str, Any], reason: str) -> None:
    message = refused(**changes)
    assert re.search(reason, message), message


def test_what_a_model_cannot_do(
    refused: Callable[..., str], make_model: Callable[..., Path], encoder_tokenizer_folder: Path
) -> None:
    odd = make_model(tiny_config(intermediate_size=40))
    assert "multiples of 32; the model has [40]; use 8da8w" in refused(odd, quantization="8da4w")
    assert "multiples of 64; the model has [32]; use 8da4w" in refused(quantization="8da4w-64")
    sizes = {"vocab_size": 608, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    short = AutoConfig.for_model("gpt2", **sizes, max_position_embeddings=64)
    message = refused(make_model(short), max_tokens=65)
    assert "the model has 64 positions, which is less than 65 tokens" in message
    bert = AutoConfig.for_model("bert", **sizes, intermediate_size=48, pad_token_id=1)
    encoder = make_model(bert, AutoModelForMaskedLM, encoder_tokenizer_folder)
    settings: dict[str, Any] = {"template": "{text} {mask}"}
    assert "encoders do not model language" in refused(encoder, **settings, label_words=(), target="{label}")
    assert "cannot continue one; leave --generate out" in refused(encoder, **settings, context=64)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("queries", 0), ("batch", -1), ("rank", 0), ("layers", 0), ("max_tokens", 0), ("min_tokens", 0),
        ("min_tokens", 41), ("eps", 0.0), ("eps", nan), ("lr", -1.0), ("lr", inf), ("alpha", 0.0),
        ("betas", (0.9, 1.0)), ("a token", -1), ("labels", (Label("a", "a", 1), Label("a", "b", 2))),
        ("mask_token", None), ("model.layers.1.self_attn.q_proj", 5), ("state_size", 7),
    ],
)  # fmt: skip
def test_what_a_driver_refuses_export_refuses(program_folder: Path, field: str, value: Any) -> None:
    """In the same words, behind the option's name."""
    m = StepProgram(program_folder).manifest
    assert m.fault() is None
    first = m.adapter.modules[0]
    broken: dict[str, Callable[[], Manifest]] = {
        "rank": lambda: replace(m, adapter=replace(m.adapter, rank=value)),
        "alpha": lambda: replace(m, adapter=replace(m.adapter, alpha=value)),
        "layers": lambda: replace(m, architecture=replace(m.architecture, layers=value)),
        "a token": lambda: replace(m, pad_token=value),
        "mask_token": lambda: replace(m, answer_at="mask"),
        first.name: lambda: replace(
            m, adapter=replace(m.adapter, modules=(replace(first, offset=value), *m.adapter.modules[1:]))
        ),
    }
    other = broken.get(field, lambda: replace(m, **{field: value}))()
    fault = other.fault()
    assert fault and fault[0] == field
    with pytest.raises(UserError) as error:
        refuse_unusable(other)
    assert str(error.value) == f"--{field.replace('_', '-')} {fault[1]}"
    with pytest.raises(UserError, match=re.escape(field)):
        Manifest.from_json(other.to_json(), "program.pte")


def test_what_is_no_checkpoint_says_what_it_is(program_folder: Path, tmp_path: Path) -> None:
    own, elsewhere, adapter = tmp_path / "own", tmp_path / "elsewhere", tmp_path / "adapter"
    program, described = StepProgram(program_folder), '{"program": "/some/where/program.pte", "train": {}, "data": {}}'
    save_peft(adapter, program.manifest, program.frozen(), program.initial_state())
    (own / "program").mkdir(parents=True)
    elsewhere.mkdir()
    for run in (own, elsewhere):
        (run / "config.json").write_text(described)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    for folder, reason in [
        (own, f"{own} is a run of `prge train`, not a model; its program is {own / 'program'}"),
        (elsewhere, f"{elsewhere} is a run of `prge train`, not a model; its program is /some/where/program.pte"),
        (program_folder, f"`prge train {program_folder} --data FILE` trains it as it is"),
        (adapter, f"export its base model with --adapter {adapter}"),
        (tmp_path, "holds no config.json"),
        (damaged, "config.json cannot be read"),
    ]:
        for load in (load_checkpoint, load_sizes):
            with pytest.raises(UserError, match=re.escape(reason)):
                load(str(folder))


def test_a_merge_on_a_full_disk_leaves_nothing(
    program_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, adapter, merged = StepProgram(program_folder), tmp_path / "adapter", tmp_path / "merged"
    save_peft(adapter, program.manifest, program.frozen(), program.initial_state())

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("transformers.modeling_utils.safe_save_file", full)
    with pytest.raises(UserError, match=r"merged cannot be written: .*No space left on device"):
        merge_adapters([adapter], merged)
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
