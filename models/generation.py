"""Text from the same layers as the step's: a decoder with a key-value cache that takes the parameters as an input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from prge.manifest import AdaptedModule, TrainedHead
from prge.models.build import BuiltStep
from prge.models.context import run_layers
from prge.models.engine import SharedEmbedding, SharedHead
from prge.models.objective import soft_cap, take_rows
from prge.models.positions import places


class Generator(nn.Module):
    """The next token's logits. `forward` is what is traced and lowered.

    It takes over the layers of a step that has been traced, and may have been quantized. Its adapters have the step's
    frozen factors, so the step's parameters fit it.

    Attributes:
        backbone: the step's, all layers of which run with the cache.
        head: the linear that predicts tokens.
        trained: the head's rows of the label words, where they train; else None.
        words: these words' tokens, i64[1, 1, K].
    """

    def __init__(self, built: BuiltStep, share_table: bool):
        """Take the layers of ``built`` over; ``share_table`` is as for `build_step`."""
        super().__init__()
        self.backbone = built.step.backbone
        objective = built.step.objective
        self.norm, self.cap, self.trained = objective.norm, built.parts.final_cap, objective.trained
        self.words = nn.Buffer(torch.tensor([[objective.tokens]])) if self.trained else None
        self.head: nn.Module = built.parts.head
        if share_table and built.architecture.tied:
            embedding = self.backbone.embedding
            table: Any = embedding.table
            embedding.table = table if isinstance(table, SharedEmbedding) else SharedEmbedding(table)
            self.head = SharedHead(embedding.table)

    def forward(
        self, params: Tensor, tokens: Tensor, start: Tensor, keys: list[Tensor], values: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Read T more tokens of one text.

        Args:
            params: f32[S], the parameters, with which the step's state begins.
            tokens: i64[1, T].
            start: i64[1], how many tokens were read before; so many positions of the cache are used.
            keys: of each layer, f32[kv heads, head, C].
            values: of each layer, f32[kv heads, C, head].

        Returns:
            the logits after the last token, f32[1, V], and each layer's new keys f32[kv heads, head, T] and values
            f32[kv heads, T, head], which belong at position ``start`` of the cache.
        """
        backbone, cache = self.backbone, GrowingCache(keys, values)
        tables = backbone.positions.following(tokens, start, keys[0][0, 0])
        hidden = backbone.embedding(tokens, places(tokens) + start)
        hidden = run_layers(backbone.layers, hidden, tables, PlainCores(params), cache)
        last = torch.ones_like(tokens).sum(1, keepdim=True) - 1
        hidden = self.norm(take_rows(hidden, last))
        logits = self.head(hidden)
        if self.trained:
            added = torch.bmm(hidden * self.trained.gain, core_of(params, self.trained))
            logits = logits.scatter_add(2, self.words, added)
        logits = soft_cap(logits, self.cap)
        new_keys, new_values = zip(*(cache.new[layer] for layer in range(len(backbone.layers))), strict=True)
        return logits.reshape(1, -1), list(new_keys), list(new_values)


class PlainCores:
    """Every core as the parameters have it, for one row."""

    def __init__(self, params: Tensor):
        """``params`` is f32[S]."""
        self.params = params

    def apply(self, low: Tensor, module: AdaptedModule, columns: Tensor | None = None) -> Tensor:
        """As `Cores.apply`."""
        core = core_of(self.params, module)
        return torch.bmm(low, core if columns is None else core.index_select(2, columns))


def core_of(params: Tensor, module: AdaptedModule | TrainedHead) -> Tensor:
    """The core f32[1, rank, columns] in the parameters f32[S]."""
    return params[module.offset : module.offset + module.size].reshape(1, *module.core)


class GrowingCache:
    """Keys and values of the tokens before, and those that the layers add.

    Attributes:
        new: what each layer adds, by its index: keys f32[kv heads, head, T] and values f32[kv heads, T, head]; filled
            as the layers run.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]):
        """``keys`` and ``values`` are those of `Generator.forward`."""
        self.keys, self.values = keys, values
        self.new: dict[int, tuple[Tensor, Tensor]] = {}

    def join(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `Cache.join`."""
        self.new[layer] = keys, values
        return torch.cat((self.keys[layer], keys), dim=2), torch.cat((self.values[layer], values), dim=1)
