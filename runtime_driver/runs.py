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
from prge.runtime_driver.adapter import save_peft, save_state
from prge.runtime_driver.evaluate import Evaluation
from prge.runtime_driver.picture import picture
from prge.runtime_driver.program import StepProgram
from prge.runtime_driver.train import StepRecord, TrainConfig

STATE_FILE = "state.safetensors"
CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"

# Settings of the program that a run's description repeats.
_EXPORTED = ("quantization", "queries", "batch", "perturb", "optimizer", "noise")


class RunFolder:
    """``config.json``, ``log.jsonl``, then ``state.safetensors``, ``adapter/`` and ``curves.png``.

    A ``program/`` may be there before.
    """

    def __init__(self, folder: Path, program: StepProgram, config: TrainConfig, data: dict[str, Any]):
        """Make the folder.

        Raises:
            UserError: it holds another run or anything else, or cannot be written.
        """
        self.folder, self.program, self.after = folder, program, config.after
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
            self._log = (folder / LOG_FILE).open("w")
        except OSError as e:
            raise UserError(f"{folder} cannot be written: {e.strerror}") from e

    def log(self, record: StepRecord) -> None:
        """Append a step."""
        row = {k: v for k, v in asdict(record).items() if k != "evaluation"}
        if record.evaluation:
            row["dev"] = summary(record.evaluation)
        try:
            self._log.write(json.dumps(row) + "\n")
            self._log.flush()
        except OSError as e:
            raise UserError(f"{self.folder / LOG_FILE} cannot be written: {e.strerror}") from e

    def finish(self, state: Tensor, records: list[StepRecord], before: Evaluation | None) -> dict[str, str]:
        """Write state, adapter and picture; returns their paths by name."""
        paths = {
            "state": self.folder / STATE_FILE,
            "adapter": self.folder / ADAPTER_FOLDER,
            "picture": self.folder / "curves.png",
        }
        try:
            self._log.close()
            save_state(paths["state"], state, self.program.manifest, self.after + len(records))
            save_peft(paths["adapter"], self.program.manifest, self.program.frozen(), state)
            plot_curves(paths["picture"], records, before)
        except (OSError, SafetensorError) as e:
            raise UserError(f"{self.folder} cannot be written: {e}; the log so far is there") from e
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


def plot_curves(path: Path, records: list[StepRecord], before: Evaluation | None) -> None:
    """A PNG of training loss (each step and a running mean), dev loss, and dev accuracy."""
    with picture(path) as axis:
        steps, losses = [r.step + 1 for r in records], [r.loss for r in records]
        axis.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
        axis.plot(steps, running_mean(losses), color="tab:blue", label="training loss")
        axis.set(xlabel="step", ylabel="loss")
        points = [(0, before)] if before else []
        points += [(r.step + 1, r.evaluation) for r in records if r.evaluation]
        if points:
            axis.plot([s for s, _ in points], [e.loss for _, e in points], "o--", color="tab:cyan", label="dev loss")
        accuracies = [(s, e.accuracy) for s, e in points if e.accuracy is not None]
        if accuracies:
            right = axis.twinx()
            right.plot(*zip(*accuracies, strict=True), "s-", color="tab:orange")
            right.set_ylabel("dev accuracy", color="tab:orange")
            right.set_ylim(0, 1)
        axis.legend(loc="center right")
