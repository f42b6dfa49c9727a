"""A run's folder: what was asked, what every step did, and the state that the run has reached."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prge.errors import UserError
from prge.files.bounded import SETTINGS, read_bounded
from prge.files.checked import load_checked, replace, scratch_of
from prge.files.folders import PROGRAM_FOLDER, refuse_used
from prge.files.system import sync
from prge.files.typed import parse, parse_json
from prge.lora import ADAPTER_FOLDER
from prge.manifest import Manifest
from prge.runtime_driver.data.hidden import HIDDEN_FILE, HIDDEN_FILES, SHARED_NAME
from prge.runtime_driver.loop.best import Best
from prge.runtime_driver.loop.evaluate import Evaluation
from prge.runtime_driver.loop.train import Guard, StepRecord, TrainConfig
from prge.runtime_driver.program.state import load_state, save_peft, save_state
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.journal import Journal, check_rows, number, read_journal
from prge.runtime_driver.run.snapshots import BEST_FILE, STATE_FILE, Snapshot, Snapshots, newest
from prge.shell import word

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
# The state that a run began with, where that was not its program's own.
START_FILE = "start.safetensors"
PICTURE_FILE = "curves.png"
SCRATCH = tuple(scratch_of(Path(name)).name for name in (STATE_FILE, START_FILE, BEST_FILE, CONFIG_FILE))

# Of a run folder's format; docs/formats.md says when it goes up.
VERSION = 7

_EXPORTED = ("quantization", "queries", "batch", "outer", "inner", "gradient", "optimizer", "noise")


class RunFolder:
    """A run on disk: ``config.json``, ``log.jsonl`` (the journal), snapshots of the state, and in the end ``adapter/``.

    A run that begins with another's state keeps that as ``start.safetensors``. The state that was the best on the dev
    set is ``best.safetensors``, and the adapter is made of it. A ``program/`` may be there before.
    ``config.json`` is written last when a run begins, so a folder that holds it holds all that `resume` needs.

    Attributes:
        stands: the snapshot from which the run goes on.
        guard: as it is after that snapshot's steps.
        best: likewise.
        cut: what was cut off the journal, in words; or empty.
    """

    def __init__(self, folder: Path, program: StepProgram, after: int, stands: Snapshot | None = None):
        """Lock the folder's journal, to go on behind the snapshot ``stands``, or behind the newest whole one."""
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
        m = program.manifest
        self.guard, self.best = Guard(m.batch, len(m.labels), self.stands.good), Best()
        for row in rows[: self.stands.steps]:
            self.guard.note(number(row["loss"]), row["backed_off"])
            self.best.note_row(row)
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

        Args:
            data: where the examples come from, and as ``from`` where the state comes from, or None for the program's.
            state: f32[state_size], with which the run begins.

        Raises:
            UserError: the folder holds another run or anything else, or cannot be written.
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
            if data.get("from"):
                save_state(folder / START_FILE, state, program.manifest, config.after)
            else:  # of a run that was cut off as it began
                (folder / START_FILE).unlink(missing_ok=True)
            run._snapshots.save(run.stands, run._journal.sync)
            replace(folder / CONFIG_FILE, (json.dumps(described, indent=2) + "\n").encode())
        except OSError as e:
            raise UserError(f"{folder} cannot be written: {e.strerror}") from e
        return run

    @classmethod
    def resume(cls, folder: Path, program: StepProgram) -> RunFolder:
        """Go on with a run, behind the last step that is whole on disk.

        Raises:
            UserError: the folder holds no run, or one of another program, or another process works on it; or its
                journal or its snapshots are damaged.
        """
        config = read_config(folder)
        check_program(folder, config, program)
        return cls(folder, program, parse(TrainConfig, config["train"]).after)

    def log(self, record: StepRecord, state: Tensor, guard: Guard, before: Evaluation | None) -> dict[str, Any]:
        """Append a step to the journal and replace the snapshot, so that the run can go on behind the step.

        A state that is the best so far on the dev set is written through to the disk before.

        Args:
            state: after the step.
            guard: after the step.
            before: the evaluation before the first step, which its line holds too.

        Returns:
            the step's line.

        Raises:
            UserError: it cannot be written. The run can be resumed from the step before.
        """
        row = {k: v for k, v in vars(record).items() if k != "evaluation"}
        evaluations = [(0, before, self.stands.state), (record.step + 1, record.evaluation, state)]
        row["losses"] = [float(f"{loss:.9g}") for loss in record.losses]  # as many digits as tell float32s apart
        if record.evaluation:
            row["dev"] = summary(record.evaluation)
        if before:
            row["before"] = summary(before)
        try:
            for steps, evaluation, evaluated in evaluations:
                if evaluation and self.best.note(steps, summary(evaluation)):
                    save_state(self.folder / BEST_FILE, evaluated, self.program.manifest, self.after + steps)
            self._journal.append(row)
            self._snapshots.save(Snapshot(record.step + 1, state, guard.good), self._journal.sync)
        except OSError as e:
            raise UserError(
                f"{self.folder} cannot be written ({e.strerror}); when it can, "
                f"`prge train --resume {word(self.folder)}` goes on from step {record.step}"
            ) from e
        return row

    def close(self) -> None:
        """Let go of the folder, so that another process may take it."""
        self._journal.close()

    def finish(self, state: Tensor) -> dict[str, str]:
        """Write everything through to the disk, and the adapter of the best state; then `close`.

        Args:
            state: the last one, which is the best where nothing was evaluated.

        Returns:
            the paths of the best ``state`` and of the ``adapter``.

        Raises:
            UserError: a file cannot be written; or that of the best state is damaged or gone.
        """
        paths, m = {"state": self.folder / STATE_FILE, "adapter": self.folder / ADAPTER_FOLDER}, self.program.manifest
        try:
            self._journal.sync()
            for path in (paths["state"], self.folder):
                sync(path)
            if self.best.steps is not None:
                paths["state"] = self.folder / BEST_FILE
                state = load_state(paths["state"], m)
            save_peft(paths["adapter"], m, self.program.frozen(), state)
        except OSError as e:
            raise UserError(f"{self.folder} cannot be written ({e.strerror}); log and state are there") from e
        finally:
            self.close()
        return {name: str(path) for name, path in paths.items()}


def _exported(m: Manifest) -> dict[str, Any]:
    """The program's settings that a run's description repeats."""
    settings = {name: getattr(m, name) for name in _EXPORTED}
    return settings | {"rank": m.adapter.rank, "alpha": m.adapter.alpha, "subspace": m.adapter.subspace}


def check_program(folder: Path, config: dict[str, Any], program: StepProgram) -> None:
    """Raise a UserError unless ``program`` is the one of a run, which is described by ``config``."""
    for name, here in (program.manifest.identity | _exported(program.manifest)).items():
        before = config["exported"].get(name, config.get(name))
        if before != here:
            raise UserError(
                f"{folder} is a run of another program: its {name} is {before!r}, "
                f"and that of {program.path} is {here!r}"
            )


def read_start(folder: Path, config: dict[str, Any]) -> Tensor | None:
    """The state f32[state_size] that a run began with; None where it began with its program's own.

    Raises:
        UserError: the file is missing, damaged, or of another run.
    """
    if not config["data"]["from"]:
        return None
    file, after = folder / START_FILE, config["train"]["after"]
    if not file.is_file():
        raise UserError(f"{file} is missing; the run began with the state in it, and cannot be made again without it")
    tensors, metadata = load_checked(file, "the state that a run began with", required=True)
    expected = {name: config.get(name) for name in ("base", "base_sha256", "adapter_sha256")} | {"steps": str(after)}
    fits = all(metadata.get(name) == value for name, value in expected.items())
    state = tensors.get("state")
    if not fits or state is None or state.dim() != 1 or state.dtype != torch.float32:
        raise UserError(f"{file} is not the state that this run began with: put the run's own file there")
    return state


def refuse_begun(folder: Path) -> None:
    """Raise a UserError unless a run may begin in ``folder``: it is new or empty, or one was cut off as it began."""
    log = folder / LOG_FILE
    cut_off = log.exists() and log.stat().st_size == 0 and not (folder / CONFIG_FILE).exists()
    begun = (LOG_FILE, STATE_FILE, START_FILE, *SCRATCH) if cut_off else ()
    refuse_used(folder, but=(PROGRAM_FOLDER, *HIDDEN_FILES, *begun))


def read_config(folder: Path) -> dict[str, Any]:
    """A run's ``config.json``.

    Raises:
        UserError: the folder holds no run, or one of another version; or its description is damaged.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder} is no run folder of `prge train` (no {CONFIG_FILE})")
    try:
        config: dict[str, Any] = parse_json(read_bounded(file, SETTINGS))
        version = config.get("version", 1)
        if version != VERSION and {"program", "train", "data"} <= config.keys():
            raise UserError(
                f"{folder} was begun by another version of prge (run format {str(version)[:20]}, this one reads "
                f"{VERSION}); finish it with that version, or begin a new run with --from {folder}"
            )
        train, data = parse(TrainConfig, config["train"]), config["data"]
        for text in (config["program"], config["runtime"], data["crc"], data["device"], data["from"] or ""):
            parse(str, text)
        cache = data["cache"]
        if cache not in (None, HIDDEN_FILE) and not (
            Path(cache).is_absolute() and SHARED_NAME.fullmatch(Path(cache).name) and "\0" not in cache
        ):
            raise ValueError(f"hidden states in {cache}")
        counts = (train.steps - 1, train.seed, train.eval_every, train.after)
        if min(train.lr, train.eps) <= 0 or not all(0 <= count < 2**31 for count in counts):
            raise ValueError("a setting out of range")
        config["exported"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise UserError(f"{file} is not the description of a run: {e!r}") from e
    return config


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The steps of a run, as its journal has them.

    Raises:
        UserError: as `read_journal` and `check_rows`.
    """
    return check_rows(read_journal(folder / LOG_FILE)[0], folder / LOG_FILE)


def summary(evaluation: Evaluation) -> dict[str, float]:
    """The loss, and the accuracy where there is a choice."""
    numbers = {"loss": evaluation.loss}
    if evaluation.accuracy is not None:
        numbers["accuracy"] = evaluation.accuracy
    return numbers
