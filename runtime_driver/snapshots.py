"""Where a run stands, on disk: replaced as a whole after every step, so that a kill at any moment loses one step."""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prge.errors import UserError
from prge.runtime_driver.train import Guard

STATE_FILE = "state.safetensors"
# The one before the last that was written through to the disk, should a power cut damage the newer one.
EARLIER_FILE = "earlier.safetensors"

# Seconds between writes through to the disk, which cost milliseconds, and a flash disk's life.
_SYNC = 5.0


@dataclass(frozen=True)
class Snapshot:
    """A run after ``steps`` steps."""

    steps: int
    state: Tensor
    guard: Guard


class Snapshots:
    """Writes a run's snapshots into its folder."""

    def __init__(self, folder: Path, identity: dict[str, str], after: int):
        """``identity`` says what the state belongs to, ``after`` how many steps were made before the run's first."""
        self.folder, self.identity, self.after = folder, identity, after
        self._synced = time.monotonic()

    def save(self, snapshot: Snapshot, sync_journal: Callable[[], None]) -> None:
        """Replace the newest one; every few seconds write it through to the disk, and the journal before it.

        Raises:
            OSError, SafetensorError: when it cannot be written; the one before stays.
        """
        path, scratch = self.folder / STATE_FILE, self.folder / "state.partial"
        write_snapshot(scratch, snapshot, self.identity | {"steps": str(self.after + snapshot.steps)})
        if time.monotonic() - self._synced > _SYNC:
            sync_journal()
            sync(scratch)
            self._synced = time.monotonic()
            if path.exists():
                path.replace(self.folder / EARLIER_FILE)
        scratch.replace(path)


def write_snapshot(path: Path, snapshot: Snapshot, metadata: dict[str, str]) -> None:
    """A safetensors file of the state, the guard's best state if it has one, and the numbers beside."""
    numbers = asdict(snapshot.guard)
    good = numbers.pop("good")
    tensors = {"state": snapshot.state.contiguous()} | ({} if good is None else {"good": good.clone()})
    described = {**metadata, "run_steps": str(snapshot.steps), "guard": json.dumps(numbers)}
    save_file(tensors, path, metadata={**described, "crc": _checksum(tensors, described)})


def read_snapshot(path: Path) -> Snapshot:
    """Read and check.

    Raises:
        UserError: missing, damaged, or no snapshot of a run.
    """
    try:
        with safe_open(path, "pt") as f:
            metadata = dict(f.metadata() or {})
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118, no mapping
        if metadata.pop("crc") != _checksum(tensors, metadata):
            raise UserError(f"{path} is damaged: its checksum differs")
        guard = Guard(**json.loads(metadata["guard"]), good=tensors.get("good"))
        return Snapshot(int(metadata["run_steps"]), tensors["state"], guard)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as e:
        raise UserError(f"{path} is not a whole snapshot of a run: {e}") from e


def newest(folder: Path, steps: int) -> Snapshot | None:
    """The newest whole snapshot of at most so many steps; None where there is none, and a run begins anew."""
    found = []
    for name in (STATE_FILE, EARLIER_FILE):
        try:
            found.append(read_snapshot(folder / name))
        except UserError:
            continue
    return max((s for s in found if s.steps <= steps), key=lambda s: s.steps, default=None)


def _checksum(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    crc = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].numpy().tobytes(), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def sync(path: Path) -> None:
    """Write a file or a folder's names through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
