"""One contender of `prge bench step` in a process of its own.

Run as ``python -m prge.bench.contenders KIND``. It reads a JSON line with its settings, loads, and writes a line. Then
for every line with a T that it reads, it makes one step and writes what the step took.
"""

from __future__ import annotations

import importlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prge.cost import inference_tokens
from prge.examples.rows import Example
from prge.manifest import Manifest
from prge.memory import peak_megabytes
from prge.quiet import quiet
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.hidden import HIDDEN_FILE
from prge.runtime_driver.loop.train import TrainConfig, fold
from prge.runtime_driver.program.base import load_plain, runtime, set_threads, without_exporter
from prge.runtime_driver.program.frozen import FrozenProgram
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import RunFolder

# Steps of the run whose first ones are timed.
_MANY = 1_000_000
# Steps of a round, where it is not one. A limit is the best of several. A driver's share is the median of as many steps
# as `prge-run` makes, because a process that has waited for the others is slow at first.
_TRIES = {"products": 15, "program": 3}


@dataclass(frozen=True)
class Contender:
    """What to time.

    Attributes:
        kind: on the ExecuTorch runtime ``"program"`` (a step, as `prge train` drives it), ``"frozen"`` (the frozen
            part, on B rows), ``"inference"``, ``"products"``, or ``"training"`` (ExecuTorch's own training module);
            ``"native"`` (the program in `prge-run`); in PyTorch ``"eager"`` (the program's step), ``"lora"``, or
            ``"lora-checkpointed"`` (backpropagation).
        program: path of the program that is timed, or whose step PyTorch runs.
        manifest: JSON of the program that gives the model, the rows and the targets. A program that is not timed is
            not loaded, because it would count as memory.
        file: path of the ``.pte`` of inference, products, or training, with ``{tokens}`` for T.
        shape: of a product's input.
        threads: of the runtime and of PyTorch; 0 leaves the choice to them.
    """

    kind: str
    program: str = ""
    manifest: str = ""
    file: str = ""
    shape: tuple[int, ...] = ()
    threads: int = 0


def synthetic(m: Manifest, tokens: int, count: int) -> list[Example]:
    """Examples of T random tokens. They will do, because a step's time depends on its sizes alone."""
    draw = random.Random(tokens)
    limit, targets = m.architecture.vocabulary - 1, min(m.max_targets, tokens - 1)
    return [
        Example(tuple(draw.randint(1, limit) for _ in range(tokens)), i % max(1, len(m.labels)), targets)
        for i in range(count)
    ]


# What is timed. A step of a program returns the seconds that it spent inside the runtime's execute.
Step = Callable[[], object]


def prepare(contender: Contender) -> Callable[[int], Step]:
    """Load a contender. What is returned makes its step on T tokens."""
    if contender.kind == "products":
        method = load_plain(Path(contender.file))
        x = torch.randn(contender.shape)
        return lambda tokens: lambda: method([x])
    if contender.kind == "program":
        program = StepProgram(Path(contender.program))
        program.load()
        return _program(program)
    if contender.kind == "frozen":
        below = StepProgram(Path(contender.program)).frozen_part()
        below.load()
        return _frozen(below)
    if contender.kind == "eager":
        return _eager(StepProgram(Path(contender.program)))
    m = Manifest.from_json(contender.manifest, contender.kind)
    if contender.kind == "inference":
        return _inference(m, load_plain(Path(contender.file)))
    if contender.kind == "training":
        return _training(m, contender.file)
    return _lora(m, checkpointed=contender.kind == "lora-checkpointed")


def _program(program: StepProgram) -> Callable[[int], Step]:
    def step(tokens: int) -> Step:
        steps = real_steps(program, synthetic(program.manifest, tokens, program.manifest.batch))

        def run() -> float:
            before = program.execution_seconds
            next(steps)
            return program.execution_seconds - before

        return run

    return step


def real_steps(program: StepProgram, examples: Sequence[Example]) -> Iterator[None]:
    """The steps of a run in a temporary folder, as `prge train` makes them, with journal line and snapshot.

    Args:
        examples: B of them, so that drawing a batch costs what it does in a long run, where it is done once an epoch.
    """
    config = TrainConfig(_MANY, program.manifest.lr, program.manifest.eps)
    with tempfile.TemporaryDirectory() as scratch:
        program.keep(Path(scratch) / HIDDEN_FILE, examples)
        hidden = program.hidden
        run = RunFolder.begin(Path(scratch) / "run", program, config, {}, program.initial_state())
        for state, record in fold(program, run.stands.state, examples, [], config, guard=run.guard):
            run.log(record, state, run.guard, None)
            yield
            program.hidden = hidden  # another length may have set its own


def _frozen(below: FrozenProgram) -> Callable[[int], Step]:
    m = below.manifest

    def step(tokens: int) -> Step:
        rows, _ = collate(synthetic(m, tokens, m.batch), m)
        return lambda: below.states(rows)

    return step


def _inference(m: Manifest, method: Callable[[Any], Any]) -> Callable[[int], Step]:
    def step(tokens: int) -> Step:
        rows, targets = collate(synthetic(m, inference_tokens(m, tokens), m.rows), m)
        return lambda: method([rows, *targets])

    return step


def _eager(program: StepProgram) -> Callable[[int], Step]:
    from prge.eager import build_again

    m = program.manifest
    module = build_again(program, m.max_tokens).step.eval()
    state = torch.zeros(m.state_size)
    scalars = torch.tensor([1]), torch.tensor([1e-3]), torch.tensor([m.eps])

    def step(tokens: int) -> Step:
        rows, targets = collate(synthetic(m, tokens, m.batch) * m.copies, m)
        with torch.no_grad():
            hidden = module.backbone.frozen(rows)

        def run() -> None:
            with torch.no_grad():
                module(state, hidden, rows, targets, *scalars)

        return run

    return step


def _training(m: Manifest, file: str) -> Callable[[int], Step]:
    from executorch.extension.training import _load_for_executorch_for_training, get_sgd_optimizer

    def step(tokens: int) -> Step:
        module = _load_for_executorch_for_training(file.format(tokens=tokens))
        rows, targets = collate(synthetic(m, tokens, m.batch), m)
        inputs = [rows, *targets]
        module.forward_backward("forward", inputs)  # parameters are known after the first
        optimizer = get_sgd_optimizer(module.named_parameters(), 1e-4)

        def run() -> None:
            module.forward_backward("forward", inputs)
            optimizer.step(module.named_gradients())

        return run

    return step


def _lora(m: Manifest, checkpointed: bool) -> Callable[[int], Step]:
    from prge.bench.lora import LoraAdamW

    trainer = LoraAdamW(m, rank=8, seed=0, lr=1e-4, checkpointed=checkpointed)

    def step(tokens: int) -> Step:
        batch = synthetic(m, tokens, m.batch)
        return lambda: trainer.step(batch)

    return step


def _timed(step: Step) -> tuple[float, float | None]:
    """(seconds, those outside the runtime's execute)."""
    began = time.perf_counter()
    executing = step()
    seconds = time.perf_counter() - began
    return seconds, seconds - executing if isinstance(executing, float) else None


# What a kind imports besides the runtime: with peft, all that loading a model imports.
_PYTORCH = ("peft", "transformers", "prge.models.build", "prge.models.checkpoints")
_IMPORTS = {
    "eager": _PYTORCH,
    "lora": _PYTORCH,
    "lora-checkpointed": _PYTORCH,
    "training": ("executorch.extension.training",),
}


def main() -> None:
    """Answer until the input ends."""
    runtime()
    with quiet(), without_exporter():
        for module in _IMPORTS.get(sys.argv[1], ()):  # memory is counted above the imports
            importlib.import_module(module)
    contender = Contender(**json.loads(sys.stdin.readline()))
    if contender.threads:
        set_threads(contender.threads)
    base = peak_megabytes()
    make = prepare(contender)
    print(json.dumps({"loaded": True}), flush=True)
    steps: dict[int, Step] = {}
    for line in sys.stdin:
        tokens = int(line)
        if tokens not in steps:
            steps[tokens] = make(tokens)
            steps[tokens]()  # the first one makes buffers
        tries = [_timed(steps[tokens]) for _ in range(_TRIES.get(contender.kind, 1))]
        seconds = min(seconds for seconds, _ in tries) if contender.kind == "products" else tries[0][0]
        shares = [share for _, share in tries if share is not None]
        peak = peak_megabytes()
        answer = {"seconds": seconds, "driver_seconds": statistics.median(shares) if shares else None}
        print(json.dumps(answer | {"peak_megabytes": peak - base, "process_megabytes": peak}), flush=True)


if __name__ == "__main__":
    main()
