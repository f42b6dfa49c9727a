"""An undeclared model before it is changed, against what is made of it: whether its parts were read rightly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prge.manifest import AdaptedModule
from prge.models.build import BuiltStep
from prge.models.context import run_layers
from prge.models.families import UnsupportedModel
from prge.models.parts import Parts
from prge.models.positions import places

# Greatest difference, as a share of the greatest number.
_ROUNDING = 1e-4
# Tokens of the row that is compared; more where a shorter window has to show.
_TOKENS = 48


class Original:
    """What a model gives for a row of tokens, part by part.

    Attributes:
        tokens: i64[1, T].
        layers: of each layer, its input, its attention's output and its own, f32[1, T, H].
        logits: f32[V], at the last token.
    """

    def __init__(self, model: Any, max_tokens: int):
        """Run a model of transformers.

        Args:
            max_tokens: the longest row that is to run.
        """
        parts = Parts(model)
        windows = [kind.window for kind in parts.kinds if kind.window and kind.window < max_tokens]
        count = min(max_tokens, max([_TOKENS, *(window + 8 for window in windows)]))
        chosen = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(parts.embedding.num_embeddings, (1, count), generator=chosen)
        seen: dict[nn.Module, Tensor] = {}
        inputs: list[Tensor] = []
        attentions = [parts.attention(i) for i in range(len(parts.layers))]
        both = [*attentions, *parts.layers]
        hooks = [m.register_forward_hook(lambda m, _, out: seen.update({m: _first(out)})) for m in both]
        hooks += [
            m.register_forward_pre_hook(
                lambda _, args, kwargs: inputs.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
            )
            for m in parts.layers
        ]
        try:
            with torch.no_grad():
                self.logits: Tensor = model(self.tokens, use_cache=False).logits[0, -1]
        finally:
            for hook in hooks:
                hook.remove()
        self.layers = [
            (given, seen[attention], seen[layer])
            for given, attention, layer in zip(inputs, attentions, parts.layers, strict=True)
        ]

    def check(self, built: BuiltStep, words: Sequence[int] | None) -> None:
        """Compare the step's modules with it, before they are quantized.

        Each part is given what the original's was given, so a difference is that part's own.

        Args:
            words: the tokens whose logits the step gives; None for all.

        Raises:
            UnsupportedModel: they differ; says which part does.
        """
        backbone, parts = built.step.backbone, built.parts
        with torch.no_grad():
            found = backbone.embedding(self.tokens, places(self.tokens))
            _compare(found, self.layers[0][0], "what it makes of its embeddings")
            tables = backbone.positions(self.tokens)
            for i, (given, attended, expected) in enumerate(self.layers):
                inside: list[Tensor] = []
                attention = backbone.layers[i].get_submodule(parts.family.attention)
                hook = attention.register_forward_hook(lambda _, __, out, to=inside: to.append(_first(out)))
                found = run_layers([backbone.layers[i]], given, tables, _Still())
                hook.remove()
                _compare(inside[0], attended, f"the attention of its layer {i}")
                _compare(found, expected, f"its layer {i}, outside of the attention,")
            last = self.layers[-1][2][:, -1:]
            logits = built.step.objective.logits(last).reshape(-1)
            _compare(
                logits, self.logits if words is None else self.logits[list(words)], "what stands behind its layers"
            )


class _Still:
    """Cores that change nothing."""

    def apply(self, low: Tensor, module: AdaptedModule, columns: Tensor | None = None) -> Tensor:
        """As `Cores.apply`."""
        return low.new_zeros(*low.shape[:-1], module.core[1] if columns is None else len(columns))


def _first(result: Any) -> Tensor:
    found: Tensor = result[0] if isinstance(result, tuple) else result
    return found


def _compare(found: Tensor, expected: Tensor, what: str) -> None:
    if found.shape != expected.shape:
        raise UnsupportedModel(f"{what} has another form than prge's: {list(expected.shape)} and {list(found.shape)}")
    difference = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not difference <= _ROUNDING:
        raise UnsupportedModel(
            f"no family is declared for this type, and {what} computes otherwise than prge would: the two differ by "
            f"{difference:.1g} of the greatest number"
        )
