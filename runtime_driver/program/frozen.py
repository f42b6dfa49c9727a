"""The frozen part of a step: the embedding, and the layers below the first adapted one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prge.runtime_driver.program.base import F32, I64, Program, Signature


class FrozenProgram(Program):
    """From tokens to the hidden states that go into the first adapted layer. Nothing in the state changes them."""

    kind = "frozen"

    def signature(self, sizes: Sequence[tuple[int, ...]]) -> tuple[Signature, Signature]:
        m = self.manifest
        rows = m.frozen_rows, m.max_tokens
        return [(rows, I64)], [((*rows, m.architecture.hidden), F32)]

    def states(self, tokens: Tensor) -> Tensor:
        """Hidden states f32[n, T, H] of rows of tokens i64[n, T].

        An execution takes `Manifest.frozen_rows`. The last one is filled up with its own rows, again from the first.

        Raises:
            UserError: the runtime cannot execute it on these.
        """
        parts, rows = [], self.manifest.frozen_rows
        for part in tokens.split(rows):
            filled = part[torch.arange(rows) % len(part)]
            (hidden,) = self._call("forward", (filled,))
            parts.append(hidden[: len(part)])
        return torch.cat(parts)
