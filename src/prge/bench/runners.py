"""One run of `prge bench convergence` or `prge bench tasks`, in a process of its own.

Run as ``python -m prge.bench.runners``. It reads the run's settings as JSON, and writes a line of JSON for every
evaluation and one for what the run cost.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prge.errors import UserError
from prge.examples.read import Part, place
from prge.examples.rows import Example
from prge.manifest import TOKENIZER_FILE, Manifest
from prge.memory import peak_megabytes, return_freed
from prge.quiet import quiet
from prge.runtime_driver.data.batches import batches
from prge.runtime_driver.data.encoder import Encoder, check_classes, without
from prge.runtime_driver.loop.best import Best
from prge.runtime_driver.loop.calibrate import Estimates, propose_lr
from prge.runtime_driver.loop.evaluate import Evaluation, evaluate, warm_up
from prge.runtime_driver.loop.train import TrainConfig, fold
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import summary

PROGRAM, LORA, PROBE = "program", "lora-adamw", "probe"


@dataclass(frozen=True)
class Run:
    """What to run.

    Attributes:
        method: `PROGRAM`; or on the program's base and prompt, in PyTorch, `LORA` or `PROBE`.
        program: folder of the program.
        steps: how many; 0 to evaluate alone.
        lr: learning rate; None to measure it, in time that counts.
        seed: of the run.
        data: file to train on, or a folder with one.
        examples: how many of its records; None for all.
        dev: file to evaluate on, or a folder with one.
        curve: how many of its examples the evaluations take; the last one takes all.
        points: how many evaluations there are along the run, at most.
        dev_examples: how many of the records of ``dev`` to take; None for all.
        batch: of `LORA`.
        rank: of `LORA`.
    """

    method: str
    program: str
    steps: int
    lr: float | None
    seed: int
    data: str
    examples: int | None
    dev: str
    curve: int
    points: int
    dev_examples: int | None = None
    batch: int = 16
    rank: int = 8


@dataclass(frozen=True)
class Examples:
    """What a run trains on, and what it is evaluated on.

    Attributes:
        left_out: how many of both are longer than the program takes.
    """

    train: list[Example]
    dev: list[Example]
    left_out: int


def read(settings: Run, manifest: Manifest) -> Examples:
    """The run's examples. Texts of dev are not trained on.

    Raises:
        UserError: a file cannot be read or encoded, none of its examples is left, or all that train have one class.
    """
    encoder = Encoder(manifest, Path(settings.program) / TOKENIZER_FILE)
    left_out = 0

    def part(path: str, name: Part, limit: int | None) -> list[Example]:
        nonlocal left_out
        records = encoder.records(Path(path), name)[:limit]
        found = [e for number, record in records for e in encoder.encode(record, place(path, number))]
        kept = [e for e in found if max(len(row.tokens) for row in e.rows) <= manifest.max_tokens]
        if not kept:
            raise UserError(
                f"{path}: none of {len(records)} records for {name} has something to learn and fits into "
                f"{manifest.max_tokens} tokens; give a larger --max-tokens"
            )
        left_out += len(found) - len(kept)
        return [encoder.fit(e) for e in kept]

    dev = part(settings.dev, "dev", settings.dev_examples)
    train = without(part(settings.data, "train", settings.examples), dev)
    if not train:
        raise UserError(f"{settings.data}: every text to train on is also in the dev set; give other examples")
    check_classes(train, encoder.form, settings.data)
    return Examples(train, dev, left_out)


def run(settings: Run) -> Iterator[dict[str, Any]]:
    """Yield a point for every evaluation, and in the end the cost: seconds per step, peak MB above the imports.

    The last point is of the state that was the best at a point, itself included, on the curve's part of the dev set. A
    run that diverges and gives up ends with its point there, and the cost says why.
    """
    if settings.method != PROGRAM:
        with quiet():
            import peft  # noqa: F401
            import transformers  # noqa: F401

            from prge.bench import lora, probe  # noqa: F401
    base = peak_megabytes()
    program = StepProgram(Path(settings.program))
    found = read(settings, program.manifest)
    return_freed()  # the tokenizer, as `prge train` does
    few = random.Random(0).sample(found.dev, min(settings.curve, len(found.dev)))
    trainer: ProgramRun | LoraRun | ProbeRun
    if settings.method == PROGRAM:
        trainer = ProgramRun(program, settings, found.dev)
    else:
        trainer = (LoraRun if settings.method == LORA else ProbeRun)(program.manifest, settings)
    spent, steps, best = 0.0, 0, Best()
    if not settings.steps:
        yield {"seconds": 0.0, "steps": 0, **summary(trainer.evaluate(found.dev)), "full": True}
    for seconds in trainer.steps(found.train) if settings.steps else ():
        spent, steps = spent + seconds, steps + (not trainer.stopped)
        last = steps == settings.steps or bool(trainer.stopped)
        if last or steps % -(-settings.steps // settings.points) == 0:
            numbers = summary(trainer.evaluate(few))
            if best.note(steps, numbers):
                trainer.keep()
            if last:
                trainer.restore()
                numbers = summary(trainer.evaluate(found.dev))
            yield {"seconds": spent, "steps": steps, **numbers, "full": last, "kept": best.steps}
    cost = {"seconds_per_step": spent / max(1, steps), "peak_megabytes": peak_megabytes() - base}
    yield cost | {"left_out": found.left_out, "stopped": trainer.stopped}


class ProgramRun:
    """A program on the ExecuTorch runtime, as `prge train` runs it.

    Attributes:
        stopped: why it gave up; empty if it did not.
    """

    stopped = ""

    def __init__(self, program: StepProgram, settings: Run, dev: list[Example]):
        self.program, self.state = program, program.initial_state()
        self.kept = self.state
        self.settings, self.dev = settings, dev

    def steps(self, examples: list[Example]) -> Iterator[float]:
        """Make the steps; yields the seconds of each. The first one's are those of all that comes before it, too.

        Where the run gives up, ``stopped`` says why, and one more 0.0 comes.

        Of the pass of the frozen part, they are the share of the training texts: evaluations do not count as training.
        """
        began, eps = time.perf_counter(), self.program.manifest.eps
        with self.program.kept([*examples, *self.dev]):
            share = _tokens(examples) / (_tokens(examples) + _tokens(self.dev))
            before = share * (time.perf_counter() - began)
            warm_up(self.program, examples)
            began = time.perf_counter()
            lr = propose_lr(Estimates(self.program, examples), eps)[0] if self.settings.lr is None else self.settings.lr
            before += time.perf_counter() - began
            config = TrainConfig(self.settings.steps, lr, eps, self.settings.seed)
            made = 0
            try:
                for state, record in fold(self.program, self.state, examples, [], config):
                    self.state, made = state, made + 1
                    yield record.seconds + (before if record.step == 0 else 0.0)
            except UserError as e:
                if not made:
                    raise
                self.stopped = str(e)
                yield 0.0

    def evaluate(self, examples: list[Example]) -> Evaluation:
        return evaluate(self.program, self.state, examples)

    def keep(self) -> None:
        """Remember the state as it is."""
        self.kept = self.state

    def restore(self) -> None:
        """Go back to the state that was kept."""
        self.state = self.kept


def _tokens(examples: Sequence[Example]) -> int:
    """Tokens of all rows."""
    return sum(len(row.tokens) for e in examples for row in e.rows)


class LoraRun:
    """LoRA with AdamW. Its lr falls linearly to zero, like the program's."""

    stopped = ""

    def __init__(self, manifest: Manifest, settings: Run):
        from prge.bench.lora import LoraAdamW

        assert settings.lr is not None
        self.trainer = LoraAdamW(manifest, rank=settings.rank, seed=settings.seed, lr=settings.lr)
        self.settings, self.evaluate = settings, self.trainer.evaluate
        self.keep, self.restore = self.trainer.keep, self.trainer.restore

    def steps(self, examples: list[Example]) -> Iterator[float]:
        order = batches(examples, self.settings.batch, self.settings.seed)
        for step, batch in zip(range(self.settings.steps), order, strict=False):
            began = time.perf_counter()
            self.trainer.step([examples[i] for i in batch], 1.0 - step / self.settings.steps)
            yield time.perf_counter() - began


class ProbeRun:
    """A linear probe. Its one step makes the features and fits to them."""

    stopped = ""

    def __init__(self, manifest: Manifest, settings: Run):
        from prge.bench.probe import Probe

        self.probe = Probe(manifest, settings.seed)
        self.evaluate = self.probe.evaluate

    def keep(self) -> None:
        """There is one state."""

    restore = keep

    def steps(self, examples: list[Example]) -> Iterator[float]:
        began = time.perf_counter()
        self.probe.train(examples)
        yield time.perf_counter() - began


if __name__ == "__main__":
    for line in run(Run(**json.load(sys.stdin))):
        print(json.dumps(line), flush=True)
