"""A run's snapshots: its state on disk, replaced as a whole after every step, so that a kill loses one step at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from prge.errors import UserError
from prge.files.checked import Buffer, checked, load_checked, scratch_of, write
from prge.files.system import sync
from prge.files.typed import parse, parse_json

STATE_FILE = "state.safetensors"
# The newest one before it that was written through to the disk, in case a power cut damages the newest.
EARLIER_FILE = "earlier.safetensors"
# The state that was the best on the dev set, without a run's own numbers.
BEST_FILE = "best.safetensors"

# Seconds between writes through to the disk. They take milliseconds, and wear out a flash disk.
_SYNC = 5.0


@dataclass(frozen=True)
class Snapshot:
    """A run after some steps.

    Attributes:
        steps: how many, of this run.
        state: f32[state_size].
        good: the best state so far (`Guard`), of the same size; None before the first step.
    """

    steps: int
    state: Tensor
    good: Tensor | None = None


class Snapshots:
    """Writes a run's snapshots into its folder."""

    def __init__(self, folder: Path, identity: dict[str, str], after: int):
        """Write into ``folder``.

        Args:
            identity: metadata that says which base and which frozen factors the states belong to.
            after: how many steps were made before the run's first.
        """
        self.folder, self.identity, self.after = folder, identity, after
        self._synced_at, self._synced = -inf, False

    def save(self, snapshot: Snapshot, sync_journal: Callable[[], None]) -> None:
        """Replace the newest snapshot, which becomes the earlier one if it was written through to the disk.

        The first snapshot is written through, and from then on one every few seconds, each after the journal.

        Raises:
            OSError: it cannot be written. The snapshot before stays.
        """
        path = self.folder / STATE_FILE
        scratch = scratch_of(path)
        write(scratch, *self._content(snapshot))
        if self._synced:
            path.replace(self.folder / EARLIER_FILE)
        self._synced = time.monotonic() - self._synced_at > _SYNC
        if self._synced:
            sync_journal()
            sync(scratch)
            self._synced_at = time.monotonic()
        scratch.replace(path)

    def _content(self, snapshot: Snapshot) -> list[Buffer]:
        """A safetensors file's parts."""
        tensors = {"state": snapshot.state} | ({} if snapshot.good is None else {"good": snapshot.good})
        described = {"steps": str(self.after + snapshot.steps), "run_steps": str(snapshot.steps)}
        return checked(tensors, self.identity | described)


def read_snapshot(path: Path) -> Snapshot:
    """Read a snapshot.

    Raises:
        UserError: the file is missing, damaged, or no snapshot of a run.
    """
    tensors, metadata = load_checked(path, "a snapshot of a run", required=True)
    try:
        state, good = tensors["state"], tensors.get("good")
        if state.dim() != 1 or any(t.dtype != torch.float32 or t.shape != state.shape for t in tensors.values()):
            raise ValueError("its tensors are not states")
        steps = parse(int, parse_json(metadata["run_steps"]))
        if steps < 0 or (steps > 0) != (good is not None):
            raise ValueError(f"it says {steps} steps, and has {'a' if good is not None else 'no'} best state")
        return Snapshot(steps, state, good)
    except (KeyError, ValueError, TypeError) as e:
        raise UserError(f"{path} is not a snapshot of a run: {e!r}") from e


def newest(folder: Path, steps: int) -> Snapshot:
    """The newest whole snapshot in a folder, of ``steps`` steps or fewer.

    Raises:
        UserError: there is none, and why.
    """
    found, reasons = [], []
    for name in (STATE_FILE, EARLIER_FILE):
        try:
            found.append(read_snapshot(folder / name))
        except UserError as e:
            reasons.append(str(e))
    fitting = [s for s in found if s.steps <= steps]
    if not fitting:
        reasons += [f"a snapshot of {s.steps} steps has a journal of {steps} beside it" for s in found]
        raise UserError(f"{folder} cannot be resumed: {'; '.join(reasons)}")
    return max(fitting, key=lambda s: s.steps)
