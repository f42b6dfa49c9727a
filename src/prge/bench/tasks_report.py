"""What `prge bench tasks` found: rows by task and method, what they come to, tables and a picture."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

from prge.bench.convergence import Curve
from prge.bench.runners import LORA, PROBE
from prge.commands.plots import picture

MAJORITY, ZERO_SHOT = "majority", "zero-shot"
# The share of LoRA's gain that a method's time is measured to.
SHARE = 0.95

Row = dict[str, Any]


@dataclass(frozen=True)
class TaskRuns:
    """A task's runs.

    Attributes:
        facts: ``train``, ``dev`` and ``left_out``, numbers of examples; ``majority``, an accuracy or None.
        curves: the untrained program's first, then all methods' by seed.
    """

    name: str
    facts: dict[str, Any]
    curves: list[Curve]


def rows_of(task: TaskRuns) -> list[Row]:
    """A row per method of a task, with medians over its seeds.

    ``score`` is the last point's accuracy or loss, ``scores`` each seed's, and ``best`` the best point's.
    ``seconds_to_target`` is the time to `SHARE` of LoRA's gain over the untrained program. It is None where half of
    the seeds did not get there, or LoRA gained nothing.
    """
    metric, target = task.curves[0].metric, target_of(task)
    rows: list[Row] = []
    if task.facts["majority"] is not None:
        scores = [task.facts["majority"]]
        rows.append(_row(task.name, metric, MAJORITY, scores, scores))
    for name in dict.fromkeys(c.name for c in task.curves):
        runs = [c for c in task.curves if c.name == name]
        row = _row(task.name, metric, name, [c.last for c in runs], [c.best for c in runs])
        if name != ZERO_SHOT:
            times = [None if target is None else c.seconds_to(target) for c in runs]
            reached = statistics.median(inf if t is None else t for t in times)
            row["seconds_to_target"] = reached if isfinite(reached) else None
            row["seconds"] = statistics.median(c.points[-1]["seconds"] for c in runs)
            row["peak_megabytes"] = statistics.median(c.peak_megabytes for c in runs)
            if name != PROBE:
                row["seconds_per_step"] = statistics.median(c.seconds_per_step for c in runs)
        rows.append(row)
    return rows


def _row(task: str, metric: str, method: str, scores: list[float], best: list[float]) -> Row:
    return {
        "task": task, "metric": metric, "method": method, "score": statistics.median(scores), "scores": scores,
        "best": statistics.median(best), "seconds_to_target": None, "seconds": None, "seconds_per_step": None,
        "peak_megabytes": None,
    }  # fmt: skip


def target_of(task: TaskRuns) -> float | None:
    """The score at `SHARE` of LoRA's gain over the untrained program; None where LoRA gained nothing."""
    before = next(c.last for c in task.curves if c.name == ZERO_SHOT)
    after = statistics.median(c.last for c in task.curves if c.name == LORA)
    gained = after > before if task.curves[0].metric == "accuracy" else after < before
    return before + SHARE * (after - before) if gained else None


def summary_of(rows: Sequence[Row]) -> list[Row]:
    """A row per method, over the tasks.

    - ``accuracy`` and ``loss``: the means over the tasks that are scored so; None for a method that some of them lack.
    - ``lowest``: the accuracy of the task on which it is farthest below LoRA's, less LoRA's.
    - ``seconds_to_target``, ``seconds_per_step`` and ``peak_megabytes``: the median of the ratios to LoRA's. A task
      whose target LoRA reaches and the method does not counts as infinite, and gives None as the median.
    """
    lora = {row["task"]: row for row in rows if row["method"] == LORA}
    found = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = {row["task"]: row for row in rows if row["method"] == method}
        gaps = [row["score"] - lora[t]["score"] for t, row in own.items() if row["metric"] == "accuracy"]
        line: Row = {"method": method, "tasks": len(own)}
        for metric in ("accuracy", "loss"):
            tasks = [t for t, row in lora.items() if row["metric"] == metric]
            whole = bool(tasks) and all(t in own for t in tasks)
            line[metric] = statistics.mean(own[t]["score"] for t in tasks) if whole else None
        line["lowest"] = min(gaps) if gaps else None
        for name in ("seconds_to_target", "seconds_per_step", "peak_megabytes"):
            pairs = [(row[name], lora[t][name]) for t, row in own.items() if lora[t][name]]
            trained = any(row["seconds"] is not None for row in own.values())
            ratio = statistics.median(inf if a is None else a / b for a, b in pairs) if pairs and trained else inf
            line[name] = ratio if isfinite(ratio) else None
        found.append(line)
    return found


def score_cells(rows: Sequence[Row], summary: Sequence[Row]) -> Iterator[list[str]]:
    """A table's lines of text: a head, a line per task with every method's score, and the means."""
    methods = [line["method"] for line in summary]
    yield ["task", "metric", *methods]
    for task in dict.fromkeys(row["task"] for row in rows):
        own = {row["method"]: row for row in rows if row["task"] == task}
        yield [task, own[LORA]["metric"], *(_number(own.get(name, {}).get("score")) for name in methods)]
    for metric in ("accuracy", "loss"):
        means = [_number(line[metric]) for line in summary]
        if any(means):
            yield ["mean", metric, *means]
    yield ["worst task, less LoRA's", "accuracy", *(_number(line["lowest"]) for line in summary)]


def cost_cells(rows: Sequence[Row], summary: Sequence[Row]) -> Iterator[list[str]]:
    """A table's lines of text: a head, what each method of each task cost, and the medians of the ratios to LoRA's."""
    yield ["task", "method", "best point", f"seconds to {SHARE:.0%}", "seconds", "per step", "peak MB"]
    for r in rows:
        if r["seconds"] is not None:
            reached = "not reached" if r["seconds_to_target"] is None else f"{r['seconds_to_target']:.0f}"
            per_step, peak = _number(r["seconds_per_step"]), f"{r['peak_megabytes']:,.0f}"
            yield [r["task"], r["method"], _number(r["best"]), reached, f"{r['seconds']:.0f}", per_step, peak]
    for line in summary:
        if line["peak_megabytes"] is not None and line["method"] != LORA:
            reached = _ratio(line["seconds_to_target"]) or "not reached"
            ratios = [reached, "", _ratio(line["seconds_per_step"]), _ratio(line["peak_megabytes"])]
            yield ["median, of LoRA's", line["method"], "", *ratios]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def markdown(tasks: Sequence[TaskRuns], summary: Sequence[Row], model: str, machine: dict[str, str | int]) -> str:
    """The tables in Markdown."""
    rows = [row for each in tasks for row in rows_of(each)]
    seeds = max(len(row["scores"]) for row in rows)
    counts = [["task", "train", "dev", "too long, left out"]]
    counts += [[t.name, *(f"{t.facts[name]:,}" for name in ("train", "dev", "left_out"))] for t in tasks]
    lines = [
        f"{model}; " + ", ".join(f"{name} {value}" for name, value in machine.items() if value),
        "",
        f"Medians of {seeds} seed{'s' * (seeds > 1)}: accuracy (higher is better) or held-out loss (lower is better) "
        "after the last step.",
        "",
        *_table(score_cells(rows, summary)),
        "",
        f"Seconds of training until {SHARE:.0%} of LoRA's gain over zero-shot, seconds in all and per step, and peak "
        "megabytes above the imports. The best point is chosen by dev; all points but the last are of a part of it.",
        "",
        *_table(cost_cells(rows, summary)),
        "",
        *_table(counts),
    ]
    return "\n".join(lines) + "\n"


def _table(cells: Iterator[list[str]] | list[list[str]]) -> Iterator[str]:
    head, *lines = cells
    for line in (head, ["---"] * len(head), *lines):
        yield f"| {' | '.join(line)} |"


def plot(path: Path, rows: Sequence[Row]) -> None:
    """Draw bars by task, a color for each method, and a dot for each seed; accuracies left, losses right."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    metrics = [name for name in ("accuracy", "loss") if any(row["metric"] == name for row in rows)]
    with picture(path, len(metrics)) as axes:
        for metric, axis in zip(metrics, [axes] if len(metrics) == 1 else axes, strict=True):
            shown = [row for row in rows if row["metric"] == metric]
            tasks = list(dict.fromkeys(row["task"] for row in shown))
            there = [method for method in methods if any(row["method"] == method for row in shown)]
            width = 0.8 / len(there)
            for i, method in enumerate(there):
                own = [row for row in shown if row["method"] == method]
                at = [tasks.index(row["task"]) + (i + 0.5) * width - 0.4 for row in own]
                axis.bar(at, [row["score"] for row in own], width, color=f"C{methods.index(method)}", label=method)
                dots = [(x, score) for x, row in zip(at, own, strict=True) for score in row["scores"]]
                if any(len(row["scores"]) > 1 for row in own):
                    axis.plot(*zip(*dots, strict=True), ".", color="black", markersize=3)
            axis.set_xticks(range(len(tasks)), tasks, rotation=20, ha="right")
            axis.set_ylabel("dev accuracy" if metric == "accuracy" else "held-out loss")
            axis.set_ylim(0, 1 if metric == "accuracy" else None)
        (axes if len(metrics) == 1 else axes[0]).legend(
            ncols=len(methods), fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0)
        )
