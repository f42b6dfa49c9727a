"""Attention of every model family, inside XNNPACK's delegate at a dynamic length, and what it needs to know of places.

As `engine`: no slices, no expand, and reshapes with at most one unknown dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.models.families import Kind, Parts

# Added to the scores of keys that a query does not see.
HIDDEN = torch.finfo(torch.float32).min


class Tables(NamedTuple):
    """What the attention layers of one kind share.

    Attributes:
        rotary: cos, sin, key cos, key sin, each f32[1 or R, T, 1, head]; None without rotary positions.
        mask: f32, added to the scores; broadcasts to [R * kv, group * T, keys].
    """

    rotary: tuple[Tensor, ...] | None
    mask: Tensor


class Shared:
    """What all attention layers of a trace share, set anew by each; a plain object as `Copies` are.

    Attributes:
        tables: by the layers' kind.
    """

    tables: Mapping[Kind, Tables]

    def remember(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys f32[R * kv, d, all T] and values f32[R * kv, all T, d] that a layer's queries meet.

        Here those of this very execution; a cache adds those of earlier ones.
        """
        return k, v


class Rotary(nn.Module):
    """Tables of the rotary embedding.

    Keys' tables carry the scores' scale, which saves one multiplication of the scores. Dimensions
    that are not rotated have cos 1 and sin 0.

    Args:
        cos, sin: f32[positions, rotated], of a head's first dimensions.
    """

    def __init__(self, cos: Tensor, sin: Tensor, head: int, scale: float):
        super().__init__()
        rest = head - cos.shape[1]
        cos, sin = F.pad(cos, (0, rest), value=1.0), F.pad(sin, (0, rest))
        self.cos, self.sin = nn.Buffer(cos), nn.Buffer(sin)
        self.key_cos, self.key_sin = nn.Buffer(cos * scale), nn.Buffer(sin * scale)

    def forward(self, places: Tensor) -> tuple[Tensor, ...]:
        """i64[1 or R, T] -> cos, sin, key cos, key sin, each f32[1 or R, T, 1, head]."""
        tables = (self.cos, self.sin, self.key_cos, self.key_sin)
        return tuple(F.embedding(places, table).unsqueeze(2) for table in tables)


def rotate_half(rotated: int, head: int) -> Tensor:
    """f32[head, head]: takes (a, b) of the first ``rotated`` dimensions to (-b, a), and the rest to 0."""
    half, swap = rotated // 2, torch.zeros(head, head)
    swap[:half, half:rotated], swap[half:rotated, :half] = -torch.eye(half), torch.eye(half)
    return swap


class Positions(nn.Module):
    """Tables and masks of every kind of layer, from the tokens alone.

    All is looked up or compared, nothing sliced or counted out, so that no node of the graph
    holds the number of tokens.

    Args:
        rotaries: by the name in `Kind`.
        group: queries that share a key.
        pad: the token that fills rows on the right, where tokens see those after them; None for causal
            models, whose tokens never see it.
    """

    def __init__(self, rotaries: Mapping[str, Rotary], kinds: Iterable[Kind], group: int, kv: int, pad: int | None):
        super().__init__()
        self.rotaries = nn.ModuleDict(rotaries)
        self.kinds, self.group, self.kv, self.pad = list(dict.fromkeys(kinds)), group, kv, pad

    def forward(self, tokens: Tensor) -> dict[Kind, Tables]:
        """For rows of tokens i64[R, T]."""
        text = places(tokens)
        queries, keys = text.unsqueeze(2), text.unsqueeze(1)
        pad = self.pad
        if pad is not None:
            return self._tables(text, lambda window: self._each(tokens.ne(pad).unsqueeze(1)))
        return self._tables(text, lambda window: _hide(_within(keys <= queries, keys, queries, window), self.group))

    def following(self, tokens: Tensor, start: Tensor, cached: Tensor) -> dict[Kind, Tables]:
        """For one row of tokens i64[1, T] behind ``start`` others, which a cache of C positions begins with.

        Args:
            start: i64[1].
            cached: any tensor of C numbers.
        """
        text = places(tokens) + start
        old = places(torch.ones_like(cached, dtype=torch.int64).unsqueeze(0))
        old = torch.where(old < start, old, 2**31)  # what is not used yet lies behind all tokens
        queries, keys = text.unsqueeze(2), torch.cat((old, text), dim=1).unsqueeze(1)
        return self._tables(text, lambda window: _hide(_within(keys <= queries, keys, queries, window), self.group))

    def tree(self, position: Tensor, copies: Tensor, tokens: Tensor) -> dict[Kind, Tables]:
        """For rows in which copies of M target positions stand before the T tokens.

        A copy of a target sees itself and the tokens before it (where tokens see those after them: all but
        the target); tokens see tokens. As in tree attention (arXiv 2305.09781).

        Args:
            position: i64[R, M].
            copies: the numbers of the copies' positions, i64[1, copies * M].
        """
        rows, m = position.shape
        text = places(tokens)
        ends = position.repeat(1, copies.shape[1] // m)
        at = torch.cat((ends, text.repeat(rows, 1)), dim=1)
        number = torch.cat((copies, torch.full_like(text, -1)), 1)
        queries, keys = at.unsqueeze(2), at.unsqueeze(1)
        itself, of_text = number.unsqueeze(2) == number.unsqueeze(1), number.unsqueeze(1) < 0
        if self.pad is None:
            seen = (itself & (keys <= queries)) | (of_text & (keys < queries))
        else:
            seen = itself | (of_text & (keys != queries))
        if self.pad is not None:
            row = torch.cat((torch.full_like(ends, -1), tokens), 1)
            seen = seen & row.ne(self.pad).unsqueeze(1)
        return self._tables(at, lambda window: self._each(_within(seen, keys, queries, window), self.group))

    def _tables(self, at: Tensor, mask: Callable[[int | None], Tensor]) -> dict[Kind, Tables]:
        masks = {window: mask(window) for window in dict.fromkeys(kind.window for kind in self.kinds)}
        rotary = {name: module(at) for name, module in self.rotaries.items()}
        return {kind: Tables(rotary.get(kind.rotary or ""), masks[kind.window]) for kind in self.kinds}

    def _each(self, seen: Tensor, group: int = 1) -> Tensor:
        """Rows' masks, once per head of keys."""
        # By index: repeat_interleave would expand to sizes of the trace.
        each = torch.arange(seen.shape[0], device=seen.device).repeat_interleave(self.kv)
        return _hide(seen, group).index_select(0, each)


def _hide(seen: Tensor, group: int) -> Tensor:
    return torch.where(seen, 0.0, HIDDEN).repeat(1, group, 1)


def _within(seen: Tensor, keys: Tensor, queries: Tensor, window: int | None) -> Tensor:
    return seen if window is None else seen & (keys > queries - window)


def places(tokens: Tensor) -> Tensor:
    """tokens [R, T] -> 0, 1, ... T - 1, i64[1, T]."""
    return torch.ones_like(tokens[:1]).cumsum(1) - 1


class Attention(nn.Module):
    """Attention of every family: q, k and v linears (or a split one), grouped keys, rotary positions or none.

    A group of queries shares its keys by standing in the rows, ``[b * kv, group * t, d] x
    [b * kv, d, t]``, so nothing is expanded. What differs by layer kind or by execution comes by `Shared`.

    Args:
        projections: the three linears, or the one that gives all three.
        output: closes the attention; None where the layer has it outside.
        swap: `rotate_half`; None without rotary positions.
    """

    def __init__(
        self, attention: Any, parts: Parts, index: int, kind: Kind, shared: Shared,
        swap: Tensor | None,
    ):  # fmt: skip
        super().__init__()
        family = parts.family
        self.projections = nn.ModuleList(getattr(attention, name) for name in family.queries_keys_values)
        self.output = nn.Identity() if family.output is None else getattr(attention, family.output)
        self.q_norm: nn.Module | None = getattr(attention, "q_norm", None)
        self.k_norm: nn.Module | None = getattr(attention, "k_norm", None)
        self.head, self.kv, self.group = parts.head_size, parts.kv_heads, parts.heads // parts.kv_heads
        self.scale: float = attention.scaling
        self.cap: float | None = getattr(attention, "attn_logit_softcapping", None)
        self.rotate_half: Tensor = nn.Buffer(torch.zeros(0) if swap is None else swap)
        self.index, self.kind, self.shared = index, kind, shared

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> tuple[Tensor, None]:
        rotary, mask = self.shared.tables[self.kind]
        rows, kv, group, d = hidden_states.shape[0], self.kv, self.group, self.head
        made = [projection(hidden_states) for projection in self.projections]
        q, k, v = made if len(made) == 3 else made[0]
        q, k, v = q.reshape(rows, -1, kv * group, d), k.reshape(rows, -1, kv, d), v.reshape(rows, -1, kv, d)
        q = q if self.q_norm is None else self.q_norm(q)
        k = k if self.k_norm is None else self.k_norm(k)
        if rotary is None:
            k = k * self.scale
        else:
            cos, sin, key_cos, key_sin = rotary
            q = q * cos + F.linear(q, self.rotate_half) * sin
            k = k * key_cos + F.linear(k, self.rotate_half) * key_sin
        q = q.reshape(rows, -1, kv, group, d).permute(0, 2, 3, 1, 4).contiguous().reshape(rows * kv, -1, d)
        k = k.permute(0, 2, 3, 1).contiguous().reshape(rows * kv, d, -1)
        v = v.permute(0, 2, 1, 3).contiguous().reshape(rows * kv, -1, d)
        k, v = self.shared.remember(self.index, k, v)
        scores = torch.bmm(q, k)
        if self.cap is not None:
            scores = torch.tanh(scores * (1.0 / self.cap)) * self.cap
        out = torch.bmm(torch.softmax(scores + mask, dim=-1), v).reshape(rows, kv, group, -1, d)
        out = out.permute(0, 3, 1, 2, 4).contiguous().reshape(rows, -1, kv * group * d)
        return self.output(out), None
