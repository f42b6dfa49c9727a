"""The update rules in the graph against torch.optim's."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from prge.manifest import Manifest
from prge.models.optimizer import BETAS, SLOTS, Optimizer, update
from prge.runtime_driver.loop.train import TrainConfig


def manifest(optimizer: str) -> Manifest:
    fields: dict[str, Any] = {f.name: None for f in dataclasses.fields(Manifest)}
    return Manifest(**fields | {"optimizer": optimizer, "betas": BETAS})


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_updates_equal_torch_s(optimizer: Optimizer) -> None:
    generator = torch.Generator().manual_seed(0)
    params = torch.nn.Parameter(torch.randn(7, generator=generator))
    state = torch.cat((params.detach().clone(), torch.zeros(7 * SLOTS[optimizer])))
    theirs: torch.optim.Optimizer = torch.optim.SGD([params], lr=1e-2)
    if optimizer == "adam":
        theirs = torch.optim.Adam([params], lr=1e-2, betas=BETAS, eps=1e-12)
    config = TrainConfig(steps=10**9, lr=1e-2, eps=0.1)  # so many that lr stays
    for step in range(20):
        gradient = torch.randn(7, generator=generator)
        params.grad = gradient.clone()
        theirs.step()
        state = update(state, gradient, torch.tensor([config.lr_at(step, manifest(optimizer))]), optimizer)
        torch.testing.assert_close(state[:7], params.detach(), rtol=1e-5, atol=1e-6)


def test_momentum_is_an_unbiased_mean() -> None:
    """Under a constant gradient every step is lr times the gradient."""
    state, gradient = torch.zeros(6), torch.tensor([1.0, -2.0, 0.5])
    config = TrainConfig(steps=10**9, lr=1e-2, eps=0.1)
    for step in range(5):
        state = update(state, gradient, torch.tensor([config.lr_at(step, manifest("momentum"))]), "momentum")
    torch.testing.assert_close(state[:3], -5e-2 * gradient)
