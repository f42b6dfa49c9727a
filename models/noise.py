"""The perturbation's random numbers: a counter-based generator inside the graph.

Every number is a function of (seed, index) alone. Its operations give the same bits on every machine: 32-bit hashes in
int64, and float32 products and sums that are each rounded once. There is no state, so the host sends one seed per step,
and a run can be replayed from its seeds.
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
# With x the standardized byte sum, whose excess kurtosis is -0.15, z = x * (c1 + c3 * x**2) has the variance and the
# kurtosis of a normal number.
_C1, _C3 = 0.97846779, 0.00750834


def _shift_right(x: Tensor, bits: int) -> Tensor:
    # Core ATen has no shifts, but a floor division by a power of two.
    return torch.div(x, 2**bits, rounding_mode="floor")


def _mix(x: Tensor) -> Tensor:
    """Mix 32-bit values held in int64.

    The shape is that of C. Wellons' two-round "lowbias32". The constants are below 2**31, so that the product of a
    32-bit value and a constant fits int64.
    """
    x = x ^ _shift_right(x, 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ _shift_right(x, 15)
    x = (x * 0x735A2D97) & _MASK
    return x ^ _shift_right(x, 15)


def _words(seeds: Tensor, count: int) -> Tensor:
    """Hash words, i64[q, count] in [0, 2**32), for seeds i64[q, 1].

    There are two keyed rounds. With one, the sequences of two seeds would be shifts of each other.
    """
    low, high = seeds & _MASK, _shift_right(seeds, 32) & _MASK
    first = _mix(_mix(low) ^ high)
    second = _mix((first + 0x1E3779B9) & _MASK)
    counter = torch.arange(count, dtype=torch.int64, device=seeds.device).unsqueeze(0)
    return _mix(_mix(counter ^ first) ^ second)


def _rademacher(seeds: Tensor, size: int) -> Tensor:
    words = _words(seeds, -(-size // 32))
    halves = torch.stack((words & 0xFFFF, _shift_right(words, 16)), dim=2)
    # From here on in float32, where the engine is fast, and integers below 2**16 are exact. The added half keeps all
    # quotients away from whole numbers, for machines (GPUs) that do not round powers of two correctly.
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
    """Random directions z, f32[queries, size], of mean 0 and variance 1.

    Query i draws from ``seed + i``. So q queries in one program have the same directions as q programs of one query
    each with consecutive seeds.

    Args:
        seed: i64[1], any value.
        queries: q, the number of directions.
        size: numbers in a direction.
        kind: ``"rademacher"``, +1 or -1; or ``"gaussian"``, a sum of eight uniform bytes with a cubic correction, of at
            most 5.6 standard deviations.
    """
    seeds = (seed + torch.arange(queries, dtype=torch.int64, device=seed.device)).unsqueeze(1)
    make = {"rademacher": _rademacher, "gaussian": _gaussian}[kind]
    return make(seeds, size)
