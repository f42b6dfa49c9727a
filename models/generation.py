"""Text from the same frozen layers as the step's: a decoder with a key-value cache, the state among its inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from prge.models.adapter import AdaptedLinear
from prge.models.attention import Attention, Shared, places
from prge.models.build import BuiltStep
from prge.models.engine import SharedEmbedding, SharedHead
from prge.models.objective import soft_cap, take_rows


class PlainCores:
    """Every core as the state has it, for one row.

    Attributes:
        params: f32[S].
    """

    params: Tensor
    rows = 1

    def core(self, low: Tensor, layer: AdaptedLinear, columns: Tensor | None = None) -> Tensor:
        core = self.params[layer.offset : layer.offset + layer.size].reshape(1, *layer.core)
        return torch.bmm(low, core if columns is None else core.index_select(2, columns))


class Cache(Shared):
    """Keys and values of the tokens before, by layer.

    Attributes:
        keys: f32[kv, d, C] each, C at least as many as are used.
        values: f32[kv, C, d] each.
        new: what the layers add of T tokens, (f32[kv, d, T], f32[kv, T, d]) by layer.
    """

    keys: list[Tensor]
    values: list[Tensor]
    new: dict[int, tuple[Tensor, Tensor]]

    def remember(self, index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.new[index] = k, v
        return torch.cat((self.keys[index], k), dim=2), torch.cat((self.values[index], v), dim=1)


class Generator(nn.Module):
    """The next token's logits; `forward` is the traced program.

    It takes the layers over from a step that has been traced (and quantized): its adapters' frozen
    factors are the step's, so a state of the step fits it.
    """

    def __init__(self, built: BuiltStep, share_table: bool):
        """``share_table``: as for `build_step`."""
        super().__init__()
        step = built.step
        self.cores, self.cache = PlainCores(), Cache()
        for layer in built.adapters:
            layer.copies = self.cores
        for module in step.layers.modules():
            if isinstance(module, Attention):
                module.shared = self.cache
        self.layers, self.embedding, self.positions = step.layers, step.embedding, step.positions
        self.norm, self.cap = step.objective.norm, built.parts.final_cap
        self.head: nn.Module = built.parts.head
        if share_table and built.architecture.tied:
            table: Any = self.embedding.table
            self.embedding.table = table if isinstance(table, SharedEmbedding) else SharedEmbedding(table)
            self.head = SharedHead(self.embedding.table)

    def forward(
        self, params: Tensor, tokens: Tensor, start: Tensor, keys: list[Tensor], values: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Read T more tokens.

        Args:
            params: f32[S], the parameters of the step's state.
            tokens: i64[1, T].
            start: i64[1], how many tokens were read before; so many positions of the cache are used.
            keys, values: of each layer, f32[kv, d, C] and f32[kv, C, d].

        Returns:
            the logits after the last token, f32[1, V], and each layer's new keys f32[kv, d, T] and values
            f32[kv, T, d], which belong at ``start`` in the cache.
        """
        self.cores.params = params
        self.cache.keys, self.cache.values, self.cache.new = keys, values, {}
        self.cache.tables = self.positions.following(tokens, start, keys[0][0, 0])
        hidden = self.embedding(tokens, places(tokens) + start)
        for layer in self.layers:
            hidden = layer(hidden)
        last = torch.ones_like(tokens).sum(1, keepdim=True) - 1
        logits = soft_cap(self.head(self.norm(take_rows(hidden, last))), self.cap)
        new = [self.cache.new[i] for i in sorted(self.cache.new)]
        return logits.reshape(1, -1), [k for k, _ in new], [v for _, v in new]
