"""What attention knows of positions: rotary tables, and masks that say which token sees which.

All of it is inside XNNPACK's delegate or before it at a dynamic length. As in `engine`: no slices, no expand, and
reshapes with at most one unknown dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.models.context import Tables
from prge.models.parts import Kind

# Added to the scores of keys that a query does not see.
HIDDEN = torch.finfo(torch.float32).min


class Rotary(nn.Module):
    """Tables of the rotary embedding, with a row for each position.

    The tables of the keys carry the scores' scale, which saves one multiplication of the scores. Dimensions of the
    head that are not rotated have cos 1 and sin 0.

    Attributes:
        cos, sin: for queries, f32[positions, head].
        key_cos, key_sin: the same for keys, times the scale.
    """

    def __init__(self, cos: Tensor, sin: Tensor, head: int, scale: float):
        """``cos`` and ``sin`` are f32[positions, rotated], of the first dimensions of a head."""
        super().__init__()
        rest = head - cos.shape[1]
        cos, sin = F.pad(cos, (0, rest), value=1.0), F.pad(sin, (0, rest))
        self.cos, self.sin = nn.Buffer(cos), nn.Buffer(sin)
        self.key_cos, self.key_sin = nn.Buffer(cos * scale), nn.Buffer(sin * scale)

    def forward(self, places: Tensor) -> tuple[Tensor, ...]:
        """i64[1 or R, T] -> cos, sin, key cos, key sin, each f32[1 or R, T, 1, head]."""
        tables = (self.cos, self.sin, self.key_cos, self.key_sin)
        return tuple(F.embedding(places, table).unsqueeze(2) for table in tables)


class Positions(nn.Module):
    """Rotary tables and masks for every kind of layer, made from the tokens alone.

    Everything is looked up or compared. Nothing is sliced or counted, so no node of the graph holds the number of
    tokens.

    Attributes:
        rotaries: by the name in `Kind`.
        kinds: the kinds of the model's layers, each once.
        group: queries that share a key.
        kv: heads of keys.
        pad: the token that fills rows on the right, for encoders, whose tokens see those after them; None for causal
            models, whose tokens never see the padding.
    """

    def __init__(self, rotaries: Mapping[str, Rotary], kinds: Iterable[Kind], group: int, kv: int, pad: int | None):
        super().__init__()
        self.rotaries = nn.ModuleDict(rotaries)
        self.kinds, self.group, self.kv, self.pad = list(dict.fromkeys(kinds)), group, kv, pad

    def forward(self, tokens: Tensor) -> dict[Kind, Tables]:
        """Tables for rows of tokens i64[R, T]."""
        text = places(tokens)
        queries, keys = text.unsqueeze(2), text.unsqueeze(1)
        pad = self.pad
        if pad is not None:
            given = tokens.ne(pad).unsqueeze(1)
            return self._tables(text, lambda window: self._each(self._within(given, keys, queries, window)))
        seen = keys <= queries
        return self._tables(text, lambda window: _hide(self._within(seen, keys, queries, window), self.group))

    def following(self, tokens: Tensor, start: Tensor, cached: Tensor) -> dict[Kind, Tables]:
        """Tables for one row of tokens that follows ``start`` others, whose keys and values are cached.

        Args:
            tokens: i64[1, T].
            start: i64[1]; so many positions of the cache are used.
            cached: a tensor of C numbers, the cache's positions; only its size matters.
        """
        text = places(tokens) + start
        old = places(torch.ones_like(cached, dtype=torch.int64).unsqueeze(0))
        old = torch.where(old < start, old, 2**31)  # unused positions lie behind all tokens, where no token sees them
        queries, keys = text.unsqueeze(2), torch.cat((old, text), dim=1).unsqueeze(1)
        seen = keys <= queries
        return self._tables(text, lambda window: _hide(self._within(seen, keys, queries, window), self.group))

    def at(self, position: Tensor, tokens: Tensor) -> dict[Kind, Tables]:
        """Tables for the tokens i64[R, T] at ``position`` i64[R, M] alone, which see the tokens around them."""
        queries, keys = position.unsqueeze(2), places(tokens).unsqueeze(1)
        seen = keys <= queries if self.pad is None else tokens.ne(self.pad).unsqueeze(1)
        return self._tables(position, lambda window: self._each(self._within(seen, keys, queries, window), self.group))

    def tree(self, position: Tensor, numbers: Tensor, tokens: Tensor, copies_only: bool = False) -> dict[Kind, Tables]:
        """Tables for rows in which copies of the M target positions stand before the T tokens.

        A copy sees itself and the tokens before its position; in an encoder itself and all tokens but the one at its
        position. Tokens see tokens, and no copy. Tree attention has such masks too (arXiv 2305.09781).

        Args:
            position: i64[R, M].
            numbers: 0, 1, ... copies * M - 1, i64[1, copies * M].
            tokens: i64[R, T].
            copies_only: whether the tables are for the copies alone; what they see is the same.
        """
        rows, m = position.shape
        text = places(tokens)
        if m == 1 and self.pad is None and not copies_only:
            return self._tree_of_one(position, numbers, text)
        ends = position.repeat(1, numbers.shape[1] // m)
        at = torch.cat((ends, text.repeat(rows, 1)), dim=1)
        number = torch.cat((numbers, torch.full_like(text, -1)), 1)
        own, own_number = (ends, numbers) if copies_only else (at, number)
        queries, keys = own.unsqueeze(2), at.unsqueeze(1)
        itself, of_text = own_number.unsqueeze(2) == number.unsqueeze(1), number.unsqueeze(1) < 0
        if self.pad is None:
            seen = (itself & (keys <= queries)) | (of_text & (keys < queries))
        else:
            seen = itself | (of_text & (keys != queries))
            row = torch.cat((torch.full_like(ends, -1), tokens), 1)
            seen = seen & row.ne(self.pad).unsqueeze(1)
        return self._tables(own, lambda window: self._each(self._within(seen, keys, queries, window), self.group))

    def _tree_of_one(self, position: Tensor, numbers: Tensor, text: Tensor) -> dict[Kind, Tables]:
        """The tables of `tree` where all copies of a row stand at one position i64[R, 1], and none is padded.

        All of them see the same tokens. So one mask serves all rows, and the rest is a number for each key.
        """
        rows = position.shape[0]
        number = torch.cat((numbers, torch.full_like(text, -1)), 1)
        place = torch.cat((torch.full_like(numbers, -1), text), 1)
        queries, keys, copy = place.unsqueeze(2), place.unsqueeze(1), (number >= 0).unsqueeze(2)
        itself = number.unsqueeze(2) == number.unsqueeze(1)
        of_copies = copy.to(torch.float32).repeat(rows * self.kv, self.group, 1)
        copies = (numbers >= 0).repeat(rows, 1)

        def mask(window: int | None) -> Tensor:
            of_text = self._within(keys <= queries, keys, queries, window)
            return _hide((itself & of_text) | (copy & (number < 0).unsqueeze(1)), self.group)

        def added(window: int | None) -> tuple[Tensor, Tensor]:
            seen = self._within(text < position, text, position, window)
            return of_copies, self._each(torch.cat((copies, seen), dim=1).unsqueeze(1))

        at = torch.cat((position.repeat(1, numbers.shape[1]), text.repeat(rows, 1)), dim=1)
        return self._tables(at, mask, added)

    def _tables(
        self,
        at: Tensor,
        mask: Callable[[int | None], Tensor],
        own: Callable[[int | None], tuple[Tensor, Tensor]] | None = None,
    ) -> dict[Kind, Tables]:
        windows = dict.fromkeys(kind.window for kind in self.kinds)
        masks = {window: (mask(window), own and own(window)) for window in windows}
        rotary = {name: module(at) for name, module in self.rotaries.items()}
        return {kind: Tables(rotary.get(kind.rotary or ""), *masks[kind.window]) for kind in self.kinds}

    def _within(self, seen: Tensor, keys: Tensor, queries: Tensor, window: int | None) -> Tensor:
        """Those of the seen keys that are also inside the window; ``keys`` and ``queries`` are positions."""
        if window is None:
            return seen
        near = keys > queries - window
        return seen & (near if self.pad is None else near & (keys < queries + window))

    def _each(self, seen: Tensor, group: int = 1) -> Tensor:
        """Each row's mask once for every head of keys: [R, T, keys] -> f32[R * kv, group * T, keys]."""
        # By index: repeat_interleave of the mask itself would expand it to the traced sizes.
        each = torch.arange(seen.shape[0], device=seen.device).repeat_interleave(self.kv)
        return _hide(seen, group).index_select(0, each)


def _hide(seen: Tensor, group: int) -> Tensor:
    """What is added to the scores: 0 for keys that are seen; [R, T, keys] -> f32[R, group * T, keys]."""
    return torch.where(seen, 0.0, HIDDEN).repeat(1, group, 1)


def places(tokens: Tensor) -> Tensor:
    """The positions of rows of tokens i64[R, T]: 0, 1, ... T - 1, i64[1, T]."""
    return torch.ones_like(tokens[:1]).cumsum(1) - 1
