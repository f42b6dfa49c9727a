"""The generator: exact bits, moments, independence."""

from __future__ import annotations

import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prge.models.noise import noise

seeds = st.integers(-(2**63), 2**63 - 100)


@given(seeds, st.integers(1, 4), st.integers(1, 100))
@settings(max_examples=50, deadline=None)
def test_rademacher_equals_the_integer_reference(seed: int, queries: int, size: int) -> None:
    z = noise(torch.tensor([seed]), queries, size, "rademacher")
    assert torch.equal(z, torch.stack([reference.rademacher(seed + i, size) for i in range(queries)]))


@given(seeds, st.integers(1, 3), st.integers(1, 20))
@settings(max_examples=20, deadline=None)
def test_gaussian_equals_a_byte_sum(seed: int, queries: int, size: int) -> None:
    z = noise(torch.tensor([seed]), queries, size, "gaussian")
    for i in range(queries):
        words = reference.hash_words(seed + i, 2 * size)
        total = [sum(words[n].to_bytes(4, "big")) + sum(words[n + size].to_bytes(4, "big")) for n in range(size)]
        x = (torch.tensor(total, dtype=torch.float64) - 1020) / (8 * 65535 / 12) ** 0.5
        torch.testing.assert_close(z[i].double(), 0.97846779 * x + 0.00750834 * x**3, rtol=1e-5, atol=1e-6)


def test_moments() -> None:
    n = 1 << 20
    signs = noise(torch.tensor([7]), 1, n, "rademacher")
    assert signs.unique().tolist() == [-1.0, 1.0]
    assert abs(signs.mean()) < 5 / n**0.5
    normal = noise(torch.tensor([7]), 1, n, "gaussian").flatten().double()
    assert abs(normal.mean()) < 5 / n**0.5
    assert abs(normal.var() - 1) < 5 * (2 / n) ** 0.5
    assert abs(stats.kurtosis(normal.numpy())) < 5 * (24 / n) ** 0.5
    assert stats.kstest(normal[: 1 << 16].numpy(), "norm").pvalue > 1e-4


def test_no_correlation_between_queries_indices_and_neighbouring_seeds() -> None:
    n = 1 << 16
    for kind in ("rademacher", "gaussian"):
        rows = [noise(torch.tensor([base]), 8, n, kind) for base in (0, 8, 1 << 32, (1 << 32) + 8, -50, 123456789)]
        z = torch.cat(rows).double()
        products = z @ z.T / n
        products.fill_diagonal_(0)
        assert products.abs().max() < 5.5 / n**0.5  # 1,128 pairs
        for shift in (1, 2, 15, 16, 31, 32, 33, 64):
            assert (z[:, shift:] * z[:, :-shift]).mean(1).abs().max() < 5.5 / n**0.5


def test_each_bit_is_fair_for_counters_and_seeds() -> None:
    z = noise(torch.tensor([0]), 4096, 32 * 8, "rademacher")
    assert z.mean(0).abs().max() < 5.5 / 4096**0.5
    assert z.mean(1).abs().max() < 5.5 / 256**0.5


def test_consecutive_seeds_are_the_queries() -> None:
    together = noise(torch.tensor([41]), 3, 50, "rademacher")
    apart = torch.cat([noise(torch.tensor([41 + i]), 1, 50, "rademacher") for i in range(3)])
    assert torch.equal(together, apart)
