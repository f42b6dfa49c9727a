"""Drop-in modules for what keeps a transformer out of XNNPACK's delegate.

Each computes what the library's module computes. They differ in which operations they use:
only such as XNNPACK takes at a dynamic length (no slices, no expand, no mean, and reshapes
with at most one unknown dimension).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Added to the scores of keys that a query does not see.
HIDDEN = torch.finfo(torch.float32).min


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension; the mean is a linear layer with weights 1/H."""

    def __init__(self, norm: Any):
        super().__init__()
        self.weight: Tensor = norm.weight
        self.eps = float(norm.variance_epsilon)
        size = norm.weight.numel()
        self.mean: Tensor = nn.Buffer(torch.full((1, size), 1.0 / size))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(F.linear(x * x, self.mean) + self.eps) * self.weight


class SharedEmbedding(nn.Module):
    """An embedding whose one table also serves as the LM head; kept as [1, V, H] for both."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.table = nn.Buffer(embedding.weight.detach().unsqueeze(0))

    def forward(self, tokens: Tensor) -> Tensor:
        """i64[R, T] -> f32[R, T, H]."""
        rows = self.table.index_select(1, tokens.reshape(-1))
        return rows.reshape(tokens.shape[0], -1, self.table.shape[2])


class SharedHead(nn.Module):
    """The LM head of a tied model, ``(E h^T)^T``: a linear layer would store and pack the table again."""

    def __init__(self, embedding: SharedEmbedding):
        super().__init__()
        self.embedding = embedding

    def forward(self, hidden: Tensor) -> Tensor:
        """f32[R, M, H] -> logits f32[R, M, V]."""
        rows, targets, size = hidden.shape
        columns = hidden.reshape(1, rows * targets, size).permute(0, 2, 1).contiguous()
        logits = torch.bmm(self.embedding.table, columns).permute(0, 2, 1).contiguous()
        return logits.reshape(rows, targets, -1)


class Rotary(nn.Module):
    """Tables of the rotary embedding for ``max_tokens`` positions, and masks.

    Keys' tables carry the attention's scale, which saves one multiplication of the scores.
    All is looked up or compared, nothing sliced or counted out, so that no node of the graph
    holds the number of tokens.
    """

    def __init__(self, rotary: nn.Module, max_tokens: int, scale: float, group: int, kv_heads: int):
        super().__init__()
        cos, sin = (table[0] for table in rotary(torch.zeros(1), torch.arange(max_tokens).unsqueeze(0)))
        self.cos, self.sin = nn.Buffer(cos), nn.Buffer(sin)
        self.key_cos, self.key_sin = nn.Buffer(cos * scale), nn.Buffer(sin * scale)
        self.group, self.kv_heads = group, kv_heads

    def _tables(self, places: Tensor) -> tuple[Tensor, ...]:
        tables = (self.cos, self.sin, self.key_cos, self.key_sin)
        return tuple(F.embedding(places, table).unsqueeze(2) for table in tables)

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """(cos, sin, key cos, key sin), each f32[1, T, 1, head], and the mask f32[1, group * T, T]."""
        text = _places(tokens)
        seen = text.unsqueeze(1) <= text.unsqueeze(2)
        return *self._tables(text), torch.where(seen, 0.0, HIDDEN).repeat(1, self.group, 1)

    def tree(self, position: Tensor, copies: Tensor, tokens: Tensor) -> tuple[Tensor, ...]:
        """The same for rows in which copies of M target positions stand before the T tokens.

        A copy's target sees the tokens before the first target, and its own copy's targets up
        to itself; tokens see tokens. As in tree attention (arXiv 2305.09781).

        Args:
            position: i64[B, M], consecutive.
            copies: the numbers of the copies' positions, i64[1, copies * M].

        Returns:
            four tables f32[B, copies * M + T, 1, head] and the mask f32[B * kv, group * (copies * M + T), ...].
        """
        rows, m = position.shape
        text = _places(tokens)
        places = torch.cat((position.repeat(1, copies.shape[1] // m), text.repeat(rows, 1)), dim=1)
        copies, order = torch.cat((copies, torch.full_like(text, -1)), 1), torch.cat((copies % m, text), 1)
        mine = (copies.unsqueeze(2) // m == copies.unsqueeze(1) // m) & (order.unsqueeze(1) <= order.unsqueeze(2))
        prompt = (copies.unsqueeze(1) < 0) & (places.unsqueeze(1) < position[:, :1].unsqueeze(2))
        seen = mine | (prompt & (copies.unsqueeze(2) >= 0))
        mask = torch.where(seen, 0.0, HIDDEN).repeat(1, self.group, 1)
        # By index: repeat_interleave would expand to sizes of the trace.
        each = torch.arange(rows, device=tokens.device).repeat_interleave(self.kv_heads)
        return *self._tables(places), mask.index_select(0, each)


def _places(tokens: Tensor) -> Tensor:
    """tokens [R, T] -> 0, 1, ... T - 1, i64[1, T]."""
    return torch.ones_like(tokens[:1]).cumsum(1) - 1


class Attention(nn.Module):
    """Causal attention with rotary positions and grouped keys, of the Llama family's shape.

    A group of queries shares its keys by standing in the rows, ``[b * kv, group * t, d] x
    [b * kv, d, t]``, so nothing is expanded. Right-padding needs no mask of its own: no token
    before a row's end sees what comes after it.
    """

    def __init__(self, attention: Any):
        super().__init__()
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.o_proj = attention.v_proj, attention.o_proj
        self.q_norm = getattr(attention, "q_norm", nn.Identity())
        self.k_norm = getattr(attention, "k_norm", nn.Identity())
        self.head: int = attention.head_dim
        self.group: int = attention.num_key_value_groups
        self.kv_heads: int = attention.config.num_key_value_heads
        half = self.head // 2
        swap = torch.zeros(self.head, self.head)
        swap[:half, half:], swap[half:, :half] = -torch.eye(half), torch.eye(half)
        self.rotate_half = nn.Buffer(swap)

    def forward(
        self, hidden_states: Tensor, position_embeddings: tuple[Tensor, ...], **_: object
    ) -> tuple[Tensor, None]:
        cos, sin, key_cos, key_sin, mask = position_embeddings
        rows, kv, group, d = hidden_states.shape[0], self.kv_heads, self.group, self.head
        q = self.q_norm(self.q_proj(hidden_states).reshape(rows, -1, kv * group, d))
        k = self.k_norm(self.k_proj(hidden_states).reshape(rows, -1, kv, d))
        v = self.v_proj(hidden_states).reshape(rows, -1, kv, d)
        q = q * cos + F.linear(q, self.rotate_half) * sin
        k = k * key_cos + F.linear(k, self.rotate_half) * key_sin
        q = q.reshape(rows, -1, kv, group, d).permute(0, 2, 3, 1, 4).contiguous().reshape(rows * kv, -1, d)
        k = k.permute(0, 2, 3, 1).contiguous().reshape(rows * kv, d, -1)
        v = v.permute(0, 2, 1, 3).contiguous().reshape(rows * kv, -1, d)
        scores = torch.softmax(torch.bmm(q, k) + mask, dim=-1)
        out = torch.bmm(scores, v).reshape(rows, kv, group, -1, d)
        out = out.permute(0, 3, 1, 2, 4).contiguous().reshape(rows, -1, kv * group * d)
        return self.o_proj(out), None
