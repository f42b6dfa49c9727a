"""The perturbation's random numbers: a counter-based generator that lives inside the graph.

Every number is a pure function of (seed, index), made only of operations that are exact on
any machine: 32-bit hashes in int64 and float32 products and sums, each rounded once. There is no state, so the
host sends one seed per step and a run can be replayed from its seeds alone.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Noise = Literal["rademacher", "gaussian"]

_MASK = 2**32 - 1
# Sum of eight bytes: mean 8 * 127.5, variance 8 * (256**2 - 1) / 12.
_BYTES_MEAN = 8 * 127.5
_BYTES_STD = math.sqrt(8 * (256**2 - 1) / 12)
# z = x * (c1 + c3 * x**2) gives the standardized byte sum x (excess kurtosis -0.15) a
# normal's variance and kurtosis.
_C1, _C3 = 0.97846779, 0.00750834


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # Shifts are not in Core ATen; a floor division by a power of two is.
    return torch.div(x, 2**bits, rounding_mode="floor")


def _mix(x: Tensor) -> Tensor:
    """Mix 32-bit values held in int64.

    C. Wellons' two-round "lowbias32" shape with constants below 2**31, so that no product
    of a 32-bit value and a constant leaves int64.
    """
    x = x ^ _shift_right(x, 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ _shift_right(x, 15)
    x = (x * 0x735A2D97) & _MASK
    return x ^ _shift_right(x, 15)


def _words(seeds: Tensor, count: int) -> Tensor:
    """Hash words, i64[q, count] in [0, 2**32), for seeds i64[q, 1].

    Two keyed rounds: with one, two seeds' sequences would be shifts of each other.
    """
    low, high = seeds & _MASK, _shift_right(seeds, 32) & _MASK
    first = _mix(_mix(low) ^ high)
    second = _mix((first + 0x1E3779B9) & _MASK)
    counter = torch.arange(count, dtype=torch.int64, device=seeds.device).unsqueeze(0)
    return _mix(_mix(counter ^ first) ^ second)


def _rademacher(seeds: Tensor, size: int) -> Tensor:
    words = _words(seeds, -(-size // 32))
    halves = torch.stack((words & 0xFFFF, _shift_right(words, 16)), dim=2)
    # From here on in float32, where the engine is fast; integers below 2**16 are exact. The half keeps all quotients
    # away from whole numbers, for machines (GPUs) whose powers are not rounded right.
    halves = halves.to(torch.float32).reshape(seeds.shape[0], -1, 1) + 0.5
    bits = torch.floor(halves * (0.5 ** torch.arange(16, dtype=torch.float32, device=seeds.device)))
    odd = bits - 2.0 * torch.floor(bits * 0.5)
    return (2.0 * odd - 1.0).reshape(seeds.shape[0], -1)[:, :size]


def _gaussian(seeds: Tensor, size: int) -> Tensor:
    words = _words(seeds, 2 * size)
    pairs = (words & 0x00FF00FF) + (_shift_right(words, 8) & 0x00FF00FF)
    sums = (pairs & 0xFFFF) + _shift_right(pairs, 16)
    x = (sums[:, :size] + sums[:, size:]).to(torch.float32)
    x = (x - _BYTES_MEAN) * (1.0 / _BYTES_STD)
    return x * (_C1 + _C3 * (x * x))


def noise(seed: Tensor, queries: int, size: int, kind: Noise) -> Tensor:
    """Random directions z, f32[queries, size], mean 0 and variance 1.

    Query i draws from ``seed + i``, so q queries in one program are the same directions as
    q programs of one query with consecutive seeds.

    Args:
        seed: i64[1], any value.
        queries: number of directions q.
        size: length S of the state.
        kind: ``"rademacher"`` (+1 or -1, the default) or ``"gaussian"`` (a sum of eight
            uniform bytes with a cubic correction; tails end at 5.6 standard deviations).
    """
    seeds = (seed + torch.arange(queries, dtype=torch.int64, device=seed.device)).unsqueeze(1)
    make = {"rademacher": _rademacher, "gaussian": _gaussian}[kind]
    return make(seeds, size)
