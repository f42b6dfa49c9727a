"""The fine-tuning step: a program, and one step on a batch of examples."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from prge.errors import UserError
from prge.examples.rows import Example
from prge.files.seal import seal_of
from prge.manifest import FROZEN_FILE, TOKENIZER_FILE
from prge.memory import return_freed
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.data.hidden import HiddenStates, Keeping, write_hidden
from prge.runtime_driver.program.base import F32, I64, Program, Signature
from prge.runtime_driver.program.frozen import FrozenProgram
from prge.runtime_driver.program.state import save_peft, save_state


class StepProgram(Program):
    """The fine-tuning step.

    The layers below the first adapted one are in another program, `FrozenProgram`. What it computes for a text is the
    same at every step, so it can be kept.

    Attributes:
        hidden: the hidden states that are kept; None where none are.
        tokenizer: the ``tokenizer.json`` that its examples are encoded with; the one beside it unless set.
        truncate: whether long texts are cut from the left instead of refused.
    """

    truncate = False

    def __init__(self, path: Path):
        super().__init__(path)
        self.tokenizer = self.path.parent / TOKENIZER_FILE
        self.hidden: HiddenStates | None = None
        self._frozen_part: FrozenProgram | None = None

    def states(self, tokens: Tensor) -> Tensor:
        """Hidden states f32[n, T, H] of rows of tokens i64[n, T]: those that are kept, or computed.

        Raises:
            UserError: as `frozen_part`.
        """
        found = self.hidden.rows(tokens) if self.hidden else None
        return self.compute_states(tokens) if found is None else found

    def compute_states(self, tokens: Tensor) -> Tensor:
        """As `states`, but always computed."""
        return self.frozen_part().states(tokens)

    def frozen_part(self) -> FrozenProgram:
        """The program of the frozen part, which lies beside this one. It is loaded when it is first needed.

        Raises:
            UserError: it is missing, damaged, or another program's.
        """
        if self._frozen_part is None:
            found = FrozenProgram(self.path.parent / FROZEN_FILE)
            if seal_of(found.path) != self.manifest.frozen_sha256:
                raise UserError(f"{found.path} is the frozen part of another program than {self.path}; copy both again")
            self._frozen_part = found
        return self._frozen_part

    def keep(
        self, path: Path, examples: Sequence[Example], progress: Callable[[int, int], None] = lambda done, all: None
    ) -> None:
        """Take the hidden states of some examples from a file from now on, and unload the frozen part.

        The file is made where it is missing, damaged, or of other examples or another program.

        Args:
            progress: hears how many of the tokens are done while the file is made, and of how many.

        Raises:
            UserError: the file cannot be written; or as `frozen_part`.
        """
        self.hidden = None
        try:
            self.hidden = HiddenStates(path, self.manifest, examples)
        except UserError:
            self.unload()  # its buffers would add to those of the frozen part
            try:
                write_hidden(path, self.manifest, examples, self.compute_states, progress)
            except OSError as e:
                raise UserError(f"{path} cannot be written: {e.strerror}") from e
            self.hidden = HiddenStates(path, self.manifest, examples)
        self._frozen_part = None
        return_freed()

    @contextmanager
    def kept(self, examples: Sequence[Example]) -> Iterator[None]:
        """Keep the hidden states of some examples in a temporary file for as long as the block runs, if they fit."""
        if self.hidden:
            yield
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Keeping().file(Path(folder), self.manifest, examples)
            try:
                if file:
                    self.keep(file, examples)
                yield
            finally:
                self.hidden = None

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
        rows: Signature = [((r, m.max_tokens, m.architecture.hidden), F32), ((r, m.max_tokens), I64)]
        return [*state, *rows, *targets, *scalars], [*state, ((r,), F32), (row, F32)]

    def execute(
        self, state: Tensor, tokens: Tensor, targets: Sequence[Tensor], seed: int, lr: float, eps: float,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Execute the step once, on R rows.

        Args:
            state: f32[state_size].
            tokens: i64[R, T].
            targets: of the R rows, as `collate` makes them.
            seed: query i draws its direction from ``seed + i``.
            lr: learning rate; 0 to evaluate.
            eps: size of the perturbation; 0 to evaluate.
            hidden: the rows' hidden states f32[R, T, H]; None to take those of `states`.

        Returns:
            the new state f32[state_size], the losses f32[R], and a detail: the label words' logits f32[R, K], or the
            loss of each target f32[R, M].

        Raises:
            UserError: the runtime cannot execute it on these; or as `frozen_part`.
        """
        inputs = (
            state,
            self.states(tokens) if hidden is None else hidden,
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
        rows, hidden = tokens.repeat(m.copies, 1), self.states(tokens).repeat(m.copies, 1, 1)
        repeated = [t.repeat(m.copies, *([1] * (t.dim() - 1))) for t in targets]
        seeds = [seed] if m.outer else [seed + i for i in range(m.queries)]
        signs = [1.0] if m.inner else [1.0, -1.0]
        total, losses = torch.zeros_like(state), []
        for query_seed in seeds:
            for sign in signs:
                new, loss, _ = self.execute(state, rows, repeated, query_seed, lr / len(seeds), sign * eps, hidden)
                if m.gradient != "weights":
                    return new, loss
                each = loss.double().reshape(m.copies, m.batch).mean(1).float()
                if m.executions == 1:
                    return new, each
                total += new - state
                losses.append(each)
        # [executions for queries, for signs, copies of an execution] -> all copies at +eps, then all at -eps.
        found = torch.stack(losses).reshape(len(seeds), 2, -1)
        return state + total, found.permute(1, 0, 2).reshape(-1)
