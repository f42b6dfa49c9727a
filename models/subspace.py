"""The frozen factors between which a core trains: directions of a linear's inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.memory import return_freed
from prge.models.parts import Parts

# In a batch, padding included. The forward pass keeps every layer's results: more than a megabyte a token with SmolLM2.
_TOKENS = 128


@dataclass(frozen=True)
class Row:
    """An example as the model reads it.

    Attributes:
        tokens: the row.
        positions: where the loss reads the model's predictions.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]


# Up to so many inputs or outputs, the singular vectors of a matrix are had from its Gram matrix.
_LARGE = 1024


def top_singular(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The top singular triplets of W [out, in]: U [out, r], s [r], V [in, r], with the same signs on every machine.

    They come from the Gram matrix of the smaller side in float64. That is several times faster than a full SVD, and
    exact enough for the top of the spectrum. Of large matrices it would take a minute each; there they come from random
    vectors that run through W four times and back (algorithm 5.1 of arXiv 0909.4061).
    """
    if min(weight.shape) > _LARGE:
        u, s, v = (part[..., :rank] for part in _lowrank(weight, rank, 4))
        signed = _signed(u)
        return signed, s, v * (signed * u).sum(0).sign()
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
    """The factors with D's orthonormal columns made as long as the root mean square of W's singular values."""
    return Factors(factors.inputs, factors.outputs * (weight.norm() / min(weight.shape) ** 0.5))


def principal_factors(
    model: Any,
    linears: Mapping[str, nn.Linear],
    rows: Sequence[Row],
    words: Sequence[int] | None,
    r: int,
    k: int,
    set_apart: bool = False,
) -> dict[str, Factors]:
    """For each linear: what its inputs mostly are, and which of its outputs move the loss, at the rows' positions.

    A and D come from E[a a^T] and E[g g^T], the two factors of the Fisher information in K-FAC (arXiv 1503.05671). Here
    a is the linear's input at the rows' positions, and g the loss's gradient at its output for an answer drawn from the
    model's own prediction, so that no labels are needed. Each row's g over all linears has length one: how sure the
    model is of an answer says nothing about where it can be moved.

    D's columns are the leading eigenvectors of E[g g^T], and A's rows those of E[a a^T], scaled so that ``A a`` has a
    mean square of one.

    Args:
        model: of transformers.
        linears: by full name.
        words: vocabulary indices of the label words, among which the model answers; None for the whole vocabulary.
        r: directions of the inputs.
        k: directions of the outputs.
        set_apart: whether A keeps to what tells the rows' positions from those before them (`apart`). There the adapter
            then does little, and a gradient that does not see what it does there is close to the whole one.

    Returns:
        by full name, A [r, in] and D [out, k].
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name in linears}
    others: dict[str, list[Tensor]] = {name: [] for name in linears}
    gradients: dict[str, list[Tensor]] = {name: [] for name in linears}
    generator = torch.Generator().manual_seed(0)
    for batch in _like_lengths(rows):
        for name, (a, b, g) in _seen_and_felt(model, linears, batch, words, generator).items():
            inputs[name].append(a)
            others[name].append(b)
            gradients[name].append(g)
        return_freed()  # results of another length leave holes in the heap that the next ones do not fit into
    with _one_thread():
        factors = {}
        downs: dict[Tensor, Tensor] = {}  # by the first of their inputs, which linears that read the same share
        for name in linears:
            first = inputs[name][0]
            if first not in downs:
                a, b = torch.cat(inputs[name]), torch.cat(others[name])
                down = apart(a, b, r) if set_apart else leading(a, r)
                mean_square = (a @ down).square().mean().clamp_min(1e-30)
                downs[first] = (down / mean_square.sqrt()).T
            factors[name] = Factors(downs[first].clone(), leading(torch.cat(gradients[name]), k))
        return factors


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small decompositions on several threads take many times as long where other work wants the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seen_and_felt(
    model: Any,
    linears: Mapping[str, nn.Linear],
    batch: Sequence[Row],
    words: Sequence[int] | None,
    generator: torch.Generator,
) -> dict[str, tuple[Tensor, ...]]:
    """For each linear its inputs [n, in] at the batch's n positions and [m, in] at others, and the outputs' gradients.

    The gradients [n, out] are those at the n positions.
    """
    tokens = torch.zeros(len(batch), max(len(row.tokens) for row in batch), dtype=torch.int64)
    mask = torch.zeros_like(tokens)
    for i, row in enumerate(batch):
        tokens[i, : len(row.tokens)], mask[i, : len(row.tokens)] = torch.tensor(row.tokens), 1
    at = torch.tensor([(i, p) for i, row in enumerate(batch) for p in row.positions]).unbind(1)
    beside = [(i, p) for i, row in enumerate(batch) for p in _others(row)]
    around = torch.tensor(beside, dtype=torch.int64).reshape(-1, 2).unbind(1)
    inputs: dict[str, tuple[Tensor, Tensor]] = {}
    outputs: dict[str, Tensor] = {}
    last: tuple[Any, Any] = None, None

    def watch(name: str) -> Any:
        def keep(_: nn.Module, x: tuple[Tensor], y: Tensor) -> Tensor:
            nonlocal last
            if x[0] is not last[0]:  # the two linears before a gated activation read the same
                seen = x[0].detach().reshape(*tokens.shape, -1)  # in OPT's layers it is [rows * tokens, in]
                last = x[0], (seen[at], seen[around])
            inputs[name] = last[1]
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
    return _in_one_place({name: (*inputs[name], g / length) for name, g in zip(outputs, gradients, strict=True)})


def _in_one_place(found: dict[str, tuple[Tensor, ...]]) -> dict[str, tuple[Tensor, ...]]:
    """The same tensors in one allocation. Thousands of small ones, which stay, would leave holes in the heap."""
    each = list(dict.fromkeys(tensor for tensors in found.values() for tensor in tensors))
    flat = torch.cat([tensor.reshape(-1) for tensor in each]).split([tensor.numel() for tensor in each])
    moved = {tensor: part.view_as(tensor) for tensor, part in zip(each, flat, strict=True)}
    return {name: tuple(moved[tensor] for tensor in tensors) for name, tensors in found.items()}


# Positions of a row before its own ones, which stand for all of them. With 64 rows that makes 256 vectors.
_BESIDE = 4


def _others(row: Row) -> list[int]:
    """Some of the positions before the row's own ones, evenly spread; the tokens behind see those."""
    found = range(min(row.positions))
    return list(found[:: -(-len(found) // _BESIDE)]) if found else []


# Added to E[b b^T], as a part of the mean square of the inputs a: so much may be seen of a direction that no b has.
_FLOOR = 0.1


def apart(own: Tensor, others: Tensor, count: int) -> Tensor:
    """Directions in which vectors lie far from zero, and others near it.

    The leading eigenvectors of E[a a^T] relative to C = E[b b^T] + c 1, which are C^(-1/2) times those of
    ``E[C^(-1/2) a a^T C^(-1/2)]``. Without others they are those of E[a a^T].

    Args:
        own: a, [n, size].
        others: b, [m, size].

    Returns:
        f32[size, count], of any lengths.
    """
    a, b = own.double(), others.double()
    floor = _FLOOR * a.square().mean().clamp_min(1e-30)
    squares, u = torch.linalg.eigh(b @ b.T / max(1, len(b)))
    kept = squares > 1e-12 * squares.max() if len(b) else squares > 0
    squares, v = squares[kept], (b.T @ u[:, kept]) / (squares[kept] * len(b)).sqrt()
    # C^(-1/2) is floor^(-1/2) but for the directions of the others.
    less = (squares + floor).rsqrt() - floor.rsqrt()

    def whitened(x: Tensor) -> Tensor:
        return x * floor.rsqrt() + (x @ v * less) @ v.T

    return whitened(leading(whitened(a), count).double().T).T.float()


def orthonormal_span(matrix: Tensor) -> Tensor:
    """Orthonormal columns [out, r] that span those of a matrix [out, r], whatever its rank."""
    return leading(matrix.T, matrix.shape[1])


# Up to so many vectors are decomposed exactly. Answers of many tokens give more, and with these it takes minutes.
_EXACT = 256


def leading(vectors: Tensor, count: int) -> Tensor:
    """The top right singular vectors of [n, size], as columns [size, count].

    Where the vectors span fewer directions, any orthonormal ones complete them.
    """
    if min(vectors.shape) > _EXACT:
        v = _lowrank(vectors.double(), count, 8)[2].T
    else:
        _, _, v = torch.linalg.svd(vectors.double(), full_matrices=False)
    short = count - v.shape[0]
    if short > 0:
        v = torch.linalg.qr(torch.cat((v, torch.eye(v.shape[1], dtype=v.dtype)[:short])).T)[0].T
    return _signed(v[:count].T).float()


def _lowrank(matrix: Tensor, count: int, passes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triplets of a matrix, and 16 more; the same every time."""
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(matrix, q=count + 16, niter=passes)
        return u, s, v


def _signed(columns: Tensor) -> Tensor:
    """The eigenvectors [n, count], whose signs are arbitrary, with the largest entry of each made positive."""
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    return columns * torch.where(largest < 0, -1.0, 1.0)


def _like_lengths(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Batches of rows, sorted by length so that little is padded, of up to `_TOKENS` tokens or one row."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.tokens)):
        if batch and (len(batch) + 1) * len(row.tokens) > _TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch
