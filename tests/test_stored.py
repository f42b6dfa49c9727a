"""Weights that stay in their files: the numbers of float32 loading, the bytes of its programs, in bounded memory."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from big_model import write
from conftest import LABELS, TEMPLATE, randomized, tiny_config
from reference import signed_int4
from safetensors.torch import load_file, save_file
from test_families import ENCODERS, config
from test_likeness import TAKEN, undeclared
from torch import nn
from torchao.quantization import quantize_
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from prge.errors import UserError
from prge.examples.read import Record
from prge.export import kept_weights, spill
from prge.export.config import ExportConfig
from prge.export.need import export_seconds
from prge.export.plan import plan, planned
from prge.export.program import export_program
from prge.export.quantize import linear_config, quantize
from prge.export.quantized_embedding import Int4Embedding, Int8Embedding
from prge.models.adapter import AdapterConfig
from prge.models.checkpoints import load_checkpoint, load_sizes
from prge.models.families import FAMILIES
from prge.models.step import StepConfig
from prge.models.stored import StoredLinear, leave_stored
from prge.models.subspace import top_singular
from prge.quiet import quiet

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
RECORDS: list[Record] = [{"text": f"the message {i} came late", "label": "yes"} for i in range(6)]


@pytest.fixture(autouse=True)
def all_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_weights, "_LARGE", 1)
    monkeypatch.setattr(spill, "_LARGE", 1)


@pytest.fixture
def half_model(
    make_model: Callable[..., Path], tokenizer_folder: Path, encoder_tokenizer_folder: Path
) -> Callable[..., Path]:
    """A checkpoint of a family or a configuration, with its weights in another dtype."""

    def make(kind: str | Any, dtype: torch.dtype = torch.bfloat16) -> Path:
        shape = (undeclared(kind) if kind in TAKEN else config(kind)) if isinstance(kind, str) else kind
        auto = AutoModelForMaskedLM if kind in ENCODERS else AutoModelForCausalLM
        folder = make_model(shape, auto, encoder_tokenizer_folder if kind in ENCODERS else tokenizer_folder)
        torch.manual_seed(0)
        randomized(auto.from_config(shape)).to(dtype).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("family", [*FAMILIES, *TAKEN])
def test_models_compute_the_same_bits(family: str, half_model: Callable[..., Path]) -> None:
    folder = half_model(family)
    whole, stored = (load_checkpoint(str(folder), stored=stored) for stored in (False, True))
    assert stored.digest() == whole.digest()
    kept = [m.weight for m in stored.model.modules() if isinstance(m, StoredLinear)]
    assert kept and all(weight.dtype == torch.bfloat16 for weight in kept)
    tokens, mask = torch.randint(3, 80, (2, 20)), torch.ones(2, 20, dtype=torch.int64)
    mask[1, 15:] = 0
    with torch.no_grad():
        expected, found = (c.model(tokens, attention_mask=mask).logits for c in (whole, stored))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("most", DTYPES)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_checkpoints_of_several_dtypes_compute_the_same_bits(
    family: str, most: torch.dtype, half_model: Callable[..., Path]
) -> None:
    """Norms in float32, a linear in each 16-bit dtype, and a mask as old checkpoints have one; the rest in ``most``."""
    folder = half_model(family, torch.float32)
    file = folder / "model.safetensors"
    weights = {name: t if "norm" in name or "ln_" in name else t.to(most) for name, t in load_file(file).items()}
    for name, dtype in zip([n for n in weights if "mlp" in n], (torch.bfloat16, torch.float16), strict=False):
        weights[name] = weights[name].float().to(dtype)
    prefix = "transformer.h.0" if family == "gpt2" else "model.layers.0.self_attn"
    weights |= {f"{prefix}.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool), f"{prefix}.inv_freq": torch.ones(4)}
    save_file(weights, file, {"format": "pt"})
    whole, stored = (load_checkpoint(str(folder), stored=stored) for stored in (False, True))
    assert stored.digest() == whole.digest()
    kept = {m.weight.dtype for m in stored.model.modules() if isinstance(m, StoredLinear)}
    assert most in kept
    tokens = torch.randint(3, 80, (2, 20))
    with torch.no_grad():
        expected, found = (c.model(tokens).logits for c in (whole, stored))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_those_of_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 4).requires_grad_(False)
    linear.weight.data = linear.weight.to(dtype).float()
    stored = nn.Linear(6, 4).requires_grad_(False)
    stored.weight.data, stored.bias.data = linear.weight.to(dtype), linear.bias.data.to(dtype).float()
    linear.bias.data = stored.bias.data
    leave_stored(stored)
    assert type(stored) is StoredLinear and stored.weight.dtype == dtype
    x = torch.randn(2, 3, 6, requires_grad=True)
    for found, expected in ((stored(x), linear(x)),):
        assert torch.equal(found, expected)
        a, b = (torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("phi3", {"step": StepConfig(1, 2, "exact"), "quantization": "8da8w", "fisher": True}),
    ("llama", {
        "step": StepConfig(2, 2, "weights"), "quantization": "8da4w", "label_words": (), "target": " {label}",
        "max_targets": 4,
    }),
    ("llama", {"step": StepConfig(1, 2, "exact"), "quantization": "8da8w", "context": 32}),
    ("gpt_neox", {"step": StepConfig(2, 2), "quantization": "8da8w"}),
    ("gpt2", {"step": StepConfig(1, 2, "exact"), "quantization": "8da8w"}),
    ("gemma3_text", {"step": StepConfig(1, 2, "full"), "quantization": "8da8w", "fisher": True}),
    ("granite", {"step": StepConfig(1, 2, "exact"), "quantization": "8da8w", "fisher": True}),
    ("bert", {
        "step": StepConfig(2, 2), "quantization": "8da8w", "template": TEMPLATE + "{mask}",
    }),
    ("modernbert", {
        "step": StepConfig(1, 2, "full"), "quantization": "8da8w", "fisher": True, "template": TEMPLATE + "{mask}",
    }),
]  # fmt: skip


@pytest.mark.parametrize(("family", "settings"), SETTINGS[: None if os.environ.get("PRGE_THOROUGH") else 2])
def test_programs_are_the_same_bytes(
    family: str, settings: dict[str, Any], half_model: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As of a model in float32 whose quantized weights and constants never leave memory."""
    model = half_model(family if settings["quantization"] == "8da8w" else tiny_config(intermediate_size=64))
    subspace: Any = "fisher" if settings.pop("fisher", False) else "svd"
    adapter = AdapterConfig(4, 8.0, layers=slice(1, None), subspace=subspace)
    common: dict[str, Any] = {"template": TEMPLATE, "label_words": LABELS, "max_tokens": 40, "adapter": adapter}
    files = []
    for stored in (True, False):
        if not stored:
            for part in (kept_weights, spill):
                monkeypatch.setattr(part, "_LARGE", 1 << 60)
        folder = tmp_path / f"stored-{stored}"
        with quiet():
            checkpoint = load_checkpoint(str(model), stored=stored)
            export_program(
                checkpoint, ExportConfig(**common | settings), folder, records=RECORDS if subspace == "fisher" else ()
            )
        files.append({file.name: file.read_bytes() for file in folder.glob("*.pte")})
        assert not list(tmp_path.glob(".*")) and not [f for f in folder.iterdir() if f.is_dir()]
    assert files[0] == files[1] and len(files[0]) >= 2
    assert len(list((tmp_path / "cache" / "quantized").iterdir())) > 5


@pytest.mark.parametrize("quantization", ["8da8w", "8da4w"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_quantized_as_torchao_does_and_once(
    quantization: Any, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    weight, rule = torch.randn(64, 96).to(dtype), linear_config(quantization)
    monkeypatch.setattr("prge.models.stored._PIECE", 1000)
    for given in (weight, weight.T):
        linear = nn.Linear(given.shape[1], given.shape[0], bias=False)
        linear.weight = nn.Parameter(given.float().contiguous(), requires_grad=False)
        quantize_(linear, rule)
        first = kept_weights.quantized(given, rule)
        monkeypatch.setattr(kept_weights, "_keep", None)  # the second time nothing is made
        for found in (first, kept_weights.quantized(given, rule)):
            assert type(found.data) is type(linear.weight.data)
            for name in ("qdata", "scale", "zero_point"):
                assert torch.equal(getattr(found, name), getattr(linear.weight, name))
            for name in ("target_dtype", "block_size", "dtype", "activation_quantization"):
                assert getattr(found, name) == getattr(linear.weight, name)
        monkeypatch.undo()
        monkeypatch.setenv("PRGE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(kept_weights, "_LARGE", 1)
        monkeypatch.setattr("prge.models.stored._PIECE", 1000)
    assert len(list((tmp_path / "cache" / "quantized").iterdir())) == 2


def test_what_a_killed_export_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "quantized"
    folder.mkdir(parents=True)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, written = folder / f"ab-{ended.pid}.partial", folder / f"cd-{os.getppid()}.partial"
    for file in (left, written):
        file.write_bytes(b"half")
    module: Any = nn.Module()
    module.objective, module.backbone = nn.Module(), nn.Module()
    module.backbone.embedding = SimpleNamespace(table=nn.Module())
    module.backbone.layers = nn.ModuleList([nn.Module()])
    quantize(module, [nn.Linear(32, 32)], "8da8w")
    assert not left.exists() and written.exists()


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    weight, rule = torch.randn(32, 64), linear_config("8da8w")
    made: Any = kept_weights.quantized(weight, rule)
    expected = made.qdata.clone()
    (file,) = (tmp_path / "cache" / "quantized").iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        file.unlink()  # what is mapped stays as it is
        file.write_bytes(damaged)
        again: Any = kept_weights.quantized(weight, rule)
        assert torch.equal(again.qdata, expected) and file.read_bytes() == whole


def test_a_full_disk_leaves_nothing_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(parts: Any, file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    weight = torch.randn(32, 64)
    expected: Any = kept_weights.quantized(weight, linear_config("8da4w"))
    monkeypatch.setenv("PRGE_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(kept_weights, "save_file", full)
    found: Any = kept_weights.quantized(weight, linear_config("8da4w"))
    assert torch.equal(found.qdata, expected.qdata)
    assert not list((tmp_path / "other" / "quantized").iterdir())


def test_a_full_disk_while_constants_are_written_leaves_no_program(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    config = ExportConfig(AdapterConfig(4, 8.0), StepConfig(1, 2), TEMPLATE, label_words=LABELS, max_tokens=40)
    with pytest.raises(UserError, match="No space left"), quiet():
        export_program(load_checkpoint(str(tiny_model)), config, tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} <= {"cache"}


def test_weights_of_another_dtype_under_an_old_name_are_read_into_float32(half_model: Callable[..., Path]) -> None:
    """transformers finds them under another name: then all of the model is in float32, and nothing is rounded."""
    folder = half_model("bert")
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = "bert.encoder.layer.0.output.LayerNorm.weight"
    finer = weights.pop(name).float() + 1e-4
    save_file(weights | {name.replace("weight", "gamma"): finer}, file, {"format": "pt"})
    loaded = load_checkpoint(str(folder), stored=True).model
    assert torch.equal(loaded.get_parameter(name), finer)
    assert not any(isinstance(module, StoredLinear) for module in loaded.modules())


@pytest.mark.parametrize("kind", [Int8Embedding, Int4Embedding])
def test_embeddings_are_quantized_piece_by_piece(
    monkeypatch: pytest.MonkeyPatch, kind: type[Int8Embedding] | type[Int4Embedding]
) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(50, 64)
    with torch.no_grad():
        table.weight[3] = 0.0
    whole = kind(table)
    monkeypatch.setattr("prge.models.stored._PIECE", 7 * 64)
    pieces = kind(table)
    assert torch.equal(pieces.weight, whole.weight) and torch.equal(pieces.scale, whole.scale)
    found, expected = pieces(torch.arange(50)), table.weight.detach()
    if kind is Int8Embedding:
        step = expected.abs().amax(1, keepdim=True) / 127
        assert ((found - expected).abs() <= 0.5 * step + 1e-6).all()
    else:
        torch.testing.assert_close(found[:3], signed_int4(expected[:3].reshape(6, 32)).reshape(3, 64), rtol=0, atol=0)
        assert pieces.weight.numel() + 2 * pieces.scale.numel() == 50 * 64 * (0.5 + 2 / 32)
    assert not found[3].any()


def test_singular_vectors_of_large_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(size, 20))[0] for size in (90, 70))
    weight = left * torch.logspace(1, -1, 20) @ right.T
    expected = torch.linalg.svd(weight, full_matrices=False)
    monkeypatch.setattr("prge.models.subspace._LARGE", 8)
    for given, flipped in ((weight, False), (weight.T, True)):
        u, s, v = top_singular(given, 6)
        if flipped:
            u, v = v, u
        torch.testing.assert_close(s, expected.S[:6], rtol=1e-5, atol=0)
        torch.testing.assert_close(u * s @ v.T, expected.U[:, :6] * expected.S[:6] @ expected.Vh[:6], rtol=0, atol=1e-4)
        assert torch.equal(u, top_singular(given, 6)[2 if flipped else 0])


def test_what_the_machine_cannot_do_is_refused_before_it_begins(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> str:
        with pytest.raises(UserError) as e, quiet():
            export_program(checkpoint, config, tmp_path / "new" / "out")
        assert not (tmp_path / "new").exists()
        return str(e.value)

    need, checkpoint = sys.modules["prge.export.need"], load_checkpoint(str(tiny_model))
    config = ExportConfig(AdapterConfig(4, 8.0), StepConfig(1, 2), TEMPLATE, label_words=LABELS, max_tokens=40)
    monkeypatch.setattr(need.psutil, "swap_memory", lambda: SimpleNamespace(free=0))
    with monkeypatch.context() as patch:
        patch.setattr(need.psutil, "virtual_memory", lambda: SimpleNamespace(available=1e6))
        patch.setattr(need, "_LIBRARIES", 1e12)
        assert "GB of memory more, and 0.0 GB are free: close other programs, or quantize" in refused()
    monkeypatch.setattr(need.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert f"{tmp_path} has room for 0.0 GB: choose another --output" in refused()


def test_more_layers_and_both_ways_take_more(tiny_model: Path) -> None:
    sizes = load_sizes(str(tiny_model))
    exact, weights = (plan(planned(sizes, StepConfig(1, 2, gradient), 40, 0), 1e9) for gradient in ("exact", "weights"))
    for name in ("export_peak_bytes", "export_disk_bytes"):
        assert all(a[name] > b[name] for a, b in zip(exact, weights, strict=True))
    both, one = (export_seconds(planned(sizes, StepConfig(1, 2, gradient), 40, 0)) for gradient in ("exact", "weights"))
    assert both >= 2 * one > 0 and exact[0]["export_seconds"] > weights[0]["export_seconds"] > 0


@pytest.mark.skipif(not os.environ.get("PRGE_THOROUGH"), reason="PRGE_THOROUGH=1 runs it: minutes")
def test_a_large_model_in_little_memory(tmp_path: Path) -> None:
    """1.1 billion weights, which are 4.4 GB in float32."""
    write("tinyllama-1.1b", tmp_path / "model")
    form = ("--template", "{text}", "--label", "0=a", "--label", "1=b", "--max-tokens", "64")
    command = (sys.executable, "-m", "prge", "export", tmp_path / "model", "-o", tmp_path / "out", *form)
    done = subprocess.run((*command, "--quantization", "8da4w", "--json"), capture_output=True, text=True, check=True)
    assert max(json.loads(done.stdout)["peak_megabytes"].values()) < 3500
