"""A step with perturbed weights made again from its slopes: no example and no forward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from prge.manifest import Manifest
from prge.models.noise import noise
from prge.models.optimizer import update


def along(manifest: Manifest, state: Tensor, slopes: Tensor, seed: int, lr: float) -> Tensor:
    """The state f32[state_size] after a step whose gradient is ``mean_i s_i z_i`` (arXiv 2409.15520, eq. 2).

    Args:
        state: f32[state_size], before the step.
        slopes: s, f32[q], the losses' along the directions z, which the seed gives.
        lr: as the program gets it, with the optimizer's correction.
    """
    m = manifest
    z = noise(torch.tensor([seed]), m.queries, m.parameters, m.noise)
    return update(state, (slopes / m.queries) @ z, torch.tensor([lr], dtype=torch.float32), m.optimizer)
