"""From a model of transformers to the step module that is traced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from prge.manifest import Architecture, Gradient
from prge.models.activation_step import ActivationStep
from prge.models.adapter import AdaptedLinear, AdapterConfig, Frozen, adapt, selected, trained_head
from prge.models.attention import Attention
from prge.models.backbone import Backbone
from prge.models.engine import GatedMLP, Input, Reversible, Scale, SharedEmbedding, SharedHead, Split, replacement
from prge.models.exact_step import ExactStep
from prge.models.families import UnsupportedModel
from prge.models.full_step import FullStep
from prge.models.objective import LabelWords, LanguageModel
from prge.models.parts import LABEL_HEAD, Kind, Parts
from prge.models.positions import Positions, Rotary
from prge.models.reverse import Traced
from prge.models.step import Step, StepConfig
from prge.models.stored import leave_stored, read, read_linears
from prge.models.subspace import Factors, Row, as_long_as, principal_factors
from prge.models.weight_step import WeightStep


@dataclass(frozen=True)
class LabelWordsObjective:
    """Classification by label words; ``tokens[k]`` is the vocabulary index of the word of label k."""

    tokens: Sequence[int]


@dataclass(frozen=True)
class LanguageModelObjective:
    """Language modelling of at most ``max_targets`` marked tokens per row."""

    max_targets: int


@dataclass(frozen=True)
class BuiltStep:
    """A step module that is ready to be quantized and traced.

    Attributes:
        step: the module.
        parts: the model that it was made of, with its layers changed.
        adapters: the adapted linears, in state order.
        base_linears: the frozen linears, which quantization may round.
        architecture: the model's sizes.
    """

    step: Step
    parts: Parts
    adapters: list[AdaptedLinear]
    base_linears: list[nn.Linear]
    architecture: Architecture


def architecture(parts: Parts) -> Architecture:
    """The sizes of a transformers model, whose layers all are like the first; to be asked before they are changed."""
    linears = [m.weight for m in parts.layers[0].modules() if isinstance(m, nn.Linear)]
    before_head = [m for norm in parts.norms for m in norm.modules() if isinstance(m, nn.Linear)]
    return Architecture(
        layers=len(parts.layers),
        hidden=parts.config.hidden_size,
        heads=parts.heads,
        kv_heads=parts.kv_heads,
        head=parts.head_size,
        layer_weights=sum(weight.numel() for weight in linears),
        layer_outputs=sum(weight.shape[0] for weight in linears),
        vocabulary=parts.embedding.num_embeddings,
        tied=parts.head is not None and parts.head.weight is parts.embedding.weight,
        transform=sum(m.weight.numel() for m in before_head),
        learned_positions=parts.family.positions is not None,
    )


def fisher_factors(
    model: Any,
    adapter: AdapterConfig,
    objective: LabelWordsObjective | LanguageModelObjective,
    rows: Sequence[Row],
    gradient: Gradient,
) -> dict[str, Factors]:
    """The factors of the fisher subspace, by the full names of the linears that ``adapter`` selects.

    They are those of `principal_factors`, with D's columns made as long as W asks for (`as_long_as`).

    Args:
        model: of transformers; it is not changed.
        rows: examples of the task.
        gradient: how the step has it. The exact one does not see what the adapters do beside the targets, so A is set
            apart for it where the answer is one word. Text is too much like the text before it: chats learned more
            slowly so.
    """
    model.eval().requires_grad_(False)
    words = objective.tokens if isinstance(objective, LabelWordsObjective) else None
    linears = {name: linear for name, (_, _, linear) in selected(Parts(model), adapter).items()}
    found = principal_factors(
        model, linears, rows, words, adapter.rank, adapter.directions, words is not None and gradient == "exact"
    )
    return {name: as_long_as(read(linears[name].weight), f) for name, f in found.items()}


def add_label_head(model: Any, words: Sequence[Sequence[int]]) -> None:
    """Give a plain encoder the head it lacks: for each label, the hidden state of its words' first token.

    Args:
        model: of transformers; it is changed in place.
        words: each label's tokens, special ones included.
    """
    with torch.no_grad():
        rows = torch.stack([model(torch.tensor([tokens])).last_hidden_state[0, 0] for tokens in words])
        head = nn.Linear(rows.shape[1], len(rows))
        head.weight.copy_(rows)
        # Scores are relative to the empty text, so that what all texts have in common does not count.
        empty = model(torch.tensor([[words[0][0], words[0][-1]]])).last_hidden_state[0, 0]
        head.bias.copy_(-rows @ empty)
    setattr(model, LABEL_HEAD, head)


def refuse_unfit(
    parts: Parts,
    adapter: AdapterConfig,
    config: StepConfig,
    objective: LabelWordsObjective | LanguageModelObjective,
    max_tokens: int,
) -> None:
    """Refuse what `build_step` cannot build, by the model's sizes alone.

    Raises:
        UnsupportedModel: the model cannot do what is asked for.
        ValueError: the settings do not fit each other.
    """
    if config.gradient != "weights" and adapter.subspace is None:
        raise ValueError("plain LoRA-FA (no subspace) needs perturbed weights")
    if isinstance(objective, LanguageModelObjective) and not parts.family.causal:
        raise UnsupportedModel("encoders do not model language; give label words")
    parts.check_length(max_tokens)


def build_step(
    model: Any,
    adapter: AdapterConfig,
    config: StepConfig,
    objective: LabelWordsObjective | LanguageModelObjective,
    max_tokens: int,
    *,
    share_table: bool = False,
    factors: Mapping[str, Frozen] = MappingProxyType({}),
    pad_token: int = 0,
) -> BuiltStep:
    """Adapt the selected linears, replace what blocks delegation, and wrap all of it in a `Step`.

    Args:
        model: of transformers. It is consumed: its modules are changed in place and become the step's.
        max_tokens: the length of the longest row, or of the longest text to generate.
        share_table: whether the LM head of a tied model reads the embedding's table; for language modelling in float32.
        factors: the frozen factors by full name, as for `adapt`.
        pad_token: fills rows on the right.

    Raises:
        UnsupportedModel: the model's type is not in FAMILIES, or it has a trait that no family covers; or a gradient is
            wanted, and the activation has no rule for it.
        ValueError: the adapter selects nothing, its rank does not fit, or as `refuse_unfit`.
    """
    parts = Parts(model)
    refuse_unfit(parts, adapter, config, objective, max_tokens)
    sizes = architecture(parts)
    model.eval().requires_grad_(False)
    adapters = adapt(parts, adapter, factors)
    positions = _replace(parts, max_tokens, pad_token)
    base_linears = [m for m in parts.layers.modules() if isinstance(m, nn.Linear)]

    table: nn.Module = nn.Embedding.from_pretrained(parts.embedding.weight)
    if table.weight.dtype != torch.float32:
        leave_stored(table)
    norm, cap = nn.Sequential(*(_replaced(m) for m in parts.norms)), parts.final_cap
    read_linears(norm)
    if parts.logit_scale != 1.0:  # heads with a bias have none
        norm.append(Scale(parts.logit_scale))
    loss: LabelWords | LanguageModel
    if isinstance(objective, LabelWordsObjective):
        offset = sum(layer.module.size for layer in adapters)
        head = trained_head(parts, adapter, objective.tokens, config.estimates, offset)
        loss = LabelWords(norm, parts.head, objective.tokens, cap, head)
    elif share_table and sizes.tied:
        table = SharedEmbedding(parts.embedding)
        loss = LanguageModel(norm, SharedHead(table), objective.max_targets, cap)
    else:
        loss = LanguageModel(norm, parts.head, objective.max_targets, cap)
        base_linears.append(parts.head)

    embedding_norm = parts.optional(parts.family.embedding_norm)
    embedding = Input(
        table,
        parts.embedding_scale,
        parts.learned_positions(max_tokens),
        None if embedding_norm is None else _replaced(embedding_norm),
    )
    trained = [layer.module for layer in adapters]
    first = min(module.layer for module in trained)
    if not config.estimates:
        for activation in _activations(parts.layers[-1]):  # refuses one without a rule now, and not in the trace
            activation(Traced(torch.zeros(1)))
        base_linears += [
            both.transposed for both in _reversible([*parts.layers[first:], loss]) if both.linear in base_linears
        ]
    backbone = Backbone(embedding, parts, positions, first)
    step = _STEPS[config.gradient](backbone, loss, trained, config)
    return BuiltStep(step, parts, adapters, base_linears, sizes)


_STEPS: dict[Gradient, type[Step]] = {
    "full": FullStep, "exact": ExactStep, "activations": ActivationStep, "weights": WeightStep,
}  # fmt: skip


def _replace(parts: Parts, max_tokens: int, pad_token: int) -> Positions:
    """Replace attention, norms and activations of all layers; returns what makes the attention's tables."""
    family = parts.family
    # A window that holds every row is no window.
    kinds = [Kind(k.rotary, k.window if k.window and k.window < max_tokens else None) for k in parts.kinds]
    rotaries, turn = {}, None
    for name in dict.fromkeys(kind.rotary for kind in kinds if kind.rotary):
        cos, sin, turn = parts.rotary_tables(name, max_tokens)
        rotaries[name] = Rotary(cos, sin, parts.head_size, parts.scaling(0))
        rest = parts.head_size - len(turn)
        turn = F.pad(turn, (0, rest, 0, rest))
    for i, layer in enumerate(parts.layers):
        for name, linear in [(name, m) for name, m in layer.named_modules() if isinstance(m, nn.Linear)]:
            rows = parts.fused_rows(name, linear)
            if rows:
                layer.set_submodule(name, Split(linear, rows))
        layer.set_submodule(family.attention, Attention(parts.attention(i), parts, i, kinds[i], turn))
        if family.gated:
            mlp = family.gated[0].rpartition(".")[0]
            layer.set_submodule(mlp, GatedMLP(*(layer.get_submodule(name) for name in family.gated)))
        _replace_inside(layer)
    pad = None if family.causal else pad_token
    return Positions(rotaries, kinds, parts.heads // parts.kv_heads, parts.kv_heads, pad)


def _activations(layer: nn.Module) -> list[nn.Module]:
    homes = ("torch.nn.modules.activation", "transformers.activations")
    return [module for module in layer.modules() if type(module).__module__ in homes]


def _reversible(modules: Iterable[nn.Module]) -> list[Reversible]:
    """Give every linear of the modules its transposed weights, in place."""
    made = list[Reversible]()
    for module in modules:
        for name, linear in [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]:
            made.append(Reversible(linear))
            module.set_submodule(name, made[-1])
    return made


def _replace_inside(module: nn.Module) -> None:
    for name, child in list(module.named_modules()):
        other = replacement(child) if name else None
        if other is not None:
            module.set_submodule(name, other)


def _replaced(module: nn.Module) -> nn.Module:
    """The module, or what replaces it."""
    _replace_inside(module)
    return replacement(module) or module
