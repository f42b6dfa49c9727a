"""Masks: which token sees which, counted out by hand."""

from __future__ import annotations

import pytest
import torch

from prge.models.parts import Kind
from prge.models.positions import Positions


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("copies", [1, 4])
def test_copies_at_one_position_share_a_mask_with_all_rows(window: int | None, copies: int) -> None:
    kind, group, kv, length = Kind(None, window), 3, 2, 9
    position, tokens = torch.tensor([[2], [9], [5]]), torch.zeros(3, length, dtype=torch.int64)
    tables = Positions({}, [kind], group, kv, None).tree(position, torch.arange(copies).unsqueeze(0), tokens)[kind]
    assert tables.own is not None and tables.mask.shape[0] == 1
    sees = (tables.mask.double() + tables.own[0].double() @ tables.own[1].double()) == 0
    assert sees.shape == (3 * kv, group * (copies + length), copies + length)
    for head in range(3 * kv):
        end = int(position[head // kv])
        for query in range(group * (copies + length)):
            own = query % (copies + length)
            at = end if own < copies else own - copies
            seen = {copies + j for j in range(length) if (j < at if own < copies else j <= at)}
            seen = {key for key in seen if window is None or key - copies > at - window} | {own}
            assert set(sees[head, query].nonzero().flatten().tolist()) == seen
