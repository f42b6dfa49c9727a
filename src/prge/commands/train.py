"""What `prge train` does: begins a run or resumes one, tells how it goes, and leaves its folder whole."""

from __future__ import annotations

import gc
import statistics
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from math import inf
from pathlib import Path
from typing import Annotated, Any

from torch import Tensor

from prge.commands.export import export_for_training
from prge.commands.hooks import Hooks
from prge.commands.open import Device, Runtime, load, read_state, state_file
from prge.commands.plots import plot_curves
from prge.commands.probe import below_probe
from prge.commands.tensorboard import TENSORBOARD_FOLDER, ReportTo, Scalars, refuse_missing
from prge.errors import UserError
from prge.examples.detect import FormOptions
from prge.examples.rows import Example
from prge.files.folders import PROGRAM_FOLDER
from prge.files.typed import parse
from prge.memory import return_freed
from prge.options import AnyPath, Option
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.data.hidden import HIDDEN_FILES, Keeping, kept_in
from prge.runtime_driver.data.packed import digest
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.loop.best import best_of
from prge.runtime_driver.loop.evaluate import evaluate, warm_up
from prge.runtime_driver.loop.stopping import Limits, Stopping
from prge.runtime_driver.loop.train import RunningMean, TrainConfig, fold, settle
from prge.runtime_driver.program.base import is_program
from prge.runtime_driver.program.state import steps_behind
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import PICTURE_FILE, RunFolder, read_config, read_log, refuse_begun, summary
from prge.shell import word

_EXACT = "the gradient of this program is exact and perturbs nothing; leave --eps out"


def parse_lr(text: str) -> float | None:
    """A number above zero; None for auto."""
    if text == "auto":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise UserError(f"--lr {text!r}: give a number above zero, or auto")
    return value


def train(
    program: Annotated[
        AnyPath, Option("A program (program.pte or its folder), or a model, which is exported first.", argument=True)
    ],
    output: Annotated[AnyPath, Option("New folder for the run.", ("--output", "-o"))],
    source: Source = Source(),
    form: FormOptions = FormOptions(),
    steps: Annotated[int, Option("Number of steps.", least=1)] = 300,
    lr: Annotated[
        float | None,
        Option("Learning rate of the first step; auto: measured on a few batches.", parse=parse_lr, shown="auto"),
    ] = None,
    eps: Annotated[float | None, Option("Size of the perturbation; default: the program's.")] = None,
    eval_every: Annotated[int, Option("Steps between evaluations; 0: at the end only.", least=0)] = 50,
    start: Annotated[
        AnyPath | None, Option("Go on from this run folder, state or PEFT adapter folder.", ("--from",))
    ] = None,
    cache: Annotated[
        Keeping | None,
        Option(
            "Disk for the frozen layers' hidden states, which are computed once: a size as 2GB, a folder, or off.",
            parse=Keeping.parse,
            shown="4GB in the run's folder",
        ),
    ] = None,
    generate: Annotated[
        bool, Option("Of a model: also write generate.pte, a program that continues text.", ("--generate",))
    ] = False,
    report_to: Annotated[
        ReportTo | None, Option(f"Also write the run's numbers for TensorBoard, into its folder {TENSORBOARD_FOLDER}.")
    ] = None,
    limits: Limits = Limits(),
    runtime: Runtime = "executorch",
    device: Device = "cpu",
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Fine-tune a program on examples, on the unmodified inference runtime.

    Returns:
        ``completed``, ``steps`` and ``lr``; ``before``, the evaluation of the start, and ``after``, the best one, whose
        state is kept; ``seconds_per_step`` (median); the paths of ``state``, ``adapter`` and ``picture``; why it
        ``stopped``, if it did; and a ``warning`` where it ended below a linear probe.

    Raises:
        UserError: program or data cannot be read, the folder is in use, or the run cannot go on.
    """
    if eps is not None and not 0 < eps < inf:
        raise UserError(f"--eps must be above zero, not {eps}")
    if report_to:
        refuse_missing()
    output, exported = Path(output), dict[str, Any]()
    if is_program(Path(program)):
        if form != FormOptions():
            raise UserError(f"{program} is a program and has its form; options of the form go with a model")
        if generate:
            raise UserError(f"{program} is a program; --generate goes with a model, or with `prge export`")
    else:
        if eps is not None:
            raise UserError(_EXACT)
        refuse_begun(output)  # a call that failed before the run began may have left the program
        exported = export_for_training(str(program), output / PROGRAM_FOLDER, form, source, hooks, generate=generate)
        program = output / PROGRAM_FOLDER
        gc.collect()  # the model's modules hold each other
        return_freed()
    # Whole paths, so that a run can be resumed from another folder.
    whole: dict[str, Any] = {k: v and str(Path(v).resolve()) for k, v in asdict(source).items() if k in _PATHS}
    source = replace(source, **whole)
    loaded = load(
        program, tokenizer=source.tokenizer, truncate=source.truncate, runtime=runtime, device=device, first_run=True,
        hooks=hooks,
    )  # fmt: skip
    if eps is not None and not loaded.manifest.estimates:
        raise UserError(_EXACT)
    state = read_state(loaded, start)
    behind = steps_behind(state_file(Path(start)), loaded.manifest) if start else 0
    encoder = loaded.encoder()
    examples, dev, dropped = source.read(encoder)
    skipped = skipped_of(encoder)
    del encoder
    return_freed()
    refuse_begun(output)
    began = time.perf_counter()
    keeping = cache or Keeping()
    hidden = keeping.file(output, loaded.manifest, [*examples, *dev])
    if hidden is None and keeping.budget != 0:
        hooks.tell("The frozen layers' hidden states take more disk than --cache allows: every step computes them.")
    with _removed_on_failure(output):
        _prepare(loaded, hidden, [*examples, *dev], hooks)
        hooks.show("calibrating", 0, None, "learning rate")
        config = settle(
            loaded, examples, state, steps=steps, lr=lr, eps=eps, seed=source.seed, eval_every=eval_every, after=behind
        )
    described = {**asdict(source), "from": str(Path(start).resolve()) if start else None, "device": device}
    described["cache"] = None if hidden is None else str(hidden) if keeping.folder else hidden.name
    described |= {"examples": len(examples), "dropped": dropped, "crc": digest([*examples, *dev])}
    run = RunFolder.begin(output, loaded, config, described, state)
    result = exported | _go_on(run, examples, dev, config, report_to, limits, began, hooks)
    result |= {"left_out": f"{dropped} training examples that are also in the dev set"} if dropped else {}
    return result | skipped


def resume(
    run: Annotated[AnyPath, Option("A run folder.", argument=True)],
    program: AnyPath | None = None,
    data: AnyPath | None = None,
    dev: AnyPath | None = None,
    report_to: ReportTo | None = None,
    limits: Limits = Limits(),
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Go on with a run that was stopped or cut off. The result is that of an uninterrupted run, bit for bit.

    Args:
        program, data, dev: where the run's files are now, if they have moved.
        report_to: as for `train`; the events are written anew, from the run's first step on.

    Returns:
        as `train`.

    Raises:
        UserError: no run there, or its program or data are no longer what they were.
    """
    if report_to:
        refuse_missing()
    folder = Path(run)
    described, command = read_config(folder), f"prge train PROGRAM --data FILE --resume {word(folder)}"
    source, config, loaded = reopen(folder, described, program, data, dev, command, hooks)
    examples, dev_examples, _ = source.read(loaded.encoder())
    if digest([*examples, *dev_examples]) != described["data"]["crc"]:
        raise UserError(
            f"{source.train or loaded.manifest.task}: these are not the examples that {folder} was begun with; "
            "give the files as they were with --data and --dev, or begin a new run"
        )
    return_freed()
    found = RunFolder.resume(folder, loaded)
    began = time.perf_counter()
    _prepare(loaded, kept_in(folder, described), [*examples, *dev_examples], hooks)
    if found.cut:
        hooks.tell(f"{found.cut} were cut off the journal")
    return _go_on(found, examples, dev_examples, config, report_to, limits, began, hooks)


def reopen(
    folder: Path, described: dict[str, Any], program: AnyPath | None, data: AnyPath | None, dev: AnyPath | None,
    command: str, hooks: Hooks, reads: bool = True,
) -> tuple[Source, TrainConfig, StepProgram]:  # fmt: skip
    """A run's settings and program, by its description; the paths stand in for those that it names.

    Args:
        command: what to call when the run's files have moved.
        reads: whether the examples are read.

    Raises:
        UserError: a file is not where the description says, or no longer what it was.
    """
    try:
        kept = {name: described["data"][name] for name in Source.__dataclass_fields__}
        moved = {k: str(Path(v).resolve()) for k, v in {"train": data, "dev": dev}.items() if v}
        source = parse(Source, kept | moved)
        config = TrainConfig(**described["train"])
        runtime, device = described["runtime"].split()[0], described["data"]["device"]
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise UserError(f"{folder}: its description lacks or mistakes {e}; it cannot be resumed") from e
    path = program or described["program"]
    if not program and not Path(path).exists() and is_program(folder / PROGRAM_FOLDER):
        path = folder / PROGRAM_FOLDER  # it has moved with the run
    files = {"program": path} | ({"data": source.train, "dev data": source.dev} if reads else {})
    gone = [f"its {what} is not at {file}" for what, file in files.items() if file and not Path(file).exists()]
    if gone:
        command += " --dev FILE" if reads and source.dev else ""
        raise UserError(f"{folder}: {' and '.join(gone)}; if it has moved, say where it is: `{command}`")
    # Whichever tokenizer it is, the program knows whether it is the right one.
    tokenizer = source.tokenizer if source.tokenizer and Path(source.tokenizer).exists() else None
    loaded = load(
        path, tokenizer=tokenizer, truncate=source.truncate, runtime=runtime, device=device, first_run=True,
        hooks=hooks,
    )  # fmt: skip
    return source, config, loaded


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Leave no hidden states in the folder of a run that does not begin."""
    try:
        yield
    except BaseException:
        for name in HIDDEN_FILES:
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # it holds something else
            folder.rmdir()
        raise


def _prepare(program: StepProgram, hidden: Path | None, examples: Sequence[Example], hooks: Hooks) -> None:
    """Compute the frozen part's hidden states, where they are kept, and make the runtime's buffers."""
    if hidden:
        program.keep(hidden, examples, lambda done, total: hooks.show("frozen layers", done, total, "tokens, once"))
    hooks.show("loading", 0, None, "")
    warm_up(program, examples)


def _go_on(
    run: RunFolder, examples: Sequence[Example], dev: Sequence[Example], config: TrainConfig,
    report_to: ReportTo | None, limits: Limits, began: float, hooks: Hooks,
) -> dict[str, Any]:  # fmt: skip
    """Train from where the run stands to its end, or to where it is stopped."""
    first, state, guard = run.stands.steps, run.stands.state, run.guard
    stopped, before = "", None
    scalars = Scalars(run.folder, read_log(run.folder)) if report_to else None
    with Stopping(limits) as stopping:

        def evaluating(done: int) -> None:
            stopping.check()
            hooks.show("evaluating", done, len(dev), "before training")

        try:
            if dev and not first:
                before = evaluate(run.program, state, dev, evaluating)
            note = scores(summary(before)) if before else ""
            mean, seconds = RunningMean(), deque[float](maxlen=20)
            steps = fold(
                run.program, state, examples, dev, config, first, guard, evaluating=lambda done: stopping.check()
            )
            for state, record in steps:
                row = run.log(record, state, guard, None if record.step else before)
                if scalars:
                    scalars.add(row)
                seconds.append(record.seconds)
                note = scores(summary(record.evaluation)) if record.evaluation else note
                text = f"loss {mean.add(record.loss):.3f} {note}{1 / statistics.mean(seconds):.2f} steps/s"
                hooks.show("training", record.step + 1, config.steps, text)
                if record.backed_off:
                    hooks.tell(f"step {record.step + 1}: the run diverged; back to the best state, lr halved")
                done = record.step + 1
                if record.evaluation and done < config.steps:
                    stopping.weigh(run.best)
                stopping.look(lambda why, done=done: hooks.show("training", done, config.steps, why))  # type: ignore[misc]
        except KeyboardInterrupt:
            stopped = stopping.why
        except UserError:
            with suppress(UserError):  # a full disk stops both; the first sentence says more
                _finish(run, state, read_log(run.folder))
            raise
        finally:
            if scalars:
                scalars.close()
    rows = read_log(run.folder)  # not kept meanwhile, so that memory does not grow with the steps
    if not rows:
        raise UserError(
            f"stopped before the first step ({stopped}); `prge train --resume {word(run.folder)}` begins it"
        )
    result: dict[str, Any] = {"completed": not stopped, "steps": len(rows), "lr": config.lr}
    if stopped:
        result |= {"stopped": stopped, "go_on": f"prge train --resume {word(run.folder)}"}
    result |= told(rows)
    paths = _finish(run, state, rows)
    accuracy = result.get("after", {}).get("accuracy")
    if accuracy is not None and stopped != Stopping.why:
        hooks.show("linear probe", 0, None, "")
        warning = below_probe(run.program, examples, dev, accuracy)
        result |= {"warning": warning} if warning else {}
    return result | {"seconds": time.perf_counter() - began} | paths


def _finish(run: RunFolder, state: Tensor, rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Close the run's folder and draw the curves of the journal's ``rows``; paths by name."""
    paths, picture = run.finish(state), run.folder / PICTURE_FILE
    run.program.unload()  # drawing takes as much again, and so does the probe
    try:
        plot_curves(picture, rows)
    except OSError as e:
        raise UserError(f"{picture} cannot be written ({e.strerror}); log, state and adapter are there") from e
    return paths | {"picture": str(picture)}


def told(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `prge train` says of a journal."""
    result = {"before": rows[0]["before"]} if "before" in rows[0] else {}
    best = best_of(rows)
    if best is not None:
        result["after"] = {"steps": best, **(rows[best - 1]["dev"] if best else rows[0]["before"])}
    result["seconds_per_step"] = statistics.median(row["seconds"] for row in rows)
    if any(row["backed_off"] for row in rows):
        result["backed_off"] = [row["step"] + 1 for row in rows if row["backed_off"]]
    return result


def skipped_of(encoder: Encoder) -> dict[str, str]:
    """What a result says of records that were left out because they hold nothing to learn, or read in another way."""
    what = "record that holds" if encoder.skipped == 1 else "records that hold"
    found = {"skipped": f"{encoder.skipped} {what} nothing to learn"} if encoder.skipped else {}
    return found | ({"of_the_data": "; ".join(encoder.told)} if encoder.told else {})


def scores(numbers: dict[str, float]) -> str:
    """The last of an evaluation's numbers, for the progress bar."""
    name, value = list(numbers.items())[-1]
    return f"dev {name} {value:.3f} "


# Of `Source`.
_PATHS = ("train", "dev", "tokenizer")
