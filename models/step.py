"""One fine-tuning step as one forward function: perturb, run all copies, estimate, update.

P-RGE (arXiv 2409.15520): the q queries and both signs of the perturbation run as one batch
of ``copies * B`` rows through one set of frozen weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.models.adapter import Copies
from prge.models.noise import Noise, noise


@dataclass(frozen=True)
class StepConfig:
    """The step's shape, the exporter's choice.

    Attributes:
        queries: q, random directions per step.
        batch: B, examples per step.
        outer: all queries in one execution; off, one query each, and the host runs q of them.
        inner: +eps and -eps in one execution; off, one sign each, and the host runs both.
        noise: distribution of the directions.
    """

    queries: int = 2
    batch: int = 4
    outer: bool = True
    inner: bool = True
    noise: Noise = "rademacher"

    def __post_init__(self) -> None:
        for field in ("queries", "batch"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")

    @property
    def parallel_queries(self) -> int:
        return self.queries if self.outer else 1

    @property
    def copies(self) -> int:
        return self.parallel_queries * (2 if self.inner else 1)

    @property
    def rows(self) -> int:
        return self.copies * self.batch


class LabelWords(nn.Module):
    """Cross-entropy over the label words at one position per row.

    Holds only the label words' rows of the LM head. Targets: ``position`` i64[R], the hidden
    row that predicts; ``label`` i64[R], the right word's index. Beside the losses f32[R] it
    returns the words' logits f32[R, K].
    """

    inputs = ("position", "label")

    def __init__(self, norm: nn.Module, head: Tensor, bias: Tensor | None, tokens: Sequence[int]):
        super().__init__()
        self.norm = norm
        self.head = nn.Buffer(head.detach()[list(tokens)].clone())
        self.bias = nn.Buffer(bias.detach()[list(tokens)].clone()) if bias is not None else None

    def forward(self, hidden: Tensor, position: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        h = take_rows(hidden, position.unsqueeze(1))
        logits = F.linear(self.norm(h), self.head, self.bias).squeeze(1)
        losses = -F.log_softmax(logits, dim=-1).gather(1, label.unsqueeze(1)).squeeze(1)
        return losses, logits


class LanguageModel(nn.Module):
    """Cross-entropy over the vocabulary at up to M marked target tokens per row.

    Targets: ``position`` i64[R, M], the hidden row that predicts each target; ``target``
    i64[R, M]; ``weight`` f32[R, M], zero where a row has fewer targets. A row's loss is its
    weighted sum. Beside the losses f32[R] it returns each target's own f32[R, M].
    """

    inputs = ("position", "target", "weight")

    def __init__(self, norm: nn.Module, head: nn.Module, max_targets: int):
        super().__init__()
        self.norm, self.head, self.max_targets = norm, head, max_targets

    def forward(self, hidden: Tensor, position: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(self.norm(take_rows(hidden, position)))
        each = -F.log_softmax(logits, dim=-1).gather(2, target.unsqueeze(2)).squeeze(2)
        return (each * weight).sum(1), each


def take_rows(hidden: Tensor, position: Tensor) -> Tensor:
    """hidden f32[R, T, H] at position i64[R, M] -> f32[R, M, H]."""
    return hidden.gather(1, position.unsqueeze(2).expand(-1, -1, hidden.shape[2]))


class Step(nn.Module):
    """The traced program. See `forward`."""

    def __init__(
        self,
        embedding: nn.Module,
        layers: nn.ModuleList,
        rotary: nn.Module,
        objective: LabelWords | LanguageModel,
        copies: Copies,
        state_size: int,
        config: StepConfig,
    ):
        super().__init__()
        self.embedding, self.layers, self.rotary, self.objective = embedding, layers, rotary, objective
        self.copies, self.state_size, self.config = copies, state_size, config

    def forward(
        self, state: Tensor, tokens: Tensor, targets: tuple[Tensor, ...], seed: Tensor, lr: Tensor, eps: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step: ``state' = state - lr * mean_i g_i z_i`` (eq. 2 and 3 of the paper).

        Args:
            state: f32[S].
            tokens: i64[R, T], rows copy-major, right-padded.
            targets: the objective's inputs, rows as in ``tokens``.
            seed: i64[1]; query i draws its direction from ``seed + i``.
            lr, eps: f32[1]. With ``eps = 0`` the losses are the state's own, and the new
                state is to be dropped.

        Returns:
            the new state f32[S], losses f32[R], and the objective's detail.
        """
        c = self.config
        z = noise(seed, c.parallel_queries, self.state_size, c.noise)
        delta = z * eps
        weights = torch.cat((state + delta, state - delta)) if c.inner else state + delta
        self.copies.weights = weights
        hidden = self.embedding(tokens)
        position_embeddings = self.rotary(tokens.shape[1])
        for layer in self.layers:
            hidden = layer(hidden, position_embeddings=position_embeddings)
        losses, detail = self.objective(hidden, *targets)
        # One sign per execution: L / 2eps with eps of that sign; the host adds the two.
        each = losses.reshape(c.copies, c.batch).mean(1)
        difference = each[: c.parallel_queries] - each[c.parallel_queries :] if c.inner else each
        slopes = difference / (2.0 * eps) * (lr / c.parallel_queries)
        update = torch.bmm(slopes.reshape(1, 1, -1), z.unsqueeze(0)).reshape(-1)
        return state - update, losses, detail
