"""One run of `prge bench convergence`, in a process of its own.

Run as ``python -m prge.bench.runners``. It reads the run's settings as JSON, and writes a line of JSON for every
evaluation and one for what the run cost.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prge.bench.lora import LoraAdamW
from prge.examples.rows import Example
from prge.manifest import TOKENIZER_FILE, Manifest
from prge.memory import peak_megabytes
from prge.quiet import quiet
from prge.runtime_driver.data.batches import batches
from prge.runtime_driver.data.encoder import Encoder, without
from prge.runtime_driver.loop.calibrate import Estimates, propose_lr
from prge.runtime_driver.loop.evaluate import evaluate, warm_up
from prge.runtime_driver.loop.train import TrainConfig, fold
from prge.runtime_driver.program.step import StepProgram


@dataclass(frozen=True)
class Run:
    """What to run.

    Attributes:
        method: ``"program"``, or ``"lora-adamw"`` for PyTorch and PEFT on the program's base and prompt.
        program: folder of the program.
        steps: how many.
        lr: learning rate; None to measure it, in time that counts.
        seed: of the run.
        data: file to train on.
        examples: how many of its examples; None for all.
        dev: file to evaluate on.
        curve: how many of its examples the evaluations take; the last one takes all.
        points: evaluations along the run.
        batch: of lora-adamw.
        rank: of lora-adamw.
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
    batch: int = 16
    rank: int = 8


def run(settings: Run) -> Iterator[dict[str, Any]]:
    """Yield a point for every evaluation, and in the end the cost: seconds per step, peak MB above the imports."""
    folder = Path(settings.program)
    torch_side = settings.method != "program"
    if torch_side:
        with quiet():
            import peft  # noqa: F401
            import transformers  # noqa: F401
    base = peak_megabytes()
    program = StepProgram(folder)
    encoder = Encoder(program.manifest, folder / TOKENIZER_FILE, truncate=True)
    dev = encoder.examples(Path(settings.dev))
    examples = without(encoder.examples(Path(settings.data), settings.examples), dev)
    few = random.Random(0).sample(dev, min(settings.curve, len(dev)))
    trainer = LoraRun(program.manifest, settings) if torch_side else ProgramRun(program, settings, dev)
    spent, steps = 0.0, 0
    for seconds in trainer.steps(examples):
        spent, steps = spent + seconds, steps + 1
        last = steps == settings.steps
        if last or steps % max(1, settings.steps // settings.points) == 0:
            accuracy = trainer.accuracy(dev if last else few)
            yield {"seconds": spent, "steps": steps, "accuracy": accuracy, "full": last}
    yield {"seconds_per_step": spent / steps, "peak_megabytes": peak_megabytes() - base}


class ProgramRun:
    """A program on the ExecuTorch runtime, as `prge train` runs it."""

    def __init__(self, program: StepProgram, settings: Run, dev: list[Example]):
        self.program, self.state = program, program.initial_state()
        self.settings, self.dev = settings, dev

    def steps(self, examples: list[Example]) -> Iterator[float]:
        """Make the steps; yields the seconds of each. The first one's are those of all that comes before it, too.

        Of the pass of the frozen part, they are the share of the training texts: evaluations do not count as training.
        """
        texts = [*examples, *self.dev]
        began, eps = time.perf_counter(), self.program.manifest.eps
        with self.program.kept(texts):
            share = sum(len(e.tokens) for e in examples) / sum(len(e.tokens) for e in texts)
            before = share * (time.perf_counter() - began)
            warm_up(self.program, examples)
            began = time.perf_counter()
            lr = propose_lr(Estimates(self.program, examples), eps)[0] if self.settings.lr is None else self.settings.lr
            before += time.perf_counter() - began
            config = TrainConfig(self.settings.steps, lr, eps, self.settings.seed)
            for state, record in fold(self.program, self.state, examples, [], config):
                self.state = state
                yield record.seconds + (before if record.step == 0 else 0.0)

    def accuracy(self, examples: list[Example]) -> float:
        accuracy = evaluate(self.program, self.state, examples).accuracy
        assert accuracy is not None
        return accuracy


class LoraRun:
    """LoRA with AdamW. Its lr falls linearly to zero, like the program's."""

    def __init__(self, manifest: Manifest, settings: Run):
        assert settings.lr is not None
        self.trainer = LoraAdamW(manifest, rank=settings.rank, seed=settings.seed, lr=settings.lr)
        self.settings, self.accuracy = settings, self.trainer.accuracy

    def steps(self, examples: list[Example]) -> Iterator[float]:
        order = batches(examples, self.settings.batch, self.settings.seed)
        for step, batch in zip(range(self.settings.steps), order, strict=False):
            began = time.perf_counter()
            self.trainer.step([examples[i] for i in batch], 1.0 - step / self.settings.steps)
            yield time.perf_counter() - began


if __name__ == "__main__":
    for line in run(Run(**json.load(sys.stdin))):
        print(json.dumps(line), flush=True)
