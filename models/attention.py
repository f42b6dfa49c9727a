"""The attention of every model family, inside XNNPACK's delegate at a dynamic length.

As in `engine`: no slices, no expand, and reshapes with at most one unknown dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.models.context import context
from prge.models.engine import Split
from prge.models.parts import Kind, Parts
from prge.models.reverse import Traced, linear, traced, turned, value_of


class Attention(nn.Module):
    """Attention of every family: three linears for queries, keys and values or one for all, rotary positions or none.

    The queries that share a key stand in its rows, ``[R * kv, group * T, head] x [R * kv, head, keys]``, so no key is
    repeated.

    Attributes:
        projections: the three linears, or the one that gives all three.
        output: the linear that closes the attention; the identity where the layer has it outside.
        turn: f32[head, head], how rotary positions turn queries and keys (`Parts.rotary_tables`); empty without them.
        group: queries that share a key.
        cap: bounds the scores, as in Gemma 2; None for no bound.
    """

    def __init__(self, attention: Any, parts: Parts, layer: int, kind: Kind, turn: Tensor | None):
        """Take the linears and norms of transformers' module ``attention`` over, which is that of layer ``layer``."""
        super().__init__()
        family = parts.family
        self.projections = nn.ModuleList(getattr(attention, name) for name in family.queries_keys_values)
        self.output = nn.Identity() if family.output is None else getattr(attention, family.output)
        self.q_norm: nn.Module | None = getattr(attention, "q_norm", None)
        self.k_norm: nn.Module | None = getattr(attention, "k_norm", None)
        self._wide = self.q_norm is not None and self.q_norm.weight.numel() > parts.head_size  # as in OLMo 2
        self.head, self.kv, self.group = parts.head_size, parts.kv_heads, parts.heads // parts.kv_heads
        self.scale: float = parts.scaling(layer)
        self.cap: float | None = getattr(attention, "attn_logit_softcapping", None)
        turn = torch.zeros(0, 0) if turn is None else turn
        self.turn, self.turn_back = nn.Buffer(turn.contiguous()), nn.Buffer(turn.T.contiguous())
        self.ones: Tensor = nn.Buffer(torch.ones(1, self.head))
        self.layer, self.kind = layer, kind

    def shared_linears(self) -> list[nn.Linear]:
        """The linears of keys and values, both ways, where several queries share a key; else none."""
        fused = next((m for m in self.projections.modules() if isinstance(m, Split)), None)
        three = list(fused.parts if fused else self.projections)
        shared = three[1:] if self.group > 1 else []
        return [m for part in shared for m in part.modules() if isinstance(m, nn.Linear)]

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        """f32[R, T, H] -> f32[R, T, heads * head], or f32[R, T, H] behind the closing linear; no attention weights.

        What transformers' layers pass beside the hidden states is not used: masks, tables and cache are the context's.
        """
        given = context()
        rotary, mask, own = given.tables[self.kind]
        rows, kv, group, d = given.rows, self.kv, self.group, self.head
        q, k, v = self._projected(hidden_states)
        q = self._normed(q, self.q_norm, kv * group)
        if rotary is not None:
            q = q * rotary[0] + self._turned(q) * rotary[1]
        q = q.reshape(rows, -1, kv, group, d).permute(0, 2, 3, 1, 4).contiguous().reshape(rows * kv, -1, d)
        k, v = self._keys(k), self._values(v)
        seen = (k, v) if given.cache is None else given.cache.join(self.layer, k, v)
        if own is not None:  # one number more in each head, whose product is what is added
            q, seen = torch.cat((q, own[0]), dim=2), (torch.cat((seen[0], own[1]), dim=1), seen[1])
        out = self._attend(q, k, v, *seen, mask).reshape(rows, kv, group, -1, d)
        out = out.permute(0, 3, 1, 2, 4).contiguous().reshape(rows, -1, kv * group * d)
        return self.output(out), None

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """What the queries f32[R * kv, group * T, head] see in all ``keys`` and ``values``.

        ``k`` and ``v`` are those of the queries' own tokens, which stand first among them. The gradient of a `Traced`
        goes to all keys and values if they are `Traced` too. Else it goes to the own ones, and others are constants.
        """
        x, all_keys, all_values = value_of(q), value_of(keys), value_of(values)
        whole = isinstance(keys, Traced)
        if whole:
            k, v = keys, values

        def own(g: Tensor) -> Tensor:
            return g if whole else g[:, :, : value_of(k).shape[2]]

        scores = traced(
            torch.bmm(x, all_keys),
            (q, lambda g: turned(torch.bmm(all_keys, turned(g)))),  # all keys are much to turn
            (k, lambda g: torch.bmm(turned(x), own(g))),
        )
        if self.cap is not None:
            scores = torch.tanh(scores * (1.0 / self.cap)) * self.cap
        shares = torch.softmax(value_of(scores) + mask, dim=-1)
        out = torch.bmm(shares, all_values)

        def to_scores(g: Tensor) -> Tensor:
            # The sum over all keys of shares times their gradients is that of out times g over the head.
            return shares * (turned(torch.bmm(all_values, turned(g))) - F.linear(g * out, self.ones))

        result: Tensor = traced(out, (scores, to_scores), (v, lambda g: torch.bmm(turned(own(shares)), g)))
        return result

    def keys_values(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """f32[R, T, H] -> the keys f32[R * kv, head, T] and values f32[R * kv, T, head] of all positions."""
        _, k, v = self._projected(hidden_states)
        return self._keys(k), self._values(v)

    def _turned(self, x: Tensor) -> Tensor:
        found: Tensor = linear(x, self.turn, self.turn_back)
        return found

    def _projected(self, hidden_states: Tensor) -> Sequence[Tensor]:
        made = [projection(hidden_states) for projection in self.projections]
        return made if len(made) == 3 else made[0]

    def _keys(self, k: Tensor) -> Tensor:
        given = context()
        k, rotary = self._normed(k, self.k_norm, self.kv), given.tables[self.kind].rotary
        k = k * self.scale if rotary is None else k * rotary[2] + self._turned(k) * rotary[3]
        return k.permute(0, 2, 3, 1).contiguous().reshape(given.rows * self.kv, self.head, -1)

    def _normed(self, x: Tensor, norm: nn.Module | None, heads: int) -> Tensor:
        """f32[R, T, heads * head] -> f32[R, T, heads, head], behind the norm of each head, or of all together."""
        if norm is not None and self._wide:
            x = norm(x)
        x = x.reshape(context().rows, -1, heads, self.head)
        return x if norm is None or self._wide else norm(x)

    def _values(self, v: Tensor) -> Tensor:
        rows = context().rows
        v = v.reshape(rows, -1, self.kv, self.head)
        return v.permute(0, 2, 1, 3).contiguous().reshape(rows * self.kv, -1, self.head)
