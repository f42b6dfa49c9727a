"""The step written again, the slow way, from the paper: no code of prge's, no batching, no padding.

Every copy of every example is one unpadded run of transformers' own model, with the adapter
folded into its weights; noise bits come from Python integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MASK = 2**32 - 1


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x21F0AAAD & MASK
    x ^= x >> 15
    x = x * 0x735A2D97 & MASK
    return x ^ x >> 15


def hash_words(seed: int, count: int) -> list[int]:
    first = mix(mix(seed & MASK) ^ (seed >> 32) & MASK)
    second = mix(first + 0x1E3779B9 & MASK)
    return [mix(mix(i ^ first) ^ second) for i in range(count)]


def rademacher(seed: int, size: int) -> Tensor:
    words = hash_words(seed, size // 32 + 1)
    return torch.tensor([2.0 * (words[i // 32] >> i % 32 & 1) - 1.0 for i in range(size)])


def adapted_weights(model: Any, manifest: Any, frozen: Tensor, state: Tensor) -> dict[str, Tensor]:
    """Full weights ``W + alpha / r * B A`` of the adapted modules."""
    rank, at, weights = manifest.adapter.rank, 0, {}
    for module in manifest.adapter.modules:
        a = frozen[at : at + rank * module.in_features].view(rank, module.in_features)
        at += a.numel()
        core = state[module.offset :][: module.core[0] * module.core[1]].view(*module.core)
        b = core.T
        if manifest.adapter.subspace == "svd":
            us = frozen[at : at + module.out_features * rank].view(module.out_features, rank)
            at += us.numel()
            b = us @ core.T
        w = model.get_parameter(f"{module.name}.weight")
        weights[f"{module.name}.weight"] = w + manifest.adapter.alpha / rank * (b @ a)
    return weights


def logits(model: Any, weights: dict[str, Tensor], tokens: Sequence[int]) -> Tensor:
    """f32[T, V] of one unpadded row."""
    out = torch.func.functional_call(model, weights, (torch.tensor([tokens]),), {"use_cache": False})
    result: Tensor = out.logits[0]
    return result


def loss(model: Any, manifest: Any, frozen: Tensor, state: Tensor, example: Any) -> Tensor:
    """Cross-entropy of one example: over the label words, or over its target tokens."""
    rows = logits(model, adapted_weights(model, manifest, frozen, state), example.tokens)
    if manifest.objective == "label-words":
        candidates = rows[-1, [label.token for label in manifest.labels]]
        return torch.nn.functional.cross_entropy(candidates, torch.tensor(example.label))
    n = example.targets
    return torch.nn.functional.cross_entropy(rows[-n - 1 : -1], torch.tensor(example.tokens[-n:]))


def step(
    model: Any, manifest: Any, frozen: Tensor, state: Tensor, batch: Sequence[Any], seed: int, lr: float, eps: float
) -> tuple[Tensor, float]:
    """(new state, mean loss over all copies): SGD on the mean of g_i z_i."""
    update, losses = torch.zeros_like(state), []
    for i in range(manifest.queries):
        z = rademacher(seed + i, len(state))
        sides = []
        for sign in (1.0, -1.0):
            moved = state + sign * eps * z
            sides.append(torch.stack([loss(model, manifest, frozen, moved, e) for e in batch]).mean())
        update += (sides[0] - sides[1]) / (2 * eps) * z / manifest.queries
        losses += sides
    return state - lr * update, float(torch.stack(losses).mean())


def gradient(model: Any, manifest: Any, frozen: Tensor, state: Tensor, batch: Sequence[Any]) -> Tensor:
    """Autograd's gradient of the batch's mean loss in the state."""
    variable = state.clone().requires_grad_()
    total = torch.stack([loss(model, manifest, frozen, variable, e) for e in batch]).mean()
    (result,) = torch.autograd.grad(total, variable)
    return result
