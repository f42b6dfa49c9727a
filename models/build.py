"""From a Hugging Face model to the step module that is traced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from prge.manifest import Architecture
from prge.models.adapter import AdaptedLinear, AdapterConfig, adapt, selected
from prge.models.attention import Attention, Positions, Rotary, Shared, rotate_half
from prge.models.engine import GatedMLP, Input, SharedEmbedding, SharedHead, Split, swapped
from prge.models.families import LABEL_HEAD, Kind, Parts, UnsupportedModel
from prge.models.objective import LabelWords, LanguageModel
from prge.models.step import ActivationCopies, ActivationStep, Step, StepConfig, WeightCopies, WeightStep
from prge.models.subspace import Factors, Row, as_long_as, principal_factors


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
    """The step module, the model's parts, adapted layers in state order, frozen base linears, and sizes."""

    step: Step
    parts: Parts
    adapters: list[AdaptedLinear]
    base_linears: list[nn.Linear]
    architecture: Architecture


def architecture(parts: Parts) -> Architecture:
    """Sizes of a transformers model whose layers are alike."""
    linears = [m.weight for m in parts.layers[0].modules() if isinstance(m, nn.Linear)]
    before_head = [m for norm in parts.norms for m in norm.modules() if isinstance(m, nn.Linear)]
    return Architecture(
        layers=len(parts.layers),
        hidden=parts.config.hidden_size,
        heads=parts.heads,
        head=parts.head_size,
        layer_weights=sum(weight.numel() for weight in linears),
        layer_outputs=sum(weight.shape[0] for weight in linears),
        vocabulary=parts.embedding.num_embeddings,
        tied=parts.head is not None and parts.head.weight is parts.embedding.weight,
        transform=sum(m.weight.numel() for m in before_head),
        learned_positions=parts.family.positions is not None,
    )


def fisher_factors(
    model: Any, adapter: AdapterConfig, objective: LabelWordsObjective | LanguageModelObjective, rows: Sequence[Row]
) -> dict[str, Factors]:
    """`principal_factors` of what ``adapter`` selects, with D's columns as long as W's mean singular value.

    Args:
        rows: texts of the task's form.
    """
    model.eval().requires_grad_(False)
    words = objective.tokens if isinstance(objective, LabelWordsObjective) else None
    linears = {name: linear for name, (_, _, linear) in selected(Parts(model), adapter).items()}
    found = principal_factors(model, linears, rows, words, adapter.rank, adapter.directions)
    return {name: as_long_as(linears[name].weight, f) for name, f in found.items()}


def add_label_head(model: Any, words: Sequence[Sequence[int]]) -> None:
    """Give a plain encoder the head it lacks: a row per label, what its first token becomes in the label's words.

    Args:
        words: each label's tokens, special ones included.
    """
    with torch.no_grad():
        rows = torch.stack([model(torch.tensor([tokens])).last_hidden_state[0, 0] for tokens in words])
        head = nn.Linear(rows.shape[1], len(rows))
        head.weight.copy_(rows)
        # Against what opens and closes every text, which all have in common.
        empty = model(torch.tensor([[words[0][0], words[0][-1]]])).last_hidden_state[0, 0]
        head.bias.copy_(-rows @ empty)
    setattr(model, LABEL_HEAD, head)


def build_step(
    model: Any,
    adapter: AdapterConfig,
    config: StepConfig,
    objective: LabelWordsObjective | LanguageModelObjective,
    max_tokens: int,
    share_table: bool = False,
    factors: Mapping[str, Factors] = MappingProxyType({}),
    pad_token: int = 0,
) -> BuiltStep:
    """Adapt the selected linears, swap what blocks delegation, and wrap all in a `Step`.

    ``model`` (of transformers, in float32) is consumed: its modules are moved into the step and
    changed in place.

    Args:
        max_tokens: the longest row, or text to generate.
        share_table: whether the LM head of a tied model reads the embedding's table, for
            language modelling in float32.
        factors: of `fisher_factors`, for ``subspace="fisher"``.
        pad_token: what fills rows on the right.

    Raises:
        UnsupportedModel: when its type is not in FAMILIES, or has a trait that no family covers.
        ValueError: when the adapter selects nothing or the rank does not fit.
    """
    parts = Parts(model)
    sizes, shared = architecture(parts), Shared()
    model.eval().requires_grad_(False)
    by_weights = config.perturb == "weights"
    if not by_weights and adapter.subspace is None:
        raise ValueError("perturbed activations need a subspace; plain LoRA-FA (no subspace) needs perturbed weights")
    copies = WeightCopies() if by_weights else ActivationCopies(adapter.rank, adapter.columns)
    adapters = adapt(parts, adapter, copies, factors)
    positions = _swap(parts, max_tokens, pad_token, shared)
    base_linears = [m for m in parts.layers.modules() if isinstance(m, nn.Linear)]
    scale = float(getattr(parts.embedding, "scalar_embed_scale", 1.0))
    table: nn.Module = nn.Embedding.from_pretrained(parts.embedding.weight)
    norm = nn.Sequential(*(_swapped(m) for m in parts.norms))
    if isinstance(objective, LanguageModelObjective) and not parts.family.causal:
        raise UnsupportedModel("encoders do not model language; give label words")
    head: LabelWords | LanguageModel
    if isinstance(objective, LabelWordsObjective):
        head = LabelWords(norm, parts.head, objective.tokens, parts.final_cap)
    elif share_table and sizes.tied:
        table = SharedEmbedding(parts.embedding)
        head = LanguageModel(norm, SharedHead(table), objective.max_targets, parts.final_cap)
    else:
        head = LanguageModel(norm, parts.head, objective.max_targets, parts.final_cap)
        base_linears.append(parts.head)
    embedding_norm = parts.optional(parts.family.embedding_norm)
    embedding = Input(
        table, scale, parts.learned_positions(max_tokens), None if embedding_norm is None else _swapped(embedding_norm)
    )
    size = sum(layer.size for layer in adapters)
    kind = WeightStep if by_weights else ActivationStep
    first = min(layer.layer for layer in adapters)
    step = kind(embedding, parts.layers, positions, shared, head, copies, size, first, config)
    return BuiltStep(step, parts, adapters, base_linears, sizes)


def _swap(parts: Parts, max_tokens: int, pad_token: int, shared: Shared) -> Positions:
    """Replace attention, norms and activations of all layers; returns the tables that the attention takes."""
    family = parts.family
    # A window that no row reaches is none.
    kinds = [Kind(k.rotary, k.window if k.window and k.window < max_tokens else None) for k in parts.kinds]
    rotaries, swap = {}, None
    for name in dict.fromkeys(kind.rotary for kind in kinds if kind.rotary):
        cos, sin = parts.rotary_tables(name, max_tokens)
        rotaries[name] = Rotary(cos, sin, parts.head_size, parts.attention(0).scaling)
        swap = rotate_half(cos.shape[1], parts.head_size)
    for i, layer in enumerate(parts.layers):
        for name, linear in [(name, m) for name, m in layer.named_modules() if isinstance(m, nn.Linear)]:
            rows = parts.fused_rows(name, linear)
            if rows:
                layer.set_submodule(name, Split(linear, rows))
        layer.set_submodule(family.attention, Attention(parts.attention(i), parts, i, kinds[i], shared, swap))
        if family.gate_up:
            mlp = family.gate_up.rpartition(".")[0]
            layer.set_submodule(mlp, GatedMLP(layer.get_submodule(mlp)))
        _swap_inside(layer)
    pad = None if family.causal else pad_token
    return Positions(rotaries, kinds, parts.heads // parts.kv_heads, parts.kv_heads, pad)


def _swap_inside(module: nn.Module) -> None:
    for name, child in list(module.named_modules()):
        other = swapped(child) if name else None
        if other is not None:
            module.set_submodule(name, other)


def _swapped(module: nn.Module) -> nn.Module:
    """The module itself, or what stands for it."""
    _swap_inside(module)
    return swapped(module) or module
