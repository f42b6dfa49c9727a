"""A run's folder: what was asked, what happened, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from prge.errors import UserError
from prge.folders import PROGRAM_FOLDER, refuse_used
from prge.lora import ADAPTER_FOLDER
from prge.runtime_driver.adapter import save_peft
from prge.runtime_driver.evaluate import Evaluation
from prge.runtime_driver.journal import Journal
from prge.runtime_driver.picture import picture
from prge.runtime_driver.program import StepProgram
from prge.runtime_driver.snapshots import STATE_FILE, Snapshot, Snapshots, sync
from prge.runtime_driver.train import Guard, StepRecord, TrainConfig

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"

# Settings of the program that a run's description repeats.
_EXPORTED = ("quantization", "queries", "batch", "perturb", "optimizer", "noise")


class RunFolder:
    """``config.json``, ``log.jsonl`` (the journal), snapshots of the state, and at last ``adapter/`` and ``curves.png``.

    Attributes:
        rows: of the journal.
        snapshot: where a run that is resumed stands; None at its beginning.
    """

    rows: list[dict[str, Any]]
    snapshot: Snapshot | None = None

    def __init__(self, folder: Path, program: StepProgram, config: TrainConfig, data: dict[str, Any]):
        """Make the folder for a new run.

        Raises:
            UserError: it holds another run or anything else, or cannot be written.
        """
        refuse_used(folder, but=PROGRAM_FOLDER)
        m = program.manifest
        exported = {name: getattr(m, name) for name in _EXPORTED}
        exported |= {"rank": m.adapter.rank, "alpha": m.adapter.alpha, "subspace": m.adapter.subspace}
        described = {
            "program": str(program.path),
            "runtime": program.runtime,
            **m.identity,
            "exported": exported | {"parameters": m.parameters},
            "train": asdict(config),
            "data": data,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / CONFIG_FILE).write_text(json.dumps(described, indent=2) + "\n")
        except OSError as e:
            raise UserError(f"{folder} cannot be written: {e.strerror}") from e
        self.rows = []
        self._begin(folder, program, config, 0)

    def _begin(self, folder: Path, program: StepProgram, config: TrainConfig, size: int) -> None:
        self.folder, self.program, self.after = folder, program, config.after
        self._journal = Journal(folder / LOG_FILE, size)
        self._snapshots = Snapshots(folder, program.manifest.identity, config.after)

    def log(self, record: StepRecord, state: Tensor, guard: Guard, before: Evaluation | None) -> None:
        """Append a step to the journal, and the run stands behind it; the first one also says how it was ``before``.

        Raises:
            UserError: when it cannot be written; the run can be resumed from the step before.
        """
        row = {k: v for k, v in asdict(record).items() if k != "evaluation"}
        row["losses"] = [float(f"{loss:.9g}") for loss in record.losses]  # all that a float32 has
        if record.evaluation:
            row["dev"] = summary(record.evaluation)
        if before and not self.rows:
            row["before"] = summary(before)
        try:
            self._journal.append(row)
            self._snapshots.save(Snapshot(record.step + 1, state, guard), self._journal.sync)
        except (OSError, SafetensorError) as e:
            raise UserError(
                f"{self.folder} cannot be written: {e}; the run can be resumed from step {record.step}"
            ) from e
        self.rows.append(row)

    def finish(self, state: Tensor) -> dict[str, str]:
        """Write adapter and picture, and let go of the folder; returns paths by name."""
        paths = {
            "state": self.folder / STATE_FILE,
            "adapter": self.folder / ADAPTER_FOLDER,
            "picture": self.folder / "curves.png",
        }
        try:
            self._journal.sync()
            for path in (paths["state"], self.folder):
                sync(path)
            self._journal.close()
            save_peft(paths["adapter"], self.program.manifest, self.program.frozen(), state)
            plot_curves(paths["picture"], self.rows)
        except (OSError, SafetensorError) as e:
            raise UserError(f"{self.folder} cannot be written: {e}; log and state are there") from e
        return {name: str(path) for name, path in paths.items()}


def summary(evaluation: Evaluation) -> dict[str, float]:
    """Loss, and accuracy where there is one."""
    numbers = {"loss": evaluation.loss}
    if evaluation.accuracy is not None:
        numbers["accuracy"] = evaluation.accuracy
    return numbers


def running_mean(values: Sequence[float]) -> list[float]:
    """A bias-corrected exponential mean over about 20 values."""
    means: list[float] = []
    for i, value in enumerate(values):
        means.append(value if i == 0 else means[-1] + (value - means[-1]) / min(i + 1, 20))
    return means


def plot_curves(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A PNG of training loss (each step and a running mean), dev loss, and dev accuracy."""
    with picture(path) as axis:
        steps, losses = [row["step"] + 1 for row in rows], [row["loss"] for row in rows]
        axis.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
        axis.plot(steps, running_mean(losses), color="tab:blue", label="training loss")
        axis.set(xlabel="step", ylabel="loss")
        points = [(0, row["before"]) for row in rows if "before" in row]
        points += [(row["step"] + 1, row["dev"]) for row in rows if "dev" in row]
        if points:
            axis.plot([s for s, _ in points], [e["loss"] for _, e in points], "o--", color="tab:cyan", label="dev loss")
        accuracies = [(s, e["accuracy"]) for s, e in points if "accuracy" in e]
        if accuracies:
            right = axis.twinx()
            right.plot(*zip(*accuracies, strict=True), "s-", color="tab:orange")
            right.set_ylabel("dev accuracy", color="tab:orange")
            right.set_ylim(0, 1)
        axis.legend(loc="center right")
