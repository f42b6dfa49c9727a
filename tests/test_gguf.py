"""Merged models and adapters as GGUF files, against transformers, PEFT and llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCABULARY, randomized, tiny_config
from gguf import GGUFReader
from gguf_files import for_llama_cpp
from llama_cpp import llama_cpp
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from prge.errors import UserError
from prge.export.to_gguf.adapter import write_adapter
from prge.export.to_gguf.families import gguf_family
from prge.export.to_gguf.model import write_model
from prge.lora import read_lora
from prge.models.checkpoints import Outline, load_checkpoint

TEXT = "are you there? Call me before ten, please. It's 10:45 now"

# Sizes that llama.cpp takes, with windows shorter than the text.
GATED = {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 64}
LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", GATED | {"tie_word_embeddings": True}),
    "llama 3": ("llama", GATED | {"tie_word_embeddings": False, "rope_parameters": LLAMA_3}),
    "mistral": ("mistral", GATED | {"sliding_window": None}),
    "qwen2": ("qwen2", GATED | {"head_dim": 16, "tie_word_embeddings": False}),
    "qwen3": ("qwen3", GATED | {"head_dim": 128}),  # transformers reads no other from GGUF
    "gemma2": ("gemma2", GATED | {
        "sliding_window": 8, "query_pre_attn_scalar": 32, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0,
    }),
    "gemma3_text": ("gemma3_text", GATED | {
        "num_hidden_layers": 6, "sliding_window": 8, "query_pre_attn_scalar": 32,
    }),
    # transformers does not read these from GGUF.
    "phi3": ("phi3", GATED | {
        "head_dim": 16, "sliding_window": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    }),
    "gemma": ("gemma", GATED),
    "granite": ("granite", GATED | {
        "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2,
    }),
    "olmo2": ("olmo2", GATED | {"head_dim": 16}),
    "seed_oss": ("seed_oss", GATED),
    "smollm3": ("smollm3", GATED | {"head_dim": 16, "num_hidden_layers": 4}),
    "gpt2": ("gpt2", {"hidden_size": 64, "activation_function": "gelu_new"}),
    "gpt_neox": ("gpt_neox", {"hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": False}),
    "gpt_neox, one after the other": ("gpt_neox", {
        "hidden_size": 64, "intermediate_size": 96, "tie_word_embeddings": False, "use_parallel_residual": False,
    }),
}  # fmt: skip
READ = [*FAMILIES][:7]


def config(family: str, **changes: Any) -> Any:
    kind, settings = FAMILIES[family]
    common = {
        "vocab_size": VOCABULARY + 8, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2,
        "max_position_embeddings": 256, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
    return AutoConfig.for_model(kind, **common | settings | changes)


def continued(model: Any, tokens: list[int], count: int) -> tuple[list[int], list[torch.Tensor]]:
    """The most likely continuation of eager PyTorch, and the log probabilities f32[V] at each of its places."""
    row, found = list(tokens), []
    with torch.no_grad():
        for _ in range(count):
            found.append(torch.log_softmax(model(torch.tensor([row])).logits[0, -1], -1))
            row.append(int(found[-1].argmax()))
    return row[len(tokens) :], found


def agree(file: Path, model: Any, tokenizer: Any, adapter: Path | None = None, count: int = 12) -> None:
    """llama.cpp has the same tokens and logits."""
    with llama_cpp(file, adapter) as llama:
        tokens = tokenizer.encode(TEXT)
        assert llama.tokens(TEXT) == tokens
        found, told, near = llama.generate(tokens, count)
    expected, ours = continued(model, tokens, count)
    assert found == expected
    places = [place for place, token in enumerate(found) if token == told]
    furthest = [max(abs(float(ours[place][token]) - value) for token, value in near.items()) for place in places]
    assert min(furthest) < 3e-3  # ggml's GELU reads a table in half precision


@pytest.mark.parametrize("family", READ)
def test_transformers_reads_back_what_is_written(
    family: str, make_model: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRGE_CACHE", str(tmp_path / "cache"))
    checkpoint = load_checkpoint(str(make_model(config(family))))
    write_model(tmp_path / "model.gguf", checkpoint, checkpoint.model)
    again = load_checkpoint(str(tmp_path / "model.gguf"))
    theirs = dict(again.model.named_parameters())
    for name, ours in checkpoint.model.named_parameters():
        torch.testing.assert_close(ours, theirs.pop(name), rtol=0, atol=1e-6)  # one is added to norms, and taken off
    assert not theirs and again.tokenizer.encode(TEXT) == checkpoint.tokenizer.encode(TEXT)


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_the_same(family: str, make_model: Callable[[Any], Path], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    checkpoint = load_checkpoint(str(make_model(config(family))))
    write_model(tmp_path / "model.gguf", checkpoint, checkpoint.model)
    agree(tmp_path / "model.gguf", checkpoint.model, checkpoint.tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_of_all_linears_is_put_upon_the_model(
    family: str, make_model: Callable[[Any], Path], tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    checkpoint = load_checkpoint(str(model := make_model(config(family))))
    write_model(tmp_path / "model.gguf", checkpoint, checkpoint.model)
    trained = read_lora(adapter(model, tmp_path / "adapter", "all-linear", 3, 1))
    write_adapter(tmp_path / "adapter.gguf", checkpoint.config, str(model), [trained], [1.0])
    peft = PeftModel.from_pretrained(checkpoint.model, str(tmp_path / "adapter")).eval()
    agree(tmp_path / "model.gguf", peft, checkpoint.tokenizer, tmp_path / "adapter.gguf")


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("mistral", {"sliding_window": 8}, "knows no sliding windows at these layers"),
        ("gemma3_text", {"layer_types": ["full_attention"] * 6}, "knows no sliding windows"),
        ("gemma2", {"query_pre_attn_scalar": 12}, "query_pre_attn_scalar"),
        ("qwen2", {"head_dim": 32}, "heads of this size"),
        ("llama", {"attention_bias": True}, "biases"),
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("gpt2", {"activation_function": "relu"}, "activation 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale of scores by layer"),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 1]}, "layers without positions but every fourth"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "rotary positions"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(family: str, changes: Any, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        gguf_family(config(family, **changes), "here")


def adapter(model: Path, folder: Path, modules: list[str] | str, rank: int, seed: int) -> Path:
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted: Any = get_peft_model(base, LoraConfig(r=rank, lora_alpha=6, target_modules=modules))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(str(folder))
    return folder


def test_adapters_become_one_lora_file(
    prge: Callable[..., tuple[int, Any]], make_model: Callable[[Any], Path], tmp_path: Path
) -> None:
    """Two adapters of other ranks and modules, each with its weight: their sum is the file's only update."""
    model = make_model(tiny_config(hidden_size=64, intermediate_size=96))
    one = adapter(model, tmp_path / "one", ["q_proj", "down_proj"], 3, 1)
    two = adapter(model, tmp_path / "two", ["q_proj", "v_proj"], 5, 2)
    merge = ["merge", one, two, "--weight", 0.5, "--weight", 2, "--model", model]
    assert prge(*merge, "-o", tmp_path / "merged")[0] == 0
    code, found = prge(*merge, "--to", "lora-gguf", "-o", tmp_path / "lora")
    assert code == 0 and found["model"] == str(tmp_path / "lora" / "adapter.gguf") and found["adapters"] == 2
    base = dict(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).named_parameters())
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    tensors = {t.name: torch.tensor(t.data) for t in GGUFReader(tmp_path / "lora" / "adapter.gguf").tensors}
    for module, name in (("q_proj", "attn_q"), ("v_proj", "attn_v")):
        full = f"model.layers.1.self_attn.{module}.weight"
        update = merged.get_parameter(full).detach() - base[full].detach()
        expected = torch.tensor(for_llama_cpp(update.numpy(), 4)) if module == "q_proj" else update
        a, b = (tensors[f"blk.1.{name}.weight.lora_{half}"] for half in "ab")
        assert a.shape[0] == (8 if module == "q_proj" else 5)
        torch.testing.assert_close(b @ a, expected, rtol=1e-4, atol=1e-5)
    assert len(tensors) == 2 * 2 * 3


def test_llama_cpp_runs_what_merge_writes(
    prge: Callable[..., tuple[int, Any]], make_model: Callable[[Any], Path], tmp_path: Path
) -> None:
    """The whole model, and the adapter upon the base's file, both as PEFT has it."""
    pytest.importorskip("xllamacpp")
    model = make_model(config("llama"))
    trained = adapter(model, tmp_path / "adapter", ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"], 3, 1)
    for form in ("gguf", "lora-gguf"):
        assert prge("merge", trained, "--model", model, "--to", form, "-o", tmp_path / form)[0] == 0
    checkpoint = load_checkpoint(str(model))
    write_model(tmp_path / "base.gguf", checkpoint, checkpoint.model)
    plain, _ = continued(checkpoint.model, checkpoint.tokenizer.encode(TEXT), 12)
    peft = PeftModel.from_pretrained(checkpoint.model, str(trained)).eval()
    agree(tmp_path / "gguf" / "model.gguf", peft, checkpoint.tokenizer)
    agree(tmp_path / "base.gguf", peft, checkpoint.tokenizer, tmp_path / "lora-gguf" / "adapter.gguf")
    assert continued(peft, checkpoint.tokenizer.encode(TEXT), 12)[0] != plain


def test_bases_that_llama_cpp_does_not_have_are_refused_first(
    prge: Callable[..., tuple[int, Any]], make_model: Callable[[Any], Path], tmp_path: Path
) -> None:
    model = make_model(AutoConfig.for_model("opt", vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=32))  # fmt: skip
    trained = adapter(model, tmp_path / "adapter", ["q_proj"], 2, 1)
    for form in ("gguf", "lora-gguf"):
        code, refused = prge("merge", trained, "--model", model, "--to", form, "-o", tmp_path / "out")
        assert code == 1 and "models of type 'opt' are not written as GGUF; these are: llama" in refused["error"]
    assert not (tmp_path / "out").exists()


def sentencepiece(data: Path, first: bool) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2's or Gemma's: bytes for unknown characters, spaces as letters."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces = normalizers.Replace(" ", "▁")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces] if first else [spaces])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special[:3], show_progress=False)
    lines = [line.replace("\t", " ") for line in (data / "train.tsv").read_text().splitlines()]
    made.train_from_iterator(lines, trainer)
    held = json.loads(made.to_str())  # the bytes are tokens of the model, not added ones
    words = [*special, *(w for w in held["model"]["vocab"] if w not in special)]
    held["model"]["vocab"] = {word: i for i, word in enumerate(words)}
    made = Tokenizer.from_str(json.dumps(held))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("kind", ["gpt-2", "digits", "spaces", "spaces, one in front"])
def test_llama_cpp_has_the_tokenizer_s_tokens(
    kind: str, make_model: Callable[[Any], Path], tokenizer_folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder)
    if kind == "digits":
        cut = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cut)
    elif kind != "gpt-2":
        tokenizer = sentencepiece(demo_data, "front" in kind)
    model = randomized(AutoModelForCausalLM.from_config(config("llama", vocab_size=VOCABULARY + 300))).eval()
    write_model(tmp_path / "model.gguf", Outline(model.config, tokenizer, "tiny", ()), model)
    texts = [line.split("\t")[0] for line in (demo_data / "test.tsv").read_text().splitlines()[:60]]
    with llama_cpp(tmp_path / "model.gguf") as llama:
        for text in [*texts, "12345 and 6.78, é漢字 😀", "  two  spaces\n\nand lines"]:
            assert llama.tokens(text) == tokenizer.encode(text), text


def test_a_tokenizer_that_llama_cpp_does_not_have_is_refused(tokenizer_folder: Path, tmp_path: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model = AutoModelForCausalLM.from_config(config("llama"))
    with pytest.raises(UserError, match="tiny: its tokenizer cuts texts as none that llama"):
        write_model(tmp_path / "model.gguf", Outline(model.config, tokenizer, "tiny", ()), model)
