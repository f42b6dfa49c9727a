"""The forms in which weights come: their values, or the sentence that says what to do."""

from __future__ import annotations

import importlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from gguf_files import write_gguf
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from test_families import config
from transformers import AutoModelForCausalLM, AutoTokenizer, T5Config

from prge.errors import UserError
from prge.models.checkpoints import load_checkpoint, load_outline, load_sizes
from prge.models.gguf_file import kept_checkpoint


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that keeps what is made of GGUF files."""
    monkeypatch.setenv("PRGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Iterator[Path]:
    """A checkpoint folder to be spoiled."""
    yield Path(shutil.copytree(tiny_model, tmp_path / "model"))


def read(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def same(ours: Any, theirs: Any) -> None:
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert mine.dtype == torch.float32, name
        torch.testing.assert_close(mine, other.float(), rtol=0, atol=0)


@pytest.mark.parametrize("form", ["bf16", "f16", "sharded", "pickle"])
def test_forms_of_checkpoints(form: str, tiny_model: Path, tmp_path: Path) -> None:
    """What is loaded are the model's weights, rounded where the file is, in float32."""
    model = read(tiny_model)
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}.get(form, torch.float32)
    torch.nn.Module.to(model, dtype).save_pretrained(tmp_path, max_shard_size="20KB" if form == "sharded" else "5GB")
    for file in tiny_model.glob("tokenizer*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if form == "pickle":
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(UserError, match="--allow-pickle"):
            load_checkpoint(str(tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) > 1 or form != "sharded"
    same(load_checkpoint(str(tmp_path), allow_pickle=form == "pickle").model, model)


@pytest.mark.parametrize("parts", [1, 3])
def test_gguf_files_are_read_whole(parts: int, tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    model = read(tiny_model)
    files = write_gguf(tmp_path / "tiny.gguf", model, tiny_model / "tokenizer.json", parts=parts)
    assert len(files) == parts
    for _ in range(2):  # the second one reads what the first one kept
        loaded = load_checkpoint(str(files[-1]))
        same(loaded.model, model)
    text = "are you there? No."
    assert loaded.tokenizer.encode(text) == AutoTokenizer.from_pretrained(tiny_model).encode(text)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("parts", [1, 3])
def test_a_gguf_file_becomes_a_checkpoint_some_tensors_at_a_time(
    parts: int, make_model: Callable[..., Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its own head too, which stands in the last part. The sizes are known without it."""
    folder = make_model(config("llama", tie_word_embeddings=False))
    model = read(folder)
    files = write_gguf(tmp_path / "tiny.gguf", model, folder / "tokenizer.json", parts=parts)
    assert load_sizes(str(files[0])).lm_head.weight.shape == model.lm_head.weight.shape
    assert not cache.exists()
    monkeypatch.setattr("prge.models.gguf_conversion._AT_ONCE", 3000)
    abandoned = cache / f".{kept_checkpoint(files).name}-abcd1234.partial"
    abandoned.mkdir(parents=True)
    for _ in range(2):
        same(load_checkpoint(str(files[0]), stored=True).model, model)
    assert len(list(cache.iterdir())) == 1
    pieces = [load_file(file) for file in next(cache.iterdir()).glob("*.safetensors")]
    assert len(pieces) > 5
    assert all(len(piece) == 1 or sum(weight.numel() for weight in piece.values()) <= 3000 for piece in pieces)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gguf_file_in_sixteen_bits_becomes_a_checkpoint_in_as_many(
    dtype: torch.dtype, tiny_model: Path, cache: Path, tmp_path: Path
) -> None:
    """But for one weight, whose numbers need more."""
    model = read(tiny_model)
    name = "model.layers.0.mlp.up_proj.weight"
    for found, weight in model.named_parameters():
        weight.data = weight if found == name else weight.to(dtype).float()
    (file,) = write_gguf(tmp_path / "tiny.gguf", model, tiny_model / "tokenizer.json")
    same(load_checkpoint(str(file)).model, model)
    kept = next(cache.iterdir())
    weights = {name: weight for file in kept.glob("*.safetensors") for name, weight in load_file(file).items()}
    assert {found for found, weight in weights.items() if weight.dtype == torch.float32} == {name}
    same(load_checkpoint(str(kept), stored=True).model.float(), model)


def test_a_gguf_file_that_the_disk_has_no_room_for(
    tiny_model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = write_gguf(tmp_path / "tiny.gguf", read(tiny_model), tiny_model / "tokenizer.json")
    numbers = sum(parameter.numel() for parameter in read(tiny_model).parameters())
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=4 * numbers - 1))
    with pytest.raises(UserError, match="make room, or set PRGE_CACHE"):
        load_checkpoint(str(file))
    monkeypatch.undo()
    monkeypatch.setenv("PRGE_CACHE", str(cache))

    def full(*given: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("prge.models.gguf_conversion.save_file", full)
    with pytest.raises(UserError, match=r"No space left on device.*make room, or set PRGE_CACHE"):
        load_checkpoint(str(file))
    assert not cache.exists()


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q5_1, GGMLQuantizationType.Q8_0])
@pytest.mark.parametrize("parts", [1, 2])
def test_quantized_gguf_weights_are_what_they_stand_for(
    kind: GGMLQuantizationType, parts: int, tiny_model: Path, cache: Path, tmp_path: Path
) -> None:
    """transformers reads neither Q5_0 nor Q5_1, which llama.cpp puts into Q4_K_M where rows are short."""
    model = read(tiny_model)
    files = write_gguf(tmp_path / "tiny.gguf", model, tiny_model / "tokenizer.json", parts=parts, kind=kind)
    loaded = load_checkpoint(str(files[0])).model.state_dict()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.from_numpy(dequantize(quantize(parameter.numpy(), kind), kind)))
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(loaded[name], expected, rtol=0, atol=1e-6)


def test_a_missing_part_of_a_gguf_file_is_named(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    parts = write_gguf(tmp_path / "tiny.gguf", read(tiny_model), tiny_model / "tokenizer.json", parts=3)
    third = parts[2].read_bytes()
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(UserError, match=r"00003-of-00003\.gguf is not part 3 of 3"):
        load_checkpoint(str(parts[0]))
    parts[2].write_bytes(third[:-200])
    with pytest.raises(UserError, match=r"00003-of-00003\.gguf ends after"):
        load_checkpoint(str(parts[0]))
    parts[2].unlink()
    for load in (load_checkpoint, load_outline, load_sizes):
        with pytest.raises(UserError, match=r"00003-of-00003\.gguf is missing"):
            load(str(parts[0]))
    assert not cache.exists()


def test_a_gguf_file_without_some_weights_is_refused(tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    (file,) = write_gguf(tmp_path / "a.gguf", read(tiny_model), tiny_model / "tokenizer.json", without="blk.1.ffn")
    for _ in range(2):
        with pytest.raises(UserError, match=r"lacks weights.*model\.layers\.1.*4 in all"):
            load_checkpoint(str(file))
    assert not cache.exists()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("adapter", "is a LoRA adapter, not a model"),
        ("mmproj", "reads images"),
        ("cut", "ends after"),
        ("header", "damaged"),
        ("empty", "cannot be read"),
        ("text", "cannot be read"),
        ("absent", "does not exist"),
    ],
)
def test_what_is_no_gguf_model(kind: str, reason: str, tiny_model: Path, cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.gguf"
    if kind in ("adapter", "mmproj"):
        writer = GGUFWriter(file, "llama" if kind == "adapter" else "clip")
        writer.add_type(kind)
        writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    elif kind in ("cut", "header"):
        (whole,) = write_gguf(file, read(tiny_model), tiny_model / "tokenizer.json")
        whole.write_bytes(whole.read_bytes()[: 1000 if kind == "header" else -100])
    elif kind != "absent":
        file.write_text("" if kind == "empty" else "no such magic, and longer than a header")
    for load in (load_checkpoint, load_sizes):
        with pytest.raises(UserError, match=re.escape(reason)) as refused:
            load(str(file))
        assert str(file) in str(refused.value)


# config.json as each tool writes it, cut short.
QUANTIZED: dict[str, dict[str, Any]] = {
    "GPTQ": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "AWQ": {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
    "bitsandbytes": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "quant_method": "bitsandbytes"},
    "HQQ": {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4}}},
    "torchao": {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
    "MLX": {"group_size": 64, "bits": 4},
    "NVFP4": {"quant_method": "nvfp4"},
    "NVIDIA's ModelOpt": {"quant_method": "modelopt", "quant_algo": "FP8"},
    "FBGEMM's FP8": {"quant_method": "fbgemm_fp8"},
    "of-tomorrow": {"quant_method": "of-tomorrow"},
}


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_weights_are_refused_by_their_kind(kind: str, folder: Path) -> None:
    configure(folder, quantization_config=QUANTIZED[kind])
    for load in (load_checkpoint, load_outline, load_sizes):
        with pytest.raises(UserError, match=f"quantized by {kind}, .*give the model that it was made of and"):
            load(str(folder))


def test_the_unquantized_model_is_named(folder: Path) -> None:
    configure(folder, quantization={"group_size": 64, "bits": 4})
    for name in ("Tiny-1B-GPTQ-Int4", "Tiny-1B-unsloth-bnb-4bit", "Tiny-1B-AWQ", "Tiny-1B-4bit", "Tiny-1B.w4a16"):
        folder = folder.rename(folder.with_name(name))
        with pytest.raises(UserError, match=r"made of, Tiny-1B, and --quantization"):
            load_checkpoint(str(folder))
    (folder / "README.md").write_text("---\nlicense: mit\nbase_model:\n- owner/Tiny-1B-Instruct\n---\n")
    with pytest.raises(UserError, match=r"made of, owner/Tiny-1B-Instruct, and"):
        load_checkpoint(str(folder))


def test_compressed_tensors_need_their_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    configure(folder, quantization_config={"quant_method": "compressed-tensors", "format": "float-quantized"})
    with pytest.raises(UserError, match=r"by compressed-tensors.*`pip install compressed-tensors`, or give the model"):
        load_checkpoint(str(folder))


def test_fp8_weights_become_float32(folder: Path) -> None:
    """Blocks of 16 x 16, each with its scale, as in checkpoints of Qwen and DeepSeek."""
    weights, expected, size = load_file(folder / "model.safetensors"), read(folder), 16
    for name, weight in list(weights.items()):
        if "_proj" in name:
            rows, columns = weight.shape[0] // size, weight.shape[1] // size
            blocks = weight.reshape(rows, size, columns, size)
            scales = blocks.abs().amax((1, 3)) / 448
            rounded = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
            weights[name] = rounded.reshape(weight.shape)
            weights[f"{name}_scale_inv"] = scales
            plain = (rounded.float() * scales[:, None, :, None]).reshape(weight.shape)
            expected.get_parameter(name).data.copy_(plain)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    fp8 = {"quant_method": "fp8", "weight_block_size": [size, size], "activation_scheme": "dynamic"}
    configure(folder, quantization_config=fp8)
    loaded = load_checkpoint(str(folder))
    for (name, ours), theirs in zip(loaded.model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7, msg=name)
    assert not getattr(loaded.config, "quantization_config", None)  # a merged model of it is saved without one


@pytest.mark.parametrize("spoiled", ["missing", "cut", "pointer", "index", "nothing", "other", "tensor", "tokenizer"])
def test_a_folder_that_is_not_whole(spoiled: str, folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole, pointer = weights.read_bytes(), "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n"
    weights.unlink()
    index = folder / "model.safetensors.index.json"
    reason = ""
    if spoiled in ("missing", "cut", "index"):
        read_again = folder.with_name("again")
        shutil.copytree(folder, read_again)
        (read_again / "model.safetensors").write_bytes(whole)
        read(read_again).save_pretrained(folder, max_shard_size="20KB")
        last = sorted(folder.glob("model-*"))[-1]
        if spoiled == "missing":
            last.unlink()
            reason = f"lacks {last.name}, 1 of the"
        elif spoiled == "cut":
            last.write_bytes(last.read_bytes()[:-64])
            reason = f"{last} is damaged, or was not fetched whole"
        else:
            index.write_text("{}")
            reason = f"{index} cannot be read"
    elif spoiled == "pointer":
        weights.write_text(pointer)
        reason = f"{weights} is a pointer of Git LFS"
    elif spoiled == "nothing":
        reason = f"{folder} holds no weights"
    elif spoiled == "other":
        (folder / "consolidated.safetensors").write_bytes(whole)
        reason = "consolidated.safetensors is not all of them"
    elif spoiled == "tensor":
        weights.write_bytes(whole)
        kept = {k: v for k, v in load_file(weights).items() if "layers.1.mlp" not in k}
        save_file(kept, weights, {"format": "pt"})
        reason = "lacks weights that its architecture has: model.layers.1.mlp.down_proj.weight"
    else:
        weights.write_bytes(whole)
        for file in folder.glob("tokenizer*"):
            file.unlink()
        reason = f"{folder} holds no tokenizer"
    with pytest.raises(UserError, match=re.escape(reason)):
        load_checkpoint(str(folder))


def test_a_vocabulary_that_changed_without_its_configuration(folder: Path) -> None:
    configure(folder, vocab_size=610)
    with pytest.raises(UserError, match=r"embed_tokens\.weight is 600 x 32 in its weights and 610 x 32 by its config"):
        load_checkpoint(str(folder))


def test_a_resized_vocabulary_is_loaded(folder: Path) -> None:
    """More rows than tokens, as after a resize to a multiple of 64."""
    model = read(folder)
    model.resize_token_embeddings(640)
    model.save_pretrained(folder)
    same(load_checkpoint(str(folder)).model, model)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config(), "is a model of type 't5', an encoder with a decoder"),
        ({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]}, "which takes more than text"),
        ({"model_type": "mamba"}, "type 'mamba', which is not supported: its configuration says nothing of num_"),
        ({"model_type": "of-tomorrow"}, "does not recognize this architecture"),
        ({"model_type": "of-tomorrow", "auto_map": {"AutoConfig": "a.B"}}, "code of its own, which prge never runs"),
        ({"model_type": "llama", "hidden_size": "wide"}, "cannot be loaded"),
        ({"model_type": "llama", "num_attention_heads": 0}, "cannot be loaded"),
        ({"model_type": 7}, "cannot be loaded"),
    ],
)
def test_other_models_are_refused_by_what_they_are(config: Any, reason: str, folder: Path) -> None:
    text = json.dumps(config) if isinstance(config, dict) else config.to_json_string()
    (folder / "config.json").write_text(text)
    for load in (load_checkpoint, load_sizes):
        with pytest.raises(UserError, match=re.escape(reason)) as refused:
            load(str(folder))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": "1.0", "model": {"type": "BPE"}}', "\x00\xff"])
def test_a_damaged_tokenizer_is_a_sentence(text: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_text(text)
    for load in (load_checkpoint, load_outline):
        with pytest.raises(UserError, match="cannot be loaded") as refused:
            load(str(folder))
        assert "\n" not in str(refused.value)


def test_a_folder_of_gguf_files_names_them(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_text("")
    with pytest.raises(UserError, match=r"its GGUF file is a model: give .*a\.gguf"):
        load_checkpoint(str(tmp_path))


def test_tokens_beyond_the_embedding_are_refused_where_they_occur(
    prge: Callable[..., tuple[int, Any]], folder: Path, tmp_path: Path
) -> None:
    """As of a tokenizer that was given special tokens without resizing the model's embeddings."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool>"]})
    tokenizer.save_pretrained(folder)
    data = tmp_path / "a.tsv"
    rows = [f"are you there {i}\t{'yes' if i % 2 else 'no'}\n" for i in range(40)]
    data.write_text("text\tlabel\n" + "".join(rows))
    train = ["train", folder, "--data", data, "--steps", 1, "--lr", 0.01, "-o"]
    code, found = prge(*train, tmp_path / "run")
    assert code == 0, found
    code, found = prge("predict", tmp_path / "run" / "program", "look <tool> here")
    assert code == 1 and "makes '<tool>' the token 600, and the model has embeddings of 600" in found["error"]
    rows[16] = "look <tool> here\tyes\n"
    data.write_text("text\tlabel\n" + "".join(rows))
    code, found = prge(*train, tmp_path / "other")
    assert code == 1 and f"{data}, line 18: the tokenizer makes '<tool>' the token 600" in found["error"]


def test_whatever_a_library_raises_is_one_sentence(
    prge: Callable[..., tuple[int, Any]], tiny_model: Path, demo_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def odd(*_: Any, **__: Any) -> None:
        json.loads("no")

    command = ["export", tiny_model, "--data", demo_data / "train.tsv", "-o", tmp_path / "out"]
    monkeypatch.setattr(importlib.import_module("prge.export.program"), "write_program", odd)
    code, found = prge(*command)
    assert code == 1 and "raised JSONDecodeError: Expecting value" in found["error"]
    assert found["error"].endswith("--debug shows where") and not (tmp_path / "out").exists()
    assert prge(*command, "--debug")[0] == 1
