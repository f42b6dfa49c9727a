"""A run's folder: what was asked, what happened, and what came of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import nan
from pathlib import Path
from typing import Any

from torch import Tensor

from prge.errors import UserError
from prge.files.bounded import SETTINGS, read_bounded
from prge.files.checked import replace, scratch_of, sync
from prge.files.folders import PROGRAM_FOLDER, refuse_used
from prge.files.typed import parse, parse_json
from prge.lora import ADAPTER_FOLDER
from prge.manifest import Manifest
from prge.runtime_driver.loop.evaluate import Evaluation
from prge.runtime_driver.loop.train import Guard, StepRecord, TrainConfig
from prge.runtime_driver.program.state import save_peft, save_state
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.journal import Journal, check_rows, read_journal
from prge.runtime_driver.run.snapshots import STATE_FILE, Snapshot, Snapshots, newest

# Of the folder's format: docs/formats.md.
VERSION = 2

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
PICTURE_FILE = "curves.png"
# The state that a run began with, where that was not the program's own.
START_FILE = "start.safetensors"
SCRATCH = tuple(scratch_of(Path(name)).name for name in (STATE_FILE, START_FILE, CONFIG_FILE))

_EXPORTED = ("quantization", "queries", "batch", "outer", "inner", "perturb", "optimizer", "noise")


class RunFolder:
    """``config.json``, ``log.jsonl`` (the journal), snapshots of the state; at last ``adapter/`` and ``curves.png``.

    A ``program/`` may be there before. ``config.json`` comes last when a run begins: with it, all is there that
    `resume` needs.

    Attributes:
        stands: the snapshot to go on from; ``guard``, as it is behind that.
        cut: what was cut off the journal, in words; or empty.
    """

    def __init__(self, folder: Path, program: StepProgram, after: int, stands: Snapshot | None = None):
        """Take the folder's journal; it goes on behind the snapshot ``stands``, or the newest that is whole."""
        self.folder, self.program, self.after = folder, program, after
        try:
            self._journal = Journal(folder / LOG_FILE)
        except OSError as e:
            raise UserError(f"{folder} cannot be written: {e.strerror}") from e
        try:
            rows, ends = read_journal(folder / LOG_FILE)
            check_rows(rows, folder / LOG_FILE)
            self.stands = stands or newest(folder, len(rows))
            if len(self.stands.state) != program.manifest.state_size:
                raise UserError(
                    f"{folder} is a run of another program: its state has {len(self.stands.state):,} numbers"
                )
        except UserError:
            self.close()
            raise
        self.guard = Guard(self.stands.good)
        for row in rows[: self.stands.steps]:
            self.guard.note(nan if row["loss"] is None else row["loss"], row["backed_off"])
        size = ends[self.stands.steps - 1] if self.stands.steps else 0
        unused = (folder / LOG_FILE).stat().st_size - size
        self.cut = f"{unused:,} bytes behind step {self.stands.steps}" if unused else ""
        self._journal.cut(size)
        self._snapshots = Snapshots(folder, program.manifest.identity, after)

    @classmethod
    def begin(
        cls, folder: Path, program: StepProgram, config: TrainConfig, data: dict[str, Any], state: Tensor
    ) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            UserError: it holds another run or anything else, or cannot be written.
        """
        refuse_begun(folder)
        described = {
            "version": VERSION,
            "program": str(program.path.resolve()),
            "runtime": program.runtime,
            **program.manifest.identity,
            "exported": _exported(program.manifest),
            "train": asdict(config),
            "data": data,
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            run = cls(folder, program, config.after, Snapshot(0, state))
            start = folder / START_FILE
            if data.get("from"):
                save_state(start, state, program.manifest, config.after)
            else:
                start.unlink(missing_ok=True)
            run._snapshots.save(run.stands, run._journal.sync)
            replace(folder / CONFIG_FILE, (json.dumps(described, indent=2) + "\n").encode())
        except OSError as e:
            raise UserError(f"{folder} cannot be written: {e.strerror}") from e
        return run

    @classmethod
    def resume(cls, folder: Path, program: StepProgram) -> RunFolder:
        """Go on with a run, behind the last step that is whole on the disk.

        Raises:
            UserError: the folder holds no run, one of another program, or one that another process works on;
                or its journal or its snapshots are damaged.
        """
        config = read_config(folder)
        for name, here in (program.manifest.identity | _exported(program.manifest)).items():
            before = config["exported"].get(name, config.get(name))
            if before != here:
                raise UserError(
                    f"{folder} is a run of another program: its {name} is {before!r}, and that of "
                    f"{program.path} is {here!r}"
                )
        return cls(folder, program, parse(TrainConfig, config["train"]).after)

    def log(self, record: StepRecord, state: Tensor, guard: Guard, before: Evaluation | None) -> None:
        """Append a step to the journal, and the run stands behind it; the first one also says how it was ``before`` it.

        Raises:
            UserError: when it cannot be written; the run can be resumed from the step before.
        """
        row = {k: v for k, v in vars(record).items() if k != "evaluation"}
        row["losses"] = [float(f"{loss:.9g}") for loss in record.losses]  # all that a float32 has
        if record.evaluation:
            row["dev"] = summary(record.evaluation)
        if before:
            row["before"] = summary(before)
        try:
            self._journal.append(row)
            self._snapshots.save(Snapshot(record.step + 1, state, guard.good), self._journal.sync)
        except OSError as e:
            raise UserError(
                f"{self.folder} cannot be written ({e.strerror}); when it can, "
                f"`prge train --resume {self.folder}` goes on from step {record.step}"
            ) from e

    def close(self) -> None:
        """Let go of the folder."""
        self._journal.close()

    def finish(self, state: Tensor) -> dict[str, str]:
        """Write the adapter, and let go of the folder; returns paths by name."""
        paths = {"state": self.folder / STATE_FILE, "adapter": self.folder / ADAPTER_FOLDER}
        try:
            self._journal.sync()
            for path in (paths["state"], self.folder):
                sync(path)
            save_peft(paths["adapter"], self.program.manifest, self.program.frozen(), state)
        except OSError as e:
            raise UserError(f"{self.folder} cannot be written ({e.strerror}); log and state are there") from e
        finally:
            self.close()
        return {name: str(path) for name, path in paths.items()}


def _exported(m: Manifest) -> dict[str, Any]:
    """Settings of the program that a run's description repeats."""
    settings = {name: getattr(m, name) for name in _EXPORTED}
    return settings | {"rank": m.adapter.rank, "alpha": m.adapter.alpha, "subspace": m.adapter.subspace}


def refuse_begun(folder: Path) -> None:
    """Raise a UserError unless a run may begin in ``folder``: it is new, empty, or a run was cut off as it began."""
    log = folder / LOG_FILE
    cut_off = log.exists() and log.stat().st_size == 0 and not (folder / CONFIG_FILE).exists()
    refuse_used(folder, but=(PROGRAM_FOLDER, *((LOG_FILE, STATE_FILE, START_FILE, *SCRATCH) if cut_off else ())))


def read_config(folder: Path) -> dict[str, Any]:
    """A run's ``config.json``.

    Raises:
        UserError: the folder holds no run, or its description is damaged.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder} is no run folder of `prge train` (no {CONFIG_FILE})")
    try:
        config: dict[str, Any] = parse_json(read_bounded(file, SETTINGS))
        if (version := config.get("version", 1)) != VERSION:
            raise UserError(
                f"{folder} was begun by another version of prge (run format {version}, this one reads {VERSION}); "
                "finish it with that version, or begin a new run with --from"
            )
        train, data = parse(TrainConfig, config["train"]), config["data"]
        for text in (config["program"], config["runtime"], data["crc"], data["device"], data["from"] or ""):
            parse(str, text)
        counts = (train.steps - 1, train.seed, train.eval_every, train.after)
        if min(train.lr, train.eps) <= 0 or not all(0 <= count < 2**31 for count in counts):
            raise ValueError("a setting out of range")
        config["exported"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{file} is not the description of a run: {e!r}") from e
    return config


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The steps of a run; a UserError as of `read_journal` and `check_rows`."""
    return check_rows(read_journal(folder / LOG_FILE)[0], folder / LOG_FILE)


def summary(evaluation: Evaluation) -> dict[str, float]:
    """Loss, and accuracy where there is one."""
    numbers = {"loss": evaluation.loss}
    if evaluation.accuracy is not None:
        numbers["accuracy"] = evaluation.accuracy
    return numbers
