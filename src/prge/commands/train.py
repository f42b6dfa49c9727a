"""What `prge train` does: begins a run or resumes one, shows how it goes, and leaves its folder whole."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from prge.commands.open import open_program, read_state, state_file
from prge.commands.plots import plot_curves
from prge.commands.screen import progress_bar
from prge.errors import UserError
from prge.files.typed import parse
from prge.memory import return_freed
from prge.runtime_driver.data.encoder import Encoder, Example
from prge.runtime_driver.data.packed import digest
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.loop.calibrate import Estimates, propose_lr
from prge.runtime_driver.loop.evaluate import evaluate, warm_up
from prge.runtime_driver.loop.stopping import Limits, Stopping
from prge.runtime_driver.loop.train import TrainConfig, train
from prge.runtime_driver.program.state import steps_behind
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import PICTURE_FILE, RunFolder, read_config, read_log, refuse_begun, summary


def begin(
    program: Path, source: Source, output: Path, *, steps: int, lr: float | None, eps: float | None, seed: int,
    eval_every: int, limits: Limits, console: Console | None, start: Path | None = None, runtime: str = "executorch",
    device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """`prge train`; ``start`` is its --from."""
    loaded, encoder = open_program(program, _path(source.tokenizer), source.truncate, runtime, device)
    state = read_state(loaded, start)
    behind = steps_behind(state_file(start), loaded.manifest) if start else 0
    eps = loaded.manifest.eps if eps is None else eps
    if eps <= 0:
        raise UserError(f"--eps must be above zero, not {eps}")
    examples, dev_examples, dropped = source.read(encoder)
    del encoder
    return_freed()
    refuse_begun(output)
    began = time.perf_counter()
    with progress_bar(console) as progress:
        bar = progress.add_task("loading", total=None, note="")
        warm_up(loaded, [*examples, *dev_examples])
        if lr is None:
            progress.update(bar, description="calibrating", note="learning rate")
            lr = propose_lr(Estimates(loaded, examples, state), eps)[0]
    config = TrainConfig(steps, lr, eps, seed, eval_every, behind)
    described = {**asdict(source), "from": str(start.resolve()) if start else None, "device": device}
    described |= {"examples": len(examples), "dropped": dropped, "crc": digest([*examples, *dev_examples])}
    run = RunFolder.begin(output, loaded, config, described, state)
    result = _go_on(run, examples, dev_examples, config, limits, began, console)
    return result | ({"left_out": f"{dropped} training examples that are also in the dev set"} if dropped else {})


def resume(
    folder: Path, limits: Limits, console: Console | None, program: Path | None = None,
    data: Path | None = None, dev: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`prge train --resume`: a run goes on with its own settings; its files may have moved."""
    described = read_config(folder)
    source, config, loaded, encoder = reopen(folder, described, program, data, dev)
    examples, dev_examples, _ = source.read(encoder)
    if digest([*examples, *dev_examples]) != described["data"]["crc"]:
        raise UserError(
            f"{source.train or loaded.manifest.task}: these are not the examples that {folder} was begun with; "
            "give the files as they were with --data and --dev, or begin a new run"
        )
    del encoder
    return_freed()
    run = RunFolder.resume(folder, loaded)
    began = time.perf_counter()
    with progress_bar(console) as progress:
        progress.add_task("loading", total=None, note="")
        warm_up(loaded, [*examples, *dev_examples])
        if run.cut:
            progress.console.print(f"{run.cut} cut off the journal", highlight=False)
    return _go_on(run, examples, dev_examples, config, limits, began, console)


def reopen(
    folder: Path, described: dict[str, Any], program: Path | None, data: Path | None, dev: Path | None
) -> tuple[Source, TrainConfig, StepProgram, Encoder]:
    """A run's settings, program and encoder, by its description; the paths stand in for those that it names.

    Raises:
        UserError: something is missing, or no longer what it was.
    """
    try:
        kept = {name: described["data"][name] for name in Source.__dataclass_fields__}
        source = parse(Source, kept | {k: str(v.resolve()) for k, v in {"train": data, "dev": dev}.items() if v})
        config = TrainConfig(**described["train"])
        runtime, device = described["runtime"].split()[0], described["data"]["device"]
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise UserError(f"{folder}: its description lacks or mistakes {e}; it cannot be resumed") from e
    path = program or Path(described["program"])
    return source, config, *open_program(path, _path(source.tokenizer), source.truncate, runtime, device)


def _go_on(
    run: RunFolder, examples: Sequence[Example], dev_examples: Sequence[Example], config: TrainConfig, limits: Limits,
    began: float, console: Console | None,
) -> dict[str, Any]:  # fmt: skip
    """Train from where the run stands to its end, or to where it is stopped."""
    first, state, guard = run.stands.steps, run.stands.state, run.guard
    stopped, before = "", None
    with progress_bar(console) as progress, Stopping(limits) as stopping:
        bar = progress.add_task("evaluating", total=len(dev_examples), note="before training")

        def evaluating(done: int) -> None:
            stopping.check()
            progress.update(bar, completed=done)

        try:
            if dev_examples and not first:
                before = evaluate(run.program, state, dev_examples, evaluating)
            note = scores(summary(before)) if before else ""
            progress.reset(bar, total=config.steps, completed=first, description="training", note=note)
            mean, seconds = 0.0, deque[float](maxlen=20)
            steps = train(
                run.program, state, examples, dev_examples, config, first, guard,
                evaluating=lambda done: stopping.check(),
            )  # fmt: skip
            for state, record in steps:
                run.log(record, state, guard, None if record.step else before)
                seconds.append(record.seconds)
                mean += (record.loss - mean) / min(record.step - first + 1, 20)
                note = scores(summary(record.evaluation)) if record.evaluation else note
                speed = statistics.mean(seconds)
                progress.update(bar, completed=record.step + 1, note=f"loss {mean:.3f} {note}{1 / speed:.2f} steps/s")
                if record.backed_off:
                    progress.console.print(
                        f"step {record.step + 1}: the loss diverged; back to the best state, lr halved"
                    )
                stopping.look(lambda why: progress.update(bar, note=why))
        except KeyboardInterrupt:
            stopped = stopping.why
        except UserError:
            with suppress(UserError):  # a full disk stops both; the first sentence says more
                _finish(run, state, read_log(run.folder))
            raise
    rows = read_log(run.folder)  # not kept meanwhile, so that memory does not grow with the steps
    if not rows:
        raise UserError(f"stopped before the first step ({stopped}); `prge train --resume {run.folder}` begins it")
    result: dict[str, Any] = {"completed": not stopped, "steps": len(rows), "lr": config.lr}
    if stopped:
        result |= {"stopped": stopped, "go_on": f"prge train --resume {run.folder}"}
    return result | told(rows) | {"seconds": time.perf_counter() - began} | _finish(run, state, rows)


def _finish(run: RunFolder, state: Tensor, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Close the run's folder and draw its curves; paths by name."""
    paths, picture = run.finish(state), run.folder / PICTURE_FILE
    try:
        plot_curves(picture, rows)
    except OSError as e:
        raise UserError(f"{picture} cannot be written ({e.strerror}); log, state and adapter are there") from e
    return paths | {"picture": str(picture)}


def told(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `prge train` says of a journal."""
    result = {"before": rows[0]["before"]} if "before" in rows[0] else {}
    after = next((row for row in reversed(rows) if "dev" in row), None)
    if after:
        result["after"] = {"steps": after["step"] + 1, **after["dev"]}
    result["seconds_per_step"] = statistics.median(row["seconds"] for row in rows)
    if any(row["backed_off"] for row in rows):
        result["backed_off"] = [row["step"] + 1 for row in rows if row["backed_off"]]
    return result


def scores(numbers: dict[str, float]) -> str:
    name, value = list(numbers.items())[-1]
    return f"dev {name} {value:.3f} "


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
