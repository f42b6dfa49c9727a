"""Writes a tiny Llama as GGUF files by the rules of llama.cpp's converter, whole or in parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import quantize


def for_llama_cpp(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in the order of llama.cpp, which rotates neighbours, not halves."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def tensors(model: Any) -> dict[str, np.ndarray]:
    """A Llama's weights by llama.cpp's names."""
    names = {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "lm_head": "output",
    }  # fmt: skip
    found = {}
    for name, parameter in model.named_parameters():
        weight, module = parameter.detach().numpy(), name.removesuffix(".weight")
        if module.startswith("model.layers."):
            _, _, layer, inner = module.split(".", 3)
            heads = {"self_attn.q_proj": "num_attention_heads", "self_attn.k_proj": "num_key_value_heads"}.get(inner)
            weight = for_llama_cpp(weight, getattr(model.config, heads)) if heads else weight
            found[f"blk.{layer}.{names[inner]}.weight"] = np.ascontiguousarray(weight)
        else:
            found[f"{names[module]}.weight"] = weight
    return found


def write_gguf(
    file: Path, model: Any, tokenizer: Path, *, parts: int = 1, without: str = "",
    kind: GGMLQuantizationType | None = None,
) -> list[Path]:  # fmt: skip
    """Write a model's files; returns them.

    Args:
        without: names tensors to leave out, by their beginning.
        kind: quantizes the matrices.
    """
    config, held = model.config, json.loads(tokenizer.read_text())
    vocabulary = sorted(held["model"]["vocab"], key=held["model"]["vocab"].get)
    special = {token["content"] for token in held["added_tokens"]}
    weights = {k: v for k, v in tensors(model).items() if not without or not k.startswith(without)}
    names = list(weights)
    size = -(-len(names) // parts)
    written = []
    for i in range(parts):
        path = file if parts == 1 else file.with_name(f"{file.stem}-{i + 1:05}-of-{parts:05}.gguf")
        writer = GGUFWriter(path, "llama")
        if parts > 1:
            writer.add_uint16("split.no", i)
            writer.add_uint16("split.count", parts)
            writer.add_int32("split.tensors.count", len(names))
        if i == 0:
            writer.add_context_length(config.max_position_embeddings)
            writer.add_embedding_length(config.hidden_size)
            writer.add_block_count(config.num_hidden_layers)
            writer.add_feed_forward_length(config.intermediate_size)
            writer.add_head_count(config.num_attention_heads)
            writer.add_head_count_kv(config.num_key_value_heads)
            writer.add_layer_norm_rms_eps(config.rms_norm_eps)
            writer.add_rope_dimension_count(config.head_dim)
            writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
            writer.add_vocab_size(config.vocab_size)
            writer.add_tokenizer_model("gpt2")
            writer.add_tokenizer_pre("default")
            writer.add_token_list(vocabulary)
            writer.add_token_types([TokenType.CONTROL if t in special else TokenType.NORMAL for t in vocabulary])
            writer.add_token_merges([" ".join(pair) for pair in held["model"]["merges"]])
            writer.add_eos_token_id(0)
        for name in names[i * size : (i + 1) * size]:
            if kind is None or weights[name].ndim == 1:
                writer.add_tensor(name, weights[name])
            else:
                writer.add_tensor(name, quantize(weights[name], kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        written.append(path)
    return written
