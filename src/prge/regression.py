"""Multinomial logistic regression on hidden states: what a linear probe is."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Weights of the squared norm to choose from, for features of variance 1.
L2 = (1e-3, 1e-2, 1e-1, 1.0)
# One example of so many chooses among them.
_HELD = 5


@dataclass(frozen=True)
class Regression:
    """A fitted regression.

    Attributes:
        weight, bias: f64[K, H] and f64[K], for features of mean 0 and variance 1.
        mean, deviation: f64[H], of the features that it was fitted to.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    deviation: Tensor

    def scores(self, features: Tensor) -> Tensor:
        """Logits f64[n, K] of features [n, H]."""
        return F.linear((features.double() - self.mean) / self.deviation, self.weight, self.bias)


def fit(features: Tensor, labels: Tensor, classes: int, l2: float) -> Regression:
    """Minimize the mean cross-entropy plus ``l2 / 2`` times the weights' squared norm. The bias is free.

    Args:
        features: [n, H].
        labels: i64[n].
        classes: K.
    """
    x = features.double()
    mean, deviation = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x = (x - mean) / deviation
    weight = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=500, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return Regression(weight.detach(), bias.detach(), mean, deviation)


def choose(features: Tensor, labels: Tensor, classes: int, seed: int) -> tuple[Regression, float]:
    """Fit with the best of `L2`: the one with the lowest loss on a fifth of the examples, which the others are fit to.

    Returns:
        the regression on all examples, and the weight of its squared norm.
    """
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    held, rest = order[::_HELD], [i for at, i in enumerate(order) if at % _HELD]

    def held_out(l2: float) -> float:
        found = fit(features[rest], labels[rest], classes, l2)
        return float(F.cross_entropy(found.scores(features[held]), labels[held]))

    best = min(L2, key=held_out)
    return fit(features, labels, classes, best), best
