"""What llama.cpp calls each family and its tensors, and what it stores otherwise than transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType, get_tensor_name_map
from torch import Tensor

from prge.errors import UserError

# Sliding windows stand at fixed layers there: in all but every so many.
_FULL_EVERY = {MODEL_ARCH.GEMMA2: 2, MODEL_ARCH.GEMMA3: 6}


@dataclass(frozen=True)
class GgufFamily:
    """A family of llama.cpp's.

    Attributes:
        arch: its architecture.
        neighbours: whether rotary positions rotate neighbours, and not the head's halves: the rows of queries and keys
            come in another order.
        norm_offset: what norms' weights are stored with on top.
        transposed: whether the checkpoint's linears are [in, out].
        fused_heads: whether the rows of the fused linear have each head's query, key and value beside each other;
            llama.cpp has all queries first, then all keys.
    """

    arch: MODEL_ARCH
    neighbours: bool = False
    norm_offset: float = 0.0
    transposed: bool = False
    fused_heads: bool = False


_FAMILIES = {
    "llama": GgufFamily(MODEL_ARCH.LLAMA, neighbours=True),
    "mistral": GgufFamily(MODEL_ARCH.LLAMA, neighbours=True),
    "qwen2": GgufFamily(MODEL_ARCH.QWEN2),
    "qwen3": GgufFamily(MODEL_ARCH.QWEN3),
    "phi3": GgufFamily(MODEL_ARCH.PHI3),
    "olmo2": GgufFamily(MODEL_ARCH.OLMO2),
    "granite": GgufFamily(MODEL_ARCH.GRANITE, neighbours=True),
    "smollm3": GgufFamily(MODEL_ARCH.SMOLLM3, neighbours=True),
    "seed_oss": GgufFamily(MODEL_ARCH.SEED_OSS),
    "gemma": GgufFamily(MODEL_ARCH.GEMMA, norm_offset=1.0),
    "gemma2": GgufFamily(MODEL_ARCH.GEMMA2, norm_offset=1.0),
    "gemma3_text": GgufFamily(MODEL_ARCH.GEMMA3, norm_offset=1.0),
    "gpt2": GgufFamily(MODEL_ARCH.GPT2, transposed=True),
    "gpt_neox": GgufFamily(MODEL_ARCH.GPTNEOX, fused_heads=True),
}
# ggml has one GELU, which all of these are near.
_GELU = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_WITH_GELU = (MODEL_ARCH.GEMMA, MODEL_ARCH.GEMMA2, MODEL_ARCH.GEMMA3, MODEL_ARCH.GPT2, MODEL_ARCH.GPTNEOX)
# Linears of GPT-2's, whose other modules are norms and embeddings.
_TRANSPOSED = ("c_attn", "c_proj", "c_fc")


def gguf_family(config: Any, source: str) -> GgufFamily:
    """The family of a model.

    Args:
        config: of transformers.
        source: names the model.

    Raises:
        UserError: llama.cpp computes something else than the model, or its form is not written here.
    """
    if config.model_type not in _FAMILIES:
        known = ", ".join(_FAMILIES)
        raise UserError(f"{source}: models of type {config.model_type!r} are not written as GGUF; these are: {known}")
    family = _FAMILIES[config.model_type]
    rope = getattr(config, "rope_parameters", None) or {}
    every = _FULL_EVERY.get(family.arch)
    types = getattr(config, "layer_types", None) or []
    windows = [i for i, kind in enumerate(types) if kind == "sliding_attention"]
    fixed = [i for i in range(config.num_hidden_layers) if every and (i + 1) % every]
    scale = getattr(config, "query_pre_attn_scalar", None)
    for odd, what in (
        (_rope(rope, "full_attention").get("rope_type", "default") not in ("default", "linear", "llama3"),
         "rotary positions of this kind"),
        (windows != fixed if every else bool(getattr(config, "sliding_window", None)) and _windows(config),
         "sliding windows at these layers"),
        (family.arch == MODEL_ARCH.SMOLLM3
         and config.no_rope_layers != [int((i + 1) % 4 > 0) for i in range(config.num_hidden_layers)],
         "layers without positions but every fourth"),
        (family.arch in (MODEL_ARCH.QWEN2, MODEL_ARCH.PHI3)
         and _head(config) * config.num_attention_heads != config.hidden_size,
         "heads of this size"),
        (getattr(config, "scale_attn_by_inverse_layer_idx", False) or not getattr(config, "scale_attn_weights", True),
         "scale of scores by layer"),
        (_activation(config) not in (_GELU if family.arch in _WITH_GELU else ("silu", "swish")),
         f"activation {_activation(config)!r}"),
        (scale is not None and scale != config.head_dim, "a scale of scores (query_pre_attn_scalar) of its own"),
        (family.neighbours and (getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)),
         "biases"),
    ):  # fmt: skip
        if odd:
            raise UserError(
                f"{source}: llama.cpp's {MODEL_ARCH_NAMES[family.arch]} knows no {what}; no GGUF is written"
            )
    return family


def _activation(config: Any) -> str:
    """The name of the activation of the MLPs; Gemma's settings have a newer one beside the old."""
    names = ("hidden_activation", "activation_function", "hidden_act")
    return next(found for name in names if (found := getattr(config, name, None)))


def _head(config: Any) -> int:
    """Numbers in a head."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _windows(config: Any) -> bool:
    """Whether a model outside Gemma has windows: Qwen names one even where it uses none."""
    types = getattr(config, "layer_types", None)
    return "sliding_attention" in types if types else True


def _rope(parameters: dict[str, Any], kind: str) -> dict[str, Any]:
    """The rotary settings of a kind of layers; most models have one for all."""
    found = parameters.get(kind, parameters)
    return found if isinstance(found, dict) else {}


def namer(family: GgufFamily, config: Any, source: str) -> Callable[[str], str]:
    """What gives the name of a tensor, without its end (.weight), for that of a module of transformers.

    Raises:
        UserError: the one that it gives, where llama.cpp has no such tensor.
    """
    names = get_tensor_name_map(family.arch, config.num_hidden_layers)

    def name(module: str) -> str:
        found = names.get_name(module)
        if found is None:
            raise UserError(f"{source}: llama.cpp's {MODEL_ARCH_NAMES[family.arch]} has no place for {module}")
        return found

    return name


def rows(family: GgufFamily, config: Any, module: str, weight: Tensor) -> Tensor:
    """A weight [out, in], or what else has the outputs of ``module`` as rows, with the rows in llama.cpp's order."""
    if family.fused_heads and module.endswith("query_key_value"):
        heads = config.num_attention_heads
        return weight.reshape(heads, 3, weight.shape[0] // heads // 3, -1).transpose(0, 1).reshape(weight.shape)
    linear = module.rpartition(".")[2]
    if not family.neighbours or linear not in ("q_proj", "k_proj"):
        return weight
    heads = config.num_attention_heads if linear == "q_proj" else config.num_key_value_heads
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


def stored(family: GgufFamily, config: Any, module: str, weight: Tensor) -> Tensor:
    """A module's weight as llama.cpp has it."""
    if family.transposed and module.endswith(_TRANSPOSED):
        return weight.T
    return rows(family, config, module, weight) + (family.norm_offset if "norm" in module.rpartition(".")[2] else 0.0)


def write_sizes(writer: GGUFWriter, config: Any, model: Any) -> None:
    """Write a model's sizes and settings, and the factors of its rotary positions where it has some."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    inner = config.n_inner or 4 * config.hidden_size if hasattr(config, "n_inner") else config.intermediate_size
    writer.add_feed_forward_length(inner)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", config.num_attention_heads))
    if hasattr(config, "rms_norm_eps"):
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    else:  # GPT-2 and GPT-NeoX have the other norm
        writer.add_layer_norm_eps(getattr(config, "layer_norm_epsilon", None) or config.layer_norm_eps)
    if hasattr(config, "use_parallel_residual"):
        writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_vocab_size(config.vocab_size)
    head = _head(config)
    writer.add_key_length(head)
    writer.add_value_length(head)
    if getattr(config, "sliding_window", None) and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        writer.add_sliding_window(config.sliding_window)
    # Granite's.
    for setting, name in (
        ("embedding_multiplier", "embedding"), ("residual_multiplier", "residual"),
        ("attention_multiplier", "attention"), ("logits_scaling", "logit"),
    ):  # fmt: skip
        if hasattr(config, setting):
            getattr(writer, f"add_{name}_scale")(getattr(config, setting))
    for name in ("attn", "final"):
        cap = getattr(config, f"{name}_logit_softcapping", None)
        if cap:
            getattr(writer, f"add_{name}_logit_softcapping")(cap)
    rope = getattr(config, "rope_parameters", None) or {}
    whole = _rope(rope, "full_attention")
    writer.add_rope_dimension_count(int(head * whole.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(whole.get("rope_theta", 10000.0))
    if "sliding_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"].get("rope_theta", 10000.0))
    if whole.get("rope_type", "default") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(whole["factor"])
    elif whole.get("rope_type") == "llama3":
        plain = whole["rope_theta"] ** -(torch.arange(0, head, 2).float() / head)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq.float()).numpy())
