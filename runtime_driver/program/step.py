"""The fine-tuning step: a program, and one step on a batch of examples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from prge.examples.rows import Example
from prge.manifest import TOKENIZER_FILE
from prge.memory import return_freed
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.program.base import F32, I64, Program, Signature
from prge.runtime_driver.program.state import save_peft, save_state


class StepProgram(Program):
    """The fine-tuning step.

    Attributes:
        tokenizer: the ``tokenizer.json`` that its examples are encoded with; the one beside it unless set.
        truncate: whether long texts are cut from the left instead of refused.
    """

    truncate = False

    def __init__(self, path: Path):
        super().__init__(path)
        self.tokenizer = self.path.parent / TOKENIZER_FILE

    def encoder(self) -> Encoder:
        """What turns records into this program's token rows. It holds the tokenizer, some 30 MB."""
        return Encoder(self.manifest, self.tokenizer, truncate=self.truncate)

    def examples(self, path: str | os.PathLike[str] | None, limit: int | None = None) -> list[Example]:
        """Read and encode a file of examples, in its order.

        Args:
            path: .jsonl, .csv, .tsv, .txt ..., or a folder; None for the hub's data of the program's task.
            limit: only the first so many records.

        Raises:
            UserError: unreadable; columns, labels or texts that do not fit the program, with file and line.
        """
        found = self.encoder().examples(Path(path) if path else None, limit)
        return_freed()
        return found

    def save_adapter(self, folder: str | os.PathLike[str], state: Tensor) -> None:
        """Write what was trained as a PEFT adapter folder; ``state`` is f32[state_size]."""
        save_peft(Path(folder), self.manifest, self.frozen(), state)

    def save_state(self, path: str | os.PathLike[str], state: Tensor, steps: int = 0) -> None:
        """Write a state, f32[state_size], as a safetensors file that the commands read; ``steps`` have made it."""
        save_state(Path(path), state, self.manifest, steps)

    def signature(self, sizes: Sequence[tuple[int, ...]]) -> tuple[Signature, Signature]:
        m, r = self.manifest, self.manifest.rows
        state: Signature = [((m.state_size,), F32)]
        row = (r, len(m.labels) or m.max_targets)
        targets = [((r, 1), I64), ((r,), I64)] if m.labels else [(row, I64), (row, I64), (row, F32)]
        scalars: Signature = [((1,), I64), ((1,), F32), ((1,), F32)]
        return [*state, ((r, m.max_tokens), I64), *targets, *scalars], [*state, ((r,), F32), (row, F32)]

    def execute(
        self, state: Tensor, tokens: Tensor, targets: Sequence[Tensor], seed: int, lr: float, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Execute the step once, on R rows.

        Args:
            state: f32[state_size].
            tokens: i64[R, T].
            targets: of the R rows, as `collate` makes them.
            seed: query i draws its direction from ``seed + i``.
            lr: learning rate; 0 to evaluate.
            eps: size of the perturbation; 0 to evaluate.

        Returns:
            the new state f32[state_size], the losses f32[R], and a detail: the label words' logits f32[R, K], or the
            loss of each target f32[R, M].

        Raises:
            UserError: the runtime cannot execute it on these.
        """
        inputs = (
            state,
            tokens,
            *targets,
            torch.tensor([seed]),
            torch.tensor([lr], dtype=torch.float32),
            torch.tensor([eps], dtype=torch.float32),
        )
        new_state, losses, detail = self._call("forward", inputs)
        return new_state, losses, detail

    def step(
        self, state: Tensor, tokens: Tensor, targets: Sequence[Tensor], seed: int, lr: float, eps: float
    ) -> tuple[Tensor, Tensor]:
        """One fine-tuning step on a batch of B examples.

        A program with both loops inside takes one execution. If the outer loop is outside, the host executes it for one
        query after the other; if the inner loop is outside, for both signs of eps. Then it adds up the changes of the
        state.

        Args:
            state: f32[state_size].
            tokens: i64[B, T].
            targets: of the B rows, as `collate` makes them.
            seed: query i draws its direction from ``seed + i``.
            lr: learning rate.
            eps: size of the perturbation.

        Returns:
            the new state, and losses. With perturbed activations these are the examples', f32[B]. Else they are the
            batch's mean of each copy, f32[2 q], those at ``+eps`` first; with the seed they are enough to replay the
            step.
        """
        m = self.manifest
        rows = tokens.repeat(m.copies, 1)
        repeated = [t.repeat(m.copies, *([1] * (t.dim() - 1))) for t in targets]
        seeds = [seed] if m.outer else [seed + i for i in range(m.queries)]
        signs = [1.0] if m.inner else [1.0, -1.0]
        total, losses = torch.zeros_like(state), []
        for query_seed in seeds:
            for sign in signs:
                new, loss, _ = self.execute(state, rows, repeated, query_seed, lr / len(seeds), sign * eps)
                if m.perturb == "activations":
                    return new, loss
                each = loss.double().reshape(m.copies, m.batch).mean(1).float()
                if m.executions == 1:
                    return new, each
                total += new - state
                losses.append(each)
        # [executions for queries, for signs, copies of an execution] -> all copies at +eps, then all at -eps.
        found = torch.stack(losses).reshape(len(seeds), 2, -1)
        return state + total, found.permute(1, 0, 2).reshape(-1)
