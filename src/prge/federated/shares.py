"""A simulation's devices share one file's examples: evenly, or so that each has classes of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prge.errors import UserError
from prge.examples.rows import Example

# So often are shares drawn until each device has examples enough.
_TRIES = 1000


def shares(examples: Sequence[Example], devices: int, concentration: float | None, seed: int) -> list[list[int]]:
    """For each device the indices of its examples; no two have one in common.

    With a concentration, each class is shared out by proportions from a Dirichlet distribution (arXiv 1909.06335). They
    are drawn anew until every device has at least a tenth of an even share.

    Raises:
        UserError: there are fewer examples than devices, no classes, or no draw gave every device enough.
    """
    if len(examples) < devices:
        raise UserError(f"{len(examples)} examples cannot be shared by {devices} devices; give more data")
    random = np.random.default_rng(seed)
    if concentration is None:
        return [part.tolist() for part in np.array_split(random.permutation(len(examples)), devices)]
    labels = np.array([e.label for e in examples])
    if len(set(labels.tolist())) < 2:
        raise UserError("split = dirichlet-... shares classes out, and these examples have none; write even")
    least = max(1, len(examples) // (10 * devices))
    for _ in range(_TRIES):
        found: list[list[int]] = [[] for _ in range(devices)]
        for label in sorted(set(labels.tolist())):
            members = random.permutation(np.flatnonzero(labels == label))
            cuts = np.cumsum(random.dirichlet([concentration] * devices))[:-1] * len(members)
            for device, part in enumerate(np.split(members, cuts.astype(int))):
                found[device] += part.tolist()
        if min(map(len, found)) >= least:
            return found
    raise UserError(
        f"no split of {len(examples)} examples gave each of {devices} devices at least {least}; "
        "give more data, fewer devices, or a larger number behind dirichlet-"
    )
