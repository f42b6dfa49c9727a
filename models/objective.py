"""Losses at the target positions only: over the label words, or over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LabelWords(nn.Module):
    """Cross-entropy over the label words at one position per row.

    Holds only the label words' rows of the LM head. Targets: ``position`` i64[R, 1], the hidden
    row that predicts; ``label`` i64[R], the right word's index. Beside the losses f32[R, 1] it
    returns the words' logits f32[R, K].
    """

    inputs = ("position", "label")
    max_targets = 1

    def __init__(self, norm: nn.Module, head: nn.Linear, tokens: Sequence[int], cap: float | None):
        super().__init__()
        self.norm, self.cap = norm, cap
        bias: Tensor | None = head.bias
        self.head = nn.Buffer(head.weight.detach()[list(tokens)].clone())
        self.bias = nn.Buffer(bias.detach()[list(tokens)].clone()) if bias is not None else None

    def used(self, position: Tensor, label: Tensor) -> Tensor:
        """Which targets there are, f32[R, 1]."""
        return torch.ones_like(position, dtype=torch.float32)

    def forward(self, hidden: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden`` f32[R, 1, H], the rows at ``position``."""
        logits = soft_cap(F.linear(self.norm(hidden), self.head, self.bias).squeeze(1), self.cap)
        return -F.log_softmax(logits, dim=-1).gather(1, label.unsqueeze(1)), logits


class LanguageModel(nn.Module):
    """Cross-entropy over the vocabulary at up to M marked target tokens per row.

    Targets: ``position`` i64[R, M], the hidden row that predicts each target; ``target``
    i64[R, M]; ``weight`` f32[R, M], zero where a row has fewer targets. The losses f32[R, M] are
    weighted, a row's is their sum; beside them it returns them without the weights.
    """

    inputs = ("position", "target", "weight")

    def __init__(self, norm: nn.Module, head: nn.Module, max_targets: int, cap: float | None):
        super().__init__()
        self.norm, self.head, self.max_targets, self.cap = norm, head, max_targets, cap

    def used(self, position: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Which targets there are, f32[R, M]; rows with fewer than M leave the rest out."""
        return (weight > 0).to(torch.float32)

    def forward(self, hidden: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """``hidden`` f32[R, M, H], the rows at ``position``."""
        logits = soft_cap(self.head(self.norm(hidden)), self.cap)
        each = -F.log_softmax(logits, dim=-1).gather(2, target.unsqueeze(2)).squeeze(2)
        return each * weight, each


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """``cap * tanh(logits / cap)``, as Gemma 2 bounds its logits; None for no bound."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def take_rows(hidden: Tensor, position: Tensor) -> Tensor:
    """hidden f32[R, T, H] at position i64[R, M] -> f32[R, M, H]."""
    return hidden.gather(1, position.unsqueeze(2).expand(-1, -1, hidden.shape[2]))
