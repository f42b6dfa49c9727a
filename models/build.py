"""From a Hugging Face model to the step module that is traced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

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
    """The step module, its adapted layers in state order, and its frozen base linears."""

    step: Step
    adapters: list[AdaptedLinear]
    base_linears: list[nn.Linear]


def build_step(
    model: Any,
    adapter: AdapterConfig,
    config: StepConfig,
    objective: LabelWordsObjective | LanguageModelObjective,
    max_tokens: int,
    share_table: bool = False,
    rows: Sequence[Row] = (),
) -> BuiltStep:
    """Swap what blocks delegation, adapt the selected linears, and wrap all in a `Step`.

    ``model`` (a transformers causal LM in float32) is consumed: its modules are moved into
    the step and changed in place.

    Args:
        max_tokens: the longest row.
        share_table: whether the LM head of a tied model reads the embedding's table, for
            language modelling in float32.
        rows: texts of the task's form, from which ``subspace="fisher"`` takes its directions.

    Raises:
        UnsupportedModel: when its type is not in FAMILIES.
        ValueError: when the adapter selects nothing or the rank does not fit.
    """
    hf = model.config
    if hf.model_type not in FAMILIES:
        raise UnsupportedModel(
            f"models of type {hf.model_type!r} are not supported; supported are {', '.join(FAMILIES)}"
        )
    window = getattr(hf, "sliding_window", None)
    if window and getattr(hf, "use_sliding_window", True) and window < max_tokens:
        raise UnsupportedModel(
            f"the model attends within a window of {window} tokens, which is not supported; "
            f"choose at most {window} tokens"
        )
    model.eval().requires_grad_(False)
    decoder = model.model
    by_weights = config.perturb == "weights"
    if not by_weights and adapter.subspace is None:
        raise ValueError("perturbed activations need a subspace; plain LoRA-FA (no subspace) needs perturbed weights")
    copies = WeightCopies() if by_weights else ActivationCopies(adapter.rank, adapter.columns)
    factors: dict[str, Factors] = {}
    if adapter.subspace == "fisher":
        words = objective.tokens if isinstance(objective, LabelWordsObjective) else None
        factors = principal_factors(model, selected(decoder, adapter), rows, words, adapter.rank, adapter.directions)
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
    return BuiltStep(step, adapters, base_linears)
