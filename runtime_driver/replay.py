"""A run's state made again from its journal alone: seeds give the directions, losses their weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from prge.errors import UserError
from prge.manifest import Manifest
from prge.runtime_driver.train import Guard


def replay(manifest: Manifest, state: Tensor, records: Iterable[dict[str, Any]]) -> Tensor:
    """The state f32[state_size] after some steps from ``state``, without one forward pass.

    The estimate of perturbed weights is ``mean_i (L+_i - L-_i) / 2 eps * z_i`` (arXiv 2409.15520, eq. 2), and the
    journal has all of its numbers.

    Args:
        records: of the journal, from its first on.

    Raises:
        UserError: for perturbed activations, whose update also has the layers' inputs in it.
    """
    from prge.models.noise import noise
    from prge.models.optimizer import update

    m, guard = manifest, Guard()
    if m.perturb != "weights":
        raise UserError(
            "a run of perturbed activations cannot be replayed: its updates hold the layers' inputs too, "
            "which only the texts give; `prge train` with the same settings makes it again"
        )
    for row in records:
        z = noise(torch.tensor([row["seed"]]), m.queries, m.parameters, m.noise)  # type: ignore[arg-type]
        plus, minus = torch.tensor(row["losses"]).reshape(2, m.queries)
        gradient = ((plus - minus) / (2.0 * row["eps"]) / m.queries) @ z
        new_state = update(state, gradient, torch.tensor([row["lr"]]), m.optimizer)  # type: ignore[arg-type]
        state = guard.back_off() if guard.diverged(state, row["loss"], new_state) else new_state
    return state
