"""Replacements for the modules of a transformer that XNNPACK's delegate does not take.

Each computes what the library's module computes, with operations that XNNPACK takes at a dynamic length: no slices, no
expand, no mean, and reshapes with at most one unknown dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.models.context import context, recording
from prge.models.reverse import Pull, Traced, traced, value_of
from prge.models.stored import StoredLinear


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, f32[..., H]; the mean is a linear layer with weights 1/H."""

    def __init__(self, norm: Any):
        super().__init__()
        shifted = type(norm).__name__.startswith("Gemma")  # its checkpoints hold the weights minus one
        self.weight: Tensor = nn.Buffer(norm.weight.detach() + 1.0) if shifted else norm.weight
        self.eps = float(norm.eps if shifted else norm.variance_epsilon)
        size = norm.weight.numel()
        self.mean: Tensor = nn.Buffer(torch.full((1, size), 1.0 / size))

    def forward(self, x: Tensor) -> Tensor:
        return _normed(x, self.mean, self.eps) * self.weight


class LayerNorm(nn.Module):
    """Layer norm over the last dimension, f32[..., H]; both means are linear layers with weights 1/H."""

    def __init__(self, norm: Any):
        super().__init__()
        own = not isinstance(norm, nn.LayerNorm)  # Cohere's, which has no bias
        size = norm.weight.numel() if own else norm.normalized_shape[0]
        self.weight: Tensor | None = norm.weight
        self.bias: Tensor | None = None if own else norm.bias
        self.eps = float(norm.variance_epsilon if own else norm.eps)
        self.mean: Tensor = nn.Buffer(torch.full((1, size), 1.0 / size))

    def forward(self, x: Tensor) -> Tensor:
        x = _normed(_centered(x, self.mean), self.mean, self.eps)
        if self.weight is not None:
            x = x * self.weight
        return x if self.bias is None else x + self.bias


def _normed(x: Tensor, mean: Tensor, eps: float) -> Tensor:
    """``x`` over its root mean square."""
    v = value_of(x)
    scale = torch.rsqrt(F.linear(v * v, mean) + eps)
    y = v * scale
    out: Tensor = traced(y, (x, lambda g: (g - y * F.linear(g * y, mean)) * scale))
    return out


def _centered(x: Tensor, mean: Tensor) -> Tensor:
    """``x`` without its mean."""
    v = value_of(x)
    out: Tensor = traced(v - F.linear(v, mean), (x, lambda g: g - F.linear(g, mean)))
    return out


class Scale(nn.Module):
    """Multiplies by a number."""

    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


class TanhGelu(nn.Module):
    """The tanh approximation of GELU (arXiv 1606.08415); XNNPACK has an operator for the exact one only."""

    def forward(self, x: Tensor) -> Tensor:
        inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))
        return 0.5 * x * (1.0 + torch.tanh(inner))


def replacement(module: nn.Module) -> nn.Module | None:
    """A module that computes the same inside the delegate; None for one that needs no replacement."""
    kind = type(module).__name__
    if kind.endswith("RMSNorm"):
        return RMSNorm(module)
    if isinstance(module, nn.LayerNorm) or kind in ("CohereLayerNorm", "Cohere2LayerNorm"):
        return LayerNorm(module)
    return TanhGelu() if kind in _TANH_GELUS else None


_TANH_GELUS = ("GELUTanh", "NewGELUActivation", "FastGELUActivation", "AccurateGELUActivation")


class Reversible(nn.Module):
    """A frozen linear with its transposed weights beside it, for the way of a gradient back.

    Attributes:
        linear: the linear.
        transposed: its weights the other way, out -> in.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear = linear
        self.transposed = type(linear)(linear.out_features, linear.in_features, bias=False, device="meta")
        weight = linear.weight.detach().T
        stored = isinstance(linear, StoredLinear)  # it is not copied before something reads it
        self.transposed.weight = nn.Parameter(weight if stored else weight.contiguous(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """f32[..., in] -> f32[..., out]."""
        return recorded(self, x, self.linear, self.transposed)


def factor(x: Tensor, weight: Tensor, back: Tensor) -> Tensor:
    """``x W^T`` with an adapter's frozen factor: f32[..., in] and f32[out, in] -> f32[..., out].

    Args:
        back: the transposed factor, f32[in, out].
    """
    return recorded(weight, x, lambda v: F.linear(v, weight), lambda g: F.linear(g, back))


def recorded(key: object, x: Tensor, forward: Pull, back: Pull) -> Tensor:
    """A frozen linear that leaves its result in the record, and takes it from there for a `Traced`.

    Args:
        key: the linear's place in the record.
        forward: f32[..., in] -> f32[..., out]; runs once, but for what the record lacks.
        back: the same with the transposed weights.
    """
    record = recording()
    if isinstance(x, Traced):
        known = record.outputs.get(key) if record else None
        y = forward(x.value) if known is None else known.reshape(*x.value.shape[:-1], -1)
        out: Tensor = traced(y, (x, back))
        return out
    y = forward(x)
    if record:
        record.outputs[key] = y.reshape(context().rows, -1, y.shape[-1])[:, : record.targets]
    return y


class Split(nn.Module):
    """A fused linear as one linear for each of its parts, as slices of its result would stay outside the delegate."""

    def __init__(self, linear: nn.Linear, rows: Sequence[Tensor]):
        """``rows`` are the outputs of ``linear`` that make each part, i64[n] each."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.parts = nn.ModuleList(_rows_of(linear, part) for part in rows)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """f32[..., in] -> f32[..., outputs] of each part."""
        return tuple(part(x) for part in self.parts)


def _rows_of(linear: nn.Linear, rows: Tensor) -> nn.Linear:
    """The linear that gives these outputs i64[n] of ``linear`` alone."""
    part = type(linear)(linear.in_features, len(rows), bias=False, device="meta")
    some: Tensor | slice = rows
    first, last = int(rows[0]), int(rows[-1])
    if isinstance(linear, StoredLinear) and torch.equal(rows, torch.arange(first, last + 1)):
        some = slice(first, last + 1)  # one piece, which is not copied before something reads it
    part.weight = nn.Parameter(linear.weight.detach()[some], requires_grad=False)
    if linear.bias is not None:
        part.bias = nn.Parameter(linear.bias.detach()[rows], requires_grad=False)
    return part


class GatedMLP(nn.Module):
    """A gated feed-forward module whose first linear, once fused, gives its two parts one by one."""

    def __init__(self, fused: nn.Module, closing: nn.Module, activation: nn.Module):
        super().__init__()
        self.fused, self.closing, self.activation = fused, closing, activation

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.fused(x)
        return self.closing(up * self.activation(gate))


class Input(nn.Module):
    """Makes the first layer's input: the tokens' embeddings, and what some families do with them.

    Attributes:
        table: the embedding, i64[R, T] -> f32[R, T, H].
        scale: multiplies the embeddings, as in Gemma.
        positions: learned positions, which are added, f32[max_tokens, H]; None where there are none.
        norm: the norm behind the sum, as in BERT; None where there is none.
    """

    def __init__(self, table: nn.Module, scale: float, positions: Tensor | None, norm: nn.Module | None):
        super().__init__()
        self.table, self.scale, self.norm = table, scale, norm
        self.positions = None if positions is None else nn.Buffer(positions.clone())

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Tokens i64[R, T] at the positions ``places`` i64[1 or R, T] -> f32[R, T, H]."""
        hidden = self.table(tokens)
        if self.scale != 1.0:
            hidden = hidden * self.scale
        if self.positions is not None:
            hidden = hidden + F.embedding(places, self.positions)
        return hidden if self.norm is None else self.norm(hidden)


class SharedEmbedding(nn.Module):
    """An embedding whose table is the LM head too (`SharedHead`); both read it as f32[1, V, H]."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.table = nn.Buffer(embedding.weight.detach().unsqueeze(0))

    def forward(self, tokens: Tensor) -> Tensor:
        """i64[R, T] -> f32[R, T, H]."""
        rows = self.table.index_select(1, tokens.reshape(-1))
        return rows.reshape(tokens.shape[0], -1, self.table.shape[2])


class SharedHead(nn.Module):
    """The LM head of a tied model, ``(E h^T)^T``; as a linear layer it would store and pack the table E again."""

    def __init__(self, embedding: SharedEmbedding):
        super().__init__()
        self.embedding = embedding

    def forward(self, hidden: Tensor) -> Tensor:
        """f32[R, M, H] -> logits f32[R, M, V]."""
        x, table = value_of(hidden), self.embedding.table
        rows, targets, size = x.shape
        columns = x.reshape(1, rows * targets, size).permute(0, 2, 1).contiguous()
        logits = torch.bmm(table, columns).permute(0, 2, 1).contiguous().reshape(rows, targets, -1)
        out: Tensor = traced(
            logits, (hidden, lambda g: torch.bmm(g.reshape(1, -1, table.shape[1]), table).reshape(x.shape))
        )
        return out
