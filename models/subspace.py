"""The frozen factors between which an adapter's core trains: directions of a layer's inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.models.families import Parts

_BATCH = 8


@dataclass(frozen=True)
class Row:
    """A row of tokens, and the positions whose predictions the loss reads."""

    tokens: tuple[int, ...]
    positions: tuple[int, ...]


def top_singular(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The top singular triplets of W [out, in]: U [out, r], s [r], V [in, r], signs fixed.

    Through the Gram matrix of the smaller side in float64, which is several times faster
    than a full SVD and exact enough for the top of the spectrum.
    """
    w = weight.double()
    tall = w.shape[0] >= w.shape[1]
    gram = w.T @ w if tall else w @ w.T
    values, vectors = torch.linalg.eigh(gram)
    s = values[-rank:].flip(0).clamp_min(1e-24).sqrt()
    side = _signed(vectors[:, -rank:].flip(1))
    other = (w @ side if tall else w.T @ side) / s
    u, v = (other, side) if tall else (side, other)
    return u.float(), s.float(), v.float()


class Factors(NamedTuple):
    """The frozen factors of a linear whose core trains in a subspace.

    Attributes:
        inputs: A, f32[r, in].
        outputs: D, f32[out, k].
    """

    inputs: Tensor
    outputs: Tensor


def as_long_as(weight: Tensor, factors: Factors) -> Factors:
    """The factors, with D's orthonormal columns made as long as the mean singular value of W [out, in]."""
    return Factors(factors.inputs, factors.outputs * (weight.norm() / min(weight.shape) ** 0.5))


def principal_factors(
    model: Any, linears: Mapping[str, nn.Linear], rows: Sequence[Row], words: Sequence[int] | None, r: int, k: int
) -> dict[str, Factors]:
    """Per linear, what its inputs mostly are and which of its outputs move the loss, at the rows' positions.

    The leading eigenvectors of E[a a^T] and E[g g^T], the two factors of the Fisher information as
    K-FAC has them (arXiv 1503.05671): a the linear's input, g the gradient of the loss at its
    output for an answer drawn from the model's own prediction, so that no labels are needed.
    Each row's g over all linears has length one: how sure the model is says nothing of where it
    can be moved. A is scaled so that ``A a`` has a mean square of one; D's columns are orthonormal.

    Args:
        model: of transformers, in float32.
        words: the label words' vocabulary indices, among which the model answers; None for all.
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name in linears}
    gradients: dict[str, list[Tensor]] = {name: [] for name in linears}
    generator = torch.Generator().manual_seed(0)
    for batch in _like_lengths(rows):
        for name, (a, g) in _seen_and_felt(model, linears, batch, words, generator).items():
            inputs[name].append(a)
            gradients[name].append(g)
    factors = {}
    for name in linears:
        a, g = torch.cat(inputs[name]), torch.cat(gradients[name])
        down = leading(a, r)
        mean_square = (a @ down).square().mean().clamp_min(1e-30)
        factors[name] = Factors((down / mean_square.sqrt()).T, leading(g, k))
    return factors


def _seen_and_felt(
    model: Any,
    linears: Mapping[str, nn.Linear],
    batch: Sequence[Row],
    words: Sequence[int] | None,
    generator: torch.Generator,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Per linear, its inputs [n, in] and its outputs' gradients [n, out] at the batch's n positions."""
    tokens = torch.zeros(len(batch), max(len(row.tokens) for row in batch), dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(batch):
        tokens[i, : len(row.tokens)], mask[i, : len(row.tokens)] = torch.tensor(row.tokens), 1
    at = torch.tensor([(i, p) for i, row in enumerate(batch) for p in row.positions]).unbind(1)
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def keep(_: nn.Module, x: tuple[Tensor], y: Tensor) -> Tensor:
            inputs[name] = x[0].detach().reshape(*tokens.shape, -1)[at]  # OPT's layers make one of two dimensions
            outputs[name] = y if y.requires_grad else y.detach().requires_grad_()
            return outputs[name]

        return keep

    handles = [linear.register_forward_hook(watch(name)) for name, linear in linears.items()]
    with torch.enable_grad():
        logits = Parts(model).logits(tokens, mask, at, words)
        answers = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator).squeeze(1)
        loss = F.cross_entropy(logits, answers, reduction="sum")
        gradients = [g.reshape(*tokens.shape, -1)[at] for g in torch.autograd.grad(loss, list(outputs.values()))]
    for handle in handles:
        handle.remove()
    squares = torch.stack([g.square().sum(1) for g in gradients]).sum(0)
    length = torch.zeros(len(batch)).index_add(0, at[0], squares).sqrt()[at[0], None].clamp_min(1e-30)
    return {name: (inputs[name], g / length) for name, g in zip(outputs, gradients, strict=True)}


def orthonormal_span(matrix: Tensor) -> Tensor:
    """Orthonormal columns [out, r] that span those of a matrix [out, r], whatever its rank."""
    return leading(matrix.T, matrix.shape[1])


# Of more vectors, as targets of many tokens give, a full decomposition takes minutes for nothing.
_EXACT = 256


def leading(vectors: Tensor, count: int) -> Tensor:
    """The top right singular vectors of [n, size] as columns; too few are completed by any orthonormal ones."""
    if min(vectors.shape) > _EXACT:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same start, and so the same directions, every time
            v = torch.svd_lowrank(vectors.double(), q=count + 16, niter=8)[2].T
    else:
        _, _, v = torch.linalg.svd(vectors.double(), full_matrices=False)
    short = count - v.shape[0]
    if short > 0:
        v = torch.linalg.qr(torch.cat((v, torch.eye(v.shape[1], dtype=v.dtype)[:short])).T)[0].T
    return _signed(v[:count].T).float()


def _signed(columns: Tensor) -> Tensor:
    """An eigenvector's sign is arbitrary: make its largest entry positive on every machine."""
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    return columns * torch.where(largest < 0, -1.0, 1.0)


def _like_lengths(rows: Sequence[Row]) -> Iterator[list[Row]]:
    ordered = sorted(rows, key=lambda row: len(row.tokens))
    return (ordered[i : i + _BATCH] for i in range(0, len(ordered), _BATCH))
