"""`prge bench tasks`: one table over many tasks, of programs, PyTorch LoRA and a linear probe, run by run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from prge.bench.convergence import Curve, measure
from prge.bench.convergence import plot as plot_curves
from prge.bench.machine import describe
from prge.bench.runners import LORA, PROBE, PROGRAM, Examples, Run, read
from prge.bench.tasks_folder import Settings, read_curve, settle, write_json
from prge.bench.tasks_report import MAJORITY, ZERO_SHOT, TaskRuns, markdown, plot, rows_of, summary_of, target_of
from prge.commands.ask import settled
from prge.commands.export import standard
from prge.commands.fit import fit
from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.examples.detect import FormOptions
from prge.examples.read import has_part
from prge.examples.tasks import TASKS
from prge.files.checked import replace as replace_file
from prge.manifest import PROGRAM_FILE
from prge.options import AnyPath, Option
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.program.step import StepProgram

# Two to four classes, pairs, multiple choice, question answering and chat.
TEN = ("sst2", "mr", "ag_news", "cb", "rte", "mrpc", "qnli", "arc-easy", "squad", "self-instruct-chat")
# Of these, those that take minutes.
THREE = ("sst2", "ag_news", "arc-easy")

# The row of the default export.
DEFAULT = "prge"
# P-RGE's own protocol (arXiv 2409.15520): LoRA-FA, and q times B is 16.
PAPER = {
    f"paper-{q}x{b}": "--gradient weights --optimizer sgd --subspace none --layers : --rank 16 --alpha 32 "
    f"--queries {q} --batch {b}"
    for q, b in ((1, 16), (4, 4), (16, 1))
}
_TAKEN = (MAJORITY, ZERO_SHOT, PROBE, LORA, *PAPER)
_POINTS = 12


def tasks(
    data: Annotated[
        AnyPath,
        Option("A folder that holds a folder for each task, with a file for train and one for dev.", argument=True),
    ],
    output: Annotated[
        AnyPath,
        Option("Folder for programs, runs, tables and picture; the same command goes on in it.", ("-o", "--output")),
    ],
    model: Annotated[str, Option("A preset (smollm2-135m), folder, .gguf file or hub id.")] = "smollm2-135m",
    task: Annotated[
        tuple[str, ...], Option(f"A folder of DATA; default: {', '.join(TEN)}; with --short: {', '.join(THREE)}.")
    ] = (),
    variant: Annotated[
        tuple[str, ...],
        Option("NAME=OPTIONS: one more row, exported with these options of `prge export`, as 'wide=--rank 32'."),
    ] = (),
    paper: Annotated[
        bool,
        Option(
            "Three more rows, P-RGE's own settings: LoRA-FA of rank 16, with 1, 4 and 16 queries for each of 16, 4 and "
            "1 examples a step.",
            ("--paper",),
        ),
    ] = False,
    seeds: Annotated[int | None, Option("Seeds per method; default: 3, or 1 with --short.", least=1)] = None,
    examples: Annotated[int, Option("Use only the first N records for training.", least=1)] = 1000,
    dev_examples: Annotated[
        int | None, Option("Use only the first N records for dev; default: 500, or 200 with --short.", least=1)
    ] = None,
    max_tokens: Annotated[int, Option("Leave out examples with more tokens.", least=2)] = 192,
    steps: Annotated[int, Option("Steps of a program.", least=1)] = 300,
    lora_steps: Annotated[int, Option("Steps of PyTorch LoRA (AdamW, batch 16).", least=1)] = 100,
    lora_lr: Annotated[
        tuple[float, ...],
        Option("Learning rates of LoRA to choose from; default: 5e-4, 1e-3, 2e-3, or 1e-3 with --short."),
    ] = (),
    curve: Annotated[
        int | None,
        Option(
            "Dev examples for the points of the curve; the last point uses all; default: 200, or 50 with --short.",
            least=1,
        ),
    ] = None,
    short: Annotated[
        bool, Option("Three tasks, one seed, one learning rate of LoRA, fewer dev examples.", ("--short",))
    ] = False,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Many tasks: programs against PyTorch LoRA with AdamW, a linear probe, the majority class and no training.

    A task is a folder of DATA. If its name is one of `prge tasks`, its files are read as that task's; else their form
    is inferred. Every method of a task gets the same examples. Texts that are too long are left out.

    Writes ``tasks.json``, ``tasks.md`` and ``tasks.png`` into ``output`` whenever a task is done, and a picture of the
    task's curves into ``curves``. The programs are kept in ``programs`` and each run in ``runs``, so that a call that
    was stopped goes on where it stood, and tasks, seeds and variants can be added later.

    Returns:
        ``rows``, one per task and method, with medians over the seeds; ``summary``, one per method; ``picture``.

    Raises:
        UserError: a task's folder is missing, a program cannot be exported, a run failed, or ``output`` was made with
            other settings.
    """
    folder, found = Path(output), _folders(Path(data), task or (THREE if short else TEN))
    variants = _variants(variant) | (PAPER if paper else {})
    here = str(Path(model).resolve()) if Path(model).exists() else model
    settings = Settings(
        here, str(Path(data).resolve()), examples, dev_examples or (200 if short else 500), max_tokens, steps,
        lora_steps, curve or (50 if short else 200),
    )  # fmt: skip
    settle(folder, settings, variants)
    bench = _Bench(folder, settings, hooks)
    plans = []
    for done, path in enumerate(found):
        for i, (name, options) in enumerate(variants.items()):
            hooks.show("exporting", done * len(variants) + i, len(found) * len(variants), f"{path.name}, {name}")
            bench.export(path, name, options)
        plans.append(bench.plan(path, list(variants)))
    rates = tuple(dict.fromkeys(lora_lr)) or ((1e-3,) if short else (5e-4, 1e-3, 2e-3))
    count = seeds or (1 if short else 3)
    bench.total = sum(1 + count * (len(variants) + 1 + plan.labelled) + len(rates) - 1 for plan in plans)
    described = {"settings": asdict(settings), "variants": variants, "machine": describe(0)}
    results: list[TaskRuns] = []
    for plan in plans:
        results.append(TaskRuns(plan.name, plan.facts, list(bench.run(plan, count, rates))))
        result = _report(folder, results, described)
    return result


@dataclass(frozen=True)
class _Plan:
    """What runs for a task.

    Attributes:
        programs: by the name of their variant.
        labelled: whether it has label words, on which a probe can be fitted.
        facts: how many examples there are, and what the majority class reaches.
    """

    name: str
    programs: dict[str, Path]
    labelled: bool
    facts: dict[str, Any]


class _Bench:
    """Makes programs and runs in a folder; those that are there stay."""

    def __init__(self, folder: Path, settings: Settings, hooks: Hooks):
        self.folder, self.settings, self.hooks = folder, settings, hooks
        self.done = self.total = 0

    def export(self, data: Path, variant: str, options: str) -> None:
        """Export a task's program, by `prge export` itself."""
        program, s = self._program(data.name, variant), self.settings
        if (program / PROGRAM_FILE).is_file():
            return
        words = ["--task", data.name] if data.name in TASKS else []
        words += ["--max-tokens", str(self._longest(data)), *shlex.split(options), "-o", str(program), "--json"]
        command = [sys.executable, "-m", "prge", "export", s.model, "--data", str(data), *words]
        unbroken = os.environ | {"COLUMNS": "1000"}
        done = subprocess.run(command, capture_output=True, text=True, env=unbroken)
        if done.returncode:
            said = [line.strip("│ ") for line in done.stderr.splitlines() if any(map(str.isalpha, line))]  # in a frame
            raise UserError(f"{data.name}, {variant}: {said[-1] if said else 'the export failed'}")

    def _longest(self, data: Path) -> int:
        """The bound of tokens that `prge train` would give a task's program, or the settings' if that is less.

        A program takes memory for the longest row that it can be given. Of data that cannot be read without a variant's
        options, the settings' bound is taken; what is wrong with others is for the export to say.
        """
        asked = FormOptions(task=data.name if data.name in TASKS else None)
        source = Source(str(data), limit=self.settings.examples, truncate=True)
        try:
            form = settled(asked, data, Hooks()).form
            needed = fit(self.settings.model, form, standard, source, Hooks(), trains=True).config.max_tokens
        except UserError:
            return self.settings.max_tokens
        return min(self.settings.max_tokens, needed)

    def plan(self, data: Path, variants: Sequence[str]) -> _Plan:
        """What runs for a task; its examples are read and counted."""
        programs = {name: self._program(data.name, name) for name in variants}
        first = next(iter(programs.values()))
        manifest = StepProgram(first).manifest
        found = read(self._run(first, data), manifest)
        facts = {"train": len(found.train), "dev": len(found.dev), "left_out": found.left_out}
        return _Plan(data.name, programs, bool(manifest.labels), facts | {"majority": majority(found)})

    def run(self, plan: _Plan, seeds: int, rates: Sequence[float]) -> Iterator[Curve]:
        """Make a task's runs. Of LoRA's on seed 0 only those with the best learning rate are in the result."""
        first, *_ = plan.programs.values()
        base = self._run(first, Path(self.settings.data) / plan.name)
        yield self._curve(plan.name, ZERO_SHOT, replace(base, steps=0))
        lora = replace(base, method=LORA, steps=self.settings.lora_steps)
        best: Curve | None = None
        for seed in range(seeds):
            for name, program in plan.programs.items():
                yield self._curve(plan.name, name, replace(base, program=str(program), seed=seed))
            lrs = [lr for lr in rates if best is None or lr == best.run.lr]
            rivals = [self._curve(plan.name, LORA, replace(lora, lr=lr, seed=seed)) for lr in lrs]
            sign = 1 if rivals[0].metric == "accuracy" else -1
            rival = max(rivals, key=lambda c: sign * c.last)
            best = best or rival
            yield rival
            if plan.labelled:
                yield self._curve(plan.name, PROBE, replace(base, method=PROBE, steps=1, seed=seed))

    def _program(self, task: str, variant: str) -> Path:
        return self.folder / "programs" / f"{task}-{variant}"

    def _run(self, program: Path, data: Path) -> Run:
        """A program's run on seed 0."""
        s = self.settings
        return Run(
            PROGRAM, str(program), s.steps, None, 0, str(data), s.examples, str(data), s.curve, _POINTS, s.dev_examples
        )

    def _curve(self, task: str, name: str, run: Run) -> Curve:
        """A run that was made before, or is made now."""
        rate = f"-{run.lr:g}" if run.lr else ""
        path = self.folder / "runs" / f"{task}-{name}{rate}-seed{run.seed}.json"
        about = f"{task}, {name}{rate}, seed {run.seed}"
        if path.is_file():
            curve = read_curve(path)
        else:
            self.hooks.show("runs", self.done, self.total, about)
            curve = measure(name, run, lambda text: self.hooks.show("runs", self.done, self.total, f"{task}, {text}"))
            write_json(path, asdict(curve))
            self.hooks.tell(f"{about}: {curve.metric} {curve.last:.3f} after {curve.points[-1]['seconds']:.0f} s")
            if curve.stopped:
                self.hooks.tell(f"{about} gave up there: {curve.stopped}")
        self.done += 1
        self.hooks.show("runs", self.done, self.total, about)
        return curve


def _report(folder: Path, tasks: Sequence[TaskRuns], described: dict[str, Any]) -> dict[str, Any]:
    """Write tables and picture of the tasks that are done; returns what the command does."""
    rows = [row for task in tasks for row in rows_of(task)]
    result = {"rows": rows, "summary": summary_of(rows)}
    every = {task.name: {**task.facts, "curves": [asdict(c) for c in task.curves]} for task in tasks}
    write_json(folder / "tasks.json", described | result | {"tasks": every})
    page = markdown(tasks, result["summary"], described["settings"]["model"], described["machine"])
    replace_file(folder / "tasks.md", page.encode())
    plot(folder / "tasks.png", rows)
    trained = [curve for curve in tasks[-1].curves if curve.name != ZERO_SHOT]
    plot_curves(folder / "curves" / f"{tasks[-1].name}.png", trained, target_of(tasks[-1]))
    return result | {"picture": str(folder / "tasks.png")}


def majority(examples: Examples) -> float | None:
    """The accuracy on dev of the training set's most frequent class (or place among the choices); None for text."""
    counts = Counter(e.label for e in examples.train if e.label >= 0)
    if not counts:
        return None
    most = counts.most_common(1)[0][0]
    return sum(e.label == most for e in examples.dev) / len(examples.dev)


def _folders(data: Path, names: Sequence[str]) -> list[Path]:
    """The tasks' folders.

    Raises:
        UserError: one is missing, or lacks a file for train or for dev.
    """
    if not data.is_dir():
        raise UserError(f"{data} is no folder; give one that holds a folder for each task")
    there = sorted(path.name for path in data.iterdir() if path.is_dir())
    if not there:
        raise UserError(f"{data} holds no folders; put each task's files into a folder of its own, as {data}/sst2")
    missing = [name for name in names if name not in there]
    if missing:
        raise UserError(
            f"{data} has no folder for {', '.join(missing)}; it has {', '.join(there)}: choose among them with --task"
        )
    found = [data.resolve() / name for name in dict.fromkeys(names)]
    for path in found:
        for part in ("train", "dev"):
            if not has_part(path, part):
                raise UserError(f"{path} holds no file for {part}, or several; put one there, as {path}/{part}.jsonl")
    return found


def _variants(given: Sequence[str]) -> dict[str, str]:
    """Options of the export by the row's name: the default's, which are none, and those that were given."""
    found = {DEFAULT: ""}
    for text in given:
        name, equals, options = text.partition("=")
        if not equals or not re.fullmatch(r"[\w.-]+", name) or name in _TAKEN:
            taken = ", ".join(_TAKEN)
            raise UserError(f"--variant {text!r}: write NAME=OPTIONS, as 'wide=--rank 32'; not named {taken}")
        try:
            shlex.split(options)
        except ValueError as e:
            raise UserError(f"--variant {text!r}: {e}") from e
        found[name] = options
    return found
