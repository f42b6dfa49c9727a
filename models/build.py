"""From a Hugging Face model to the step module that is traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from prge.manifest import Architecture
from prge.models.adapter import AdaptedLinear, AdapterConfig, adapt, selected
from prge.models.engine import Attention, RMSNorm, Rotary, SharedEmbedding, SharedHead
from prge.models.objective import LabelWords, LanguageModel
from prge.models.step import ActivationCopies, ActivationStep, Step, StepConfig, WeightCopies, WeightStep
from prge.models.subspace import Factors, Row, principal_factors

# Model types whose decoder layers have Llama's parts under Llama's names.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


class UnsupportedModel(ValueError):
    """The checkpoint's architecture has no entry in FAMILIES."""


@dataclass(frozen=True)
class LabelWordsObjective:
    """Classification: ``tokens[k]`` is the vocabulary index of label k's word."""

    tokens: Sequence[int]


@dataclass(frozen=True)
class LanguageModelObjective:
    """Language modelling over at most ``max_targets`` marked tokens per row."""

    max_targets: int


@dataclass(frozen=True)
class BuiltStep:
    """The step module, its adapted layers in state order, its frozen base linears, and the model's sizes."""

    step: Step
    adapters: list[AdaptedLinear]
    base_linears: list[nn.Linear]
    architecture: Architecture


def architecture(model: Any) -> Architecture:
    """Sizes of a transformers causal LM whose layers are alike."""
    hf, first = model.config, model.model.layers[0]
    linears = [m.weight for m in first.modules() if isinstance(m, nn.Linear)]
    return Architecture(
        layers=len(model.model.layers),
        hidden=hf.hidden_size,
        heads=hf.num_attention_heads,
        head=first.self_attn.head_dim,
        layer_weights=sum(weight.numel() for weight in linears),
        layer_outputs=sum(weight.shape[0] for weight in linears),
        vocabulary=model.lm_head.weight.shape[0],
        tied=model.lm_head.weight is model.model.embed_tokens.weight,
    )


def check_family(model: Any) -> None:
    """Raise `UnsupportedModel` when the type is not in FAMILIES."""
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise UnsupportedModel(f"models of type {kind!r} are not supported; supported are {', '.join(FAMILIES)}")


def fisher_factors(
    model: Any, adapter: AdapterConfig, objective: LabelWordsObjective | LanguageModelObjective, rows: Sequence[Row]
) -> dict[str, Factors]:
    """`principal_factors` of what ``adapter`` selects, with D's columns as long as W's mean singular value.

    Args:
        rows: texts of the task's form.
    """
    check_family(model)
    model.eval().requires_grad_(False)
    words = objective.tokens if isinstance(objective, LabelWordsObjective) else None
    linears = selected(model.model, adapter)
    found = principal_factors(model, linears, rows, words, adapter.rank, adapter.directions)
    lengths = {name: x.weight.norm() / min(x.weight.shape) ** 0.5 for name, x in linears.items()}
    return {name: Factors(f.inputs, f.outputs * lengths[name]) for name, f in found.items()}


def build_step(
    model: Any,
    adapter: AdapterConfig,
    config: StepConfig,
    objective: LabelWordsObjective | LanguageModelObjective,
    max_tokens: int,
    share_table: bool = False,
    factors: Mapping[str, Factors] = MappingProxyType({}),
) -> BuiltStep:
    """Swap what blocks delegation, adapt the selected linears, and wrap all in a `Step`.

    ``model`` (a transformers causal LM in float32) is consumed: its modules are moved into
    the step and changed in place.

    Args:
        max_tokens: the longest row.
        share_table: whether the LM head of a tied model reads the embedding's table, for
            language modelling in float32.
        factors: of `fisher_factors`, for ``subspace="fisher"``.

    Raises:
        UnsupportedModel: when its type is not in FAMILIES.
        ValueError: when the adapter selects nothing or the rank does not fit.
    """
    check_family(model)
    hf = model.config
    window = getattr(hf, "sliding_window", None)
    if window and getattr(hf, "use_sliding_window", True) and window < max_tokens:
        raise UnsupportedModel(
            f"the model attends within a window of {window} tokens, which is not supported; "
            f"choose at most {window} tokens"
        )
    sizes = architecture(model)
    model.eval().requires_grad_(False)
    decoder = model.model
    by_weights = config.perturb == "weights"
    if not by_weights and adapter.subspace is None:
        raise ValueError("perturbed activations need a subspace; plain LoRA-FA (no subspace) needs perturbed weights")
    copies = WeightCopies() if by_weights else ActivationCopies(adapter.rank, adapter.columns)
    adapters = adapt(decoder, "model.", adapter, copies, factors)
    first = decoder.layers[0].self_attn
    group, kv_heads = first.num_key_value_groups, hf.num_key_value_heads
    rotary = Rotary(decoder.rotary_emb, max_tokens, first.scaling, group, kv_heads)
    for layer in decoder.layers:
        layer.self_attn = Attention(layer.self_attn)
    for name, module in list(decoder.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            decoder.set_submodule(name, RMSNorm(module))
    base_linears = [m for m in decoder.layers.modules() if isinstance(m, nn.Linear)]
    embedding = decoder.embed_tokens
    head: LabelWords | LanguageModel
    if isinstance(objective, LabelWordsObjective):
        bias: Tensor | None = model.lm_head.bias
        head = LabelWords(decoder.norm, model.lm_head.weight, bias, objective.tokens)
    elif share_table and model.lm_head.weight is embedding.weight:
        embedding = SharedEmbedding(embedding)
        head = LanguageModel(decoder.norm, SharedHead(embedding), objective.max_targets)
    else:
        head = LanguageModel(decoder.norm, model.lm_head, objective.max_targets)
        base_linears.append(model.lm_head)
    size = sum(layer.size for layer in adapters)
    first_layer = min(int(layer.name.removeprefix("model.layers.").split(".")[0]) for layer in adapters)
    kind = WeightStep if by_weights else ActivationStep
    step = kind(embedding, decoder.layers, rotary, head, copies, size, first_layer, config)
    return BuiltStep(step, adapters, base_linears, sizes)
