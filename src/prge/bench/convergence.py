"""`prge bench convergence`: accuracy over time, of programs and of PyTorch LoRA with AdamW, which run in turn."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from prge.bench.machine import names
from prge.bench.runners import LORA, PROGRAM, Run
from prge.commands.hooks import Hooks
from prge.commands.open import load
from prge.commands.plots import picture
from prge.errors import UserError
from prge.files.folders import new_folder
from prge.files.typed import to_json
from prge.options import AnyPath, Option
from prge.runtime_driver.program.step import StepProgram


@dataclass
class Curve:
    """One run.

    Attributes:
        points: ``seconds`` of training, ``steps``, ``loss``, and ``accuracy`` where there is a choice. The last one's
            are of the whole dev set, the others' of a part.
        peak_megabytes: above the imports.
        left_out: examples that are longer than the program takes, of both sets.
        stopped: why the run gave up before its last step; empty if it did not.
    """

    name: str
    run: Run
    points: list[dict[str, Any]] = field(default_factory=list)
    seconds_per_step: float = 0.0
    peak_megabytes: float = 0.0
    left_out: int = 0
    stopped: str = ""

    @property
    def metric(self) -> str:
        """What the run is scored by: ``accuracy`` where there is a choice, else ``loss``."""
        return "accuracy" if "accuracy" in self.points[-1] else "loss"

    @property
    def last(self) -> float:
        """The last point's accuracy or loss."""
        return float(self.points[-1][self.metric])

    @property
    def best(self) -> float:
        """The best point's."""
        best = max if self.metric == "accuracy" else min
        return float(best(p[self.metric] for p in self.points))

    def seconds_to(self, target: float) -> float | None:
        """Seconds of training until the first point that is at least as good; None if there is none."""
        sign = 1 if self.metric == "accuracy" else -1
        return next((p["seconds"] for p in self.points if sign * p[self.metric] >= sign * target), None)


def measure(name: str, run: Run, listener: Callable[[str], None]) -> Curve:
    """Make one run in a process of its own.

    Raises:
        UserError: it failed, with the last line that it wrote.
    """
    command = [sys.executable, "-m", "prge.bench.runners"]
    # Its stderr goes to a file. It would wait for ever to write into a full pipe that nobody reads.
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps(asdict(run)))
        process.stdin.close()
        curve = Curve(name, run)
        for text in process.stdout:
            line = json.loads(text)
            if "steps" in line:
                curve.points.append(line)
                listener(f"{name}, seed {run.seed}: step {line['steps']}, {curve.metric} {curve.last:.3f}")
            else:
                curve.seconds_per_step, curve.peak_megabytes = line["seconds_per_step"], line["peak_megabytes"]
                curve.left_out, curve.stopped = line["left_out"], line["stopped"]
        if process.wait():
            stderr.seek(0)
            said = stderr.read().strip().splitlines()
            raise UserError(f"{name} failed: {said[-1] if said else process.returncode}")
    if curve.stopped:
        listener(f"{name}, seed {run.seed} gave up: {curve.stopped}")
    return curve


def convergence(
    programs: Annotated[
        tuple[AnyPath, ...], Option("Programs; the first one's time is the others' budget.", argument=True)
    ],
    data: Annotated[AnyPath, Option("Examples to train on.")],
    dev: Annotated[AnyPath, Option("Examples to evaluate on.")],
    output: Annotated[AnyPath, Option("New folder for table, picture and JSON.", ("--output", "-o"))],
    examples: Annotated[int | None, Option("Use only the first N examples of --data.", least=1)] = None,
    seeds: Annotated[int, Option("Seeds per method.", least=1)] = 3,
    steps: Annotated[int, Option("Steps of the first program.", least=1)] = 300,
    lora_steps: Annotated[int, Option("Steps of PyTorch LoRA (AdamW, batch 16).", least=1)] = 100,
    lora_lr: Annotated[tuple[float, ...], Option("Learning rates of LoRA to choose from.")] = (5e-4, 1e-3, 2e-3),
    target: Annotated[float, Option("Accuracy to measure the time to.", least=0, most=1)] = 0.8,
    curve: Annotated[int, Option("Dev examples for the points of the curve; the last point uses all.", least=1)] = 300,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Accuracy over wall-clock time: programs against PyTorch LoRA with AdamW on this machine.

    Writes ``convergence.json``, ``convergence.md`` and ``convergence.png`` into ``output``.

    The first program runs ``steps`` steps; others get the time that it took. LoRA's lr is the
    one of ``lora_lr`` with the best last accuracy on seed 0. Examples that are longer than a program takes are left
    out.
    """
    output, paths, listener = Path(output), [Path(path) for path in programs], hooks.tell
    for path in paths:
        m = load(path, first_run=True, hooks=hooks).manifest
        if not (m.labels or m.choices):
            raise UserError(f"{path} learns text and has no accuracy; `prge bench tasks` compares losses on texts")
    with new_folder(output) as out:
        first = Run(
            method=PROGRAM, program=str(paths[0]), steps=steps, lr=None, seed=0, data=str(data),
            examples=examples, dev=str(dev), curve=curve, points=12,
        )  # fmt: skip
        lora = replace(first, method=LORA, steps=lora_steps)
        curves: list[Curve] = []
        called = names(paths)
        best: float | None = None
        for seed in range(seeds):
            ours = measure(called[0], replace(first, seed=seed), listener)
            curves.append(ours)
            if ours.left_out and not seed:
                listener(f"{ours.left_out} examples are longer than {called[0]} takes, and were left out")
            budget = ours.points[-1]["seconds"]
            lrs: Sequence[float] = lora_lr if best is None else [best]
            rivals = [measure(f"{LORA} lr {lr:g}", replace(lora, seed=seed, lr=lr), listener) for lr in lrs]
            if rivals:
                best = max(rivals, key=lambda c: c.last).run.lr
            curves += rivals
            for path, name in zip(paths[1:], called[1:], strict=True):
                other = replace(first, program=str(path), seed=seed)
                pace = measure(name, replace(other, steps=3, lr=0.0), lambda _: None).seconds_per_step
                curves.append(measure(name, replace(other, steps=max(1, round(budget / pace))), listener))
        kept = [c for c in curves if c.run.method != LORA or c.run.lr == best]
        rows = table(kept, target)
        result = {"target": target, "rows": rows, "curves": [asdict(c) for c in curves]}
        (out / "convergence.json").write_text(to_json(result, indent=1) + "\n", encoding="utf-8")
        (out / "convergence.md").write_text(markdown(rows, target, StepProgram(paths[0])), encoding="utf-8")
        plot(out / "convergence.png", kept, target)
    return {"target": target, "rows": rows, "picture": str(output / "convergence.png")}


def table(curves: Sequence[Curve], target: float) -> list[dict[str, Any]]:
    """A row per method: medians over its seeds. Time to the target is None unless every run reached it."""
    rows = []
    for name in dict.fromkeys(c.name for c in curves):
        runs = [c for c in curves if c.name == name]
        reached = [c.seconds_to(target) for c in runs]
        times = [t for t in reached if t is not None]
        rows.append(
            {
                "method": name,
                "seeds": len(runs),
                "seconds_to_target": statistics.median(times) if len(times) == len(runs) else None,
                "final_accuracy": statistics.median(c.last for c in runs),
                "seconds": statistics.median(c.points[-1]["seconds"] for c in runs),
                "seconds_per_step": statistics.median(c.seconds_per_step for c in runs),
                "peak_megabytes": statistics.median(c.peak_megabytes for c in runs),
            }
        )
    return rows


def markdown(rows: Sequence[dict[str, Any]], target: float, program: StepProgram) -> str:
    """The table in Markdown."""
    m = program.manifest
    lines = [
        f"{m.model}, {m.quantization}, template `{m.template}`",
        "",
        f"| method | seeds | seconds to {target:g} | final accuracy | seconds | per step | peak MB above imports |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in rows:
        reached = "not reached" if r["seconds_to_target"] is None else f"{r['seconds_to_target']:.0f}"
        lines.append(
            f"| {r['method']} | {r['seeds']} | {reached} | {r['final_accuracy']:.3f} | {r['seconds']:.0f} "
            f"| {r['seconds_per_step']:.3f} | {r['peak_megabytes']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def plot(path: Path, curves: Sequence[Curve], target: float | None) -> None:
    """Draw accuracy, or loss, over seconds of training: a color for each method, a line for each seed.

    Args:
        target: where to draw a line across; None for nowhere.
    """
    metric = curves[0].metric
    with picture(path) as axis:
        for i, name in enumerate(dict.fromkeys(c.name for c in curves)):
            for j, c in enumerate(c for c in curves if c.name == name):
                label = name if j == 0 else None
                x, y = [p["seconds"] for p in c.points], [p[metric] for p in c.points]
                axis.plot(x, y, ".-", color=f"C{i}", label=label, linewidth=1)
        if target is not None:
            axis.axhline(target, color="gray", linestyle=":", linewidth=1)
        axis.set(xlabel="seconds of training", ylabel=f"dev {metric}")
        axis.legend()
