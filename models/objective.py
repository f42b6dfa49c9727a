"""Losses at the target positions: over the label words, or over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.manifest import TrainedHead
from prge.models.reverse import Traced, linear, traced


class LabelWords(nn.Module):
    """Cross-entropy over K label words at one position per row.

    It holds the label words' rows of the LM head alone. Its targets are ``position`` i64[R, 1], whose hidden state
    predicts the word, and ``label`` i64[R], the right word's index. Its detail is the words' logits, f32[R, K].

    Attributes:
        norm: what stands between the last layer and the head.
        cap: bounds the logits (`soft_cap`).
        tokens: the words', in the vocabulary.
        head: f32[K, H].
        bias: f32[K]; None where the head has none.
        trained: the rows' part of the state; None where they stay as they are.
    """

    inputs = ("position", "label")
    max_targets = 1

    def __init__(
        self,
        norm: nn.Module,
        head: nn.Linear,
        tokens: Sequence[int],
        cap: float | None,
        trained: TrainedHead | None = None,
    ):
        super().__init__()
        self.norm, self.cap, self.trained, self.tokens = norm, cap, trained, tuple(tokens)
        bias: Tensor | None = head.bias
        self.head = nn.Buffer(head.weight.detach()[list(tokens)].float())
        self.head_back = nn.Buffer(self.head.T.contiguous())
        self.bias = nn.Buffer(bias.detach()[list(tokens)].clone()) if bias is not None else None

    def used(self, position: Tensor, label: Tensor) -> Tensor:
        """1 where a row has the target: everywhere, f32[R, 1]."""
        return torch.ones_like(position, dtype=torch.float32)

    def forward(self, hidden: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Losses f32[R, 1] and the words' logits f32[R, K], of the hidden states f32[R, 1, H] at ``position``."""
        logits = self.logits(hidden)
        return self.losses(logits, label)

    def logits(self, hidden: Any, core: Any = None) -> Any:
        """The words' logits f32[R, 1, K] of the hidden states f32[R, 1, H]; a `Traced` of one.

        Args:
            core: f32[1, H, K], what trains in the head; a `Traced` of one. None for nothing.
        """
        hidden = self.norm(hidden)
        logits = linear(hidden, self.head, self.head_back)
        if self.trained and core is not None:
            scaled = (hidden * self.trained.gain).reshape(1, -1, self.head.shape[1])
            logits = logits + torch.bmm(scaled, core).reshape(-1, 1, self.head.shape[0])
        return soft_cap(logits if self.bias is None else logits + self.bias, self.cap)

    def losses(self, logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, from the words' logits f32[R, 1, K]."""
        words = logits.squeeze(1)
        return -F.log_softmax(words, dim=-1).gather(1, label.unsqueeze(1)), words

    def graded(self, hidden: Traced, core: Traced | None, share: float, label: Tensor) -> Graded:
        """As `Graded`, of the hidden states f32[R, 1, H] and what trains in the head."""
        logits = self.logits(hidden, core)
        losses, words = self.losses(logits.value, label)
        return Graded(losses, words, logits, _slope(logits.value, label.unsqueeze(1)) * share)


class LanguageModel(nn.Module):
    """Cross-entropy over the vocabulary at up to M target tokens per row.

    Its targets are ``position`` i64[R, M], whose hidden states predict the target tokens; ``target`` i64[R, M], these
    tokens; and ``weight`` f32[R, M], zero where a row has fewer targets. Its detail is the losses without the weights,
    f32[R, M].

    Attributes:
        norm: what stands between the last layer and the head.
        head: hidden states to logits, f32[R, M, H] -> f32[R, M, V].
        max_targets: M.
        cap: bounds the logits (`soft_cap`).
    """

    inputs = ("position", "target", "weight")
    trained = None
    tokens: tuple[int, ...] = ()

    def __init__(self, norm: nn.Module, head: nn.Module, max_targets: int, cap: float | None):
        super().__init__()
        self.norm, self.head, self.max_targets, self.cap = norm, head, max_targets, cap

    def used(self, position: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """1 where a row has the target, else 0, f32[R, M]."""
        return (weight > 0).to(torch.float32)

    def forward(self, hidden: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(weighted losses, losses), each f32[R, M], of the hidden states f32[R, M, H] at ``position``.

        The loss of a row is the sum of its weighted ones.
        """
        return self.losses(self.logits(hidden), target, weight)

    def logits(self, hidden: Any, core: Any = None) -> Any:
        """Logits f32[R, M, V] of the hidden states f32[R, M, H]; a `Traced` of one. There is no ``core``."""
        return soft_cap(self.head(self.norm(hidden)), self.cap)

    def losses(self, logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """As `forward`, from the logits f32[R, M, V].

        The logarithm is of the right token's probability, as `graded` needs the probabilities too: a tensor of all
        logarithms would be one more of the vocabulary's size. A loss is at most 87, because the smallest normal float32
        is added to the probability. A lower bound on it would do the same, but on some processors it hides a NaN.
        """
        right = F.softmax(logits, dim=-1).gather(2, target.unsqueeze(2)).squeeze(2)
        each = -torch.log(right + _TINY)
        return each * weight, each

    def graded(self, hidden: Traced, core: Traced | None, share: float, target: Tensor, weight: Tensor) -> Graded:
        """As `Graded`, of the hidden states f32[R, M, H]. There is no ``core``.

        The weights are applied behind the head, to gradients f32[R, M, H]. On the slopes f32[R, M, V] they would do the
        same, and make one more tensor of that size.
        """
        weights = (weight * share).unsqueeze(2)
        logits = self.logits(traced(hidden.value, (hidden, lambda g: g * weights)))
        losses, each = self.losses(logits.value, target, weight)
        return Graded(losses, each, logits, _slope(logits.value, target))


class Graded(NamedTuple):
    """Losses, and where the way back begins.

    Attributes:
        losses: as `forward` of an objective.
        detail: likewise.
        logits: f32[R, M, K].
        slope: what goes back from them, f32[R, M, K], so that what reaches the cores is the gradient of ``share`` times
            the sum of all losses.
    """

    losses: Tensor
    detail: Tensor
    logits: Traced
    slope: Tensor


_TINY = torch.finfo(torch.float32).tiny


def _slope(logits: Tensor, right: Tensor) -> Tensor:
    """The gradient of cross-entropy at its logits f32[R, M, K]: what is predicted, less what is right.

    Args:
        right: the right one's index, i64[R, M].
    """
    less_one = torch.full_like(right, -1.0, dtype=torch.float32)
    return F.softmax(logits, dim=-1).scatter_add(2, right.unsqueeze(2), less_one.unsqueeze(2))


def soft_cap(logits: Any, cap: float | None) -> Any:
    """``cap * tanh(logits / cap)``, as Gemma 2 bounds its logits; with None the logits as they are."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def take_rows(hidden: Tensor, position: Tensor) -> Tensor:
    """The hidden states f32[R, T, H] at ``position`` i64[R, M], f32[R, M, H]."""
    return hidden.gather(1, position.unsqueeze(2).expand(-1, -1, hidden.shape[2]))
