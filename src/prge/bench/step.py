"""`prge bench step`: seconds and memory of a step, against the machine's limits and what one would use instead."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from prge.bench.contenders import Contender
from prge.bench.machine import describe, names
from prge.bench.process import Process
from prge.commands.hooks import Hooks
from prge.commands.open import load
from prge.commands.plots import picture
from prge.cost import (
    frozen_multiply_adds,
    frozen_weight_bytes,
    inference_multiply_adds,
    multiply_adds,
    positions,
    weight_bytes,
)
from prge.errors import UserError
from prge.files.folders import new_folder
from prge.files.typed import to_json
from prge.manifest import Manifest
from prge.options import AnyPath, Option
from prge.quiet import quiet
from prge.runtime_driver.program.step import StepProgram

# (rows, size, depth, whether int8) of the chains of products that measure the machine's limits. The sizes are the
# fastest of those tried, 576 to 4,096. One row times a matrix that no cache holds measures how fast memory is read.
_CHAINS = {"f32": (256, 1024, 16, False), "int8": (256, 1024, 16, True), "bandwidth": (1, 4096, 4, False)}


def step(
    programs: Annotated[
        tuple[AnyPath, ...], Option("Programs; the first is what the others are set against.", argument=True)
    ],
    output: Annotated[AnyPath, Option("New folder for tables, picture and JSON.", ("--output", "-o"))],
    tokens: Annotated[tuple[int, ...], Option("Length T of the rows, once per length; default: 32.", least=2)] = (),
    rounds: Annotated[int, Option("Rounds; each times every contender once.", least=1)] = 7,
    peers: Annotated[
        Literal["all", "inference", "none"],
        Option("What else to measure; all: inference, the step and LoRA in PyTorch, ExecuTorch's training module."),
    ] = "all",
    threads: Annotated[int, Option("Threads of each contender; 0: its own default.", least=0)] = 0,
    runner: Annotated[
        str, Option('Also measure the native runner: "native" builds it, or give prge-run or its folder.')
    ] = "",
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Seconds and memory of a step, against this machine's limits and what you would use instead.

    Everything is timed in turn. Writes ``step.json``, ``step.md`` and ``step.png`` into ``output``.

    Raises:
        UserError: a length out of a program's bounds, two programs of one name, or a contender that fails.
    """
    output, paths, listener = Path(output), [Path(path) for path in programs], hooks.tell
    if len(set(paths)) < len(paths):
        raise UserError("a program is given twice")
    loaded = {path: load(path, first_run=True, hooks=hooks).manifest for path in paths}
    called = dict(zip(paths, names(paths), strict=True))
    lengths = lengths_of(tokens, loaded)
    with new_folder(output) as out, tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        listener("making programs to measure against")
        processes = _limits(Path(scratch))
        processes += [Process(called[path], Contender("program", str(path)), m) for path, m in loaded.items()]
        processes += [
            Process(f"frozen part of {called[path]}, once", Contender("frozen", str(path)), m)
            for path, m in loaded.items()
        ]
        if runner:
            from prge.bench.native import NativeProcess, find_runner

            found = find_runner(runner, Path(scratch) / "runner")
            for path, m in loaded.items():
                contender = Contender("native", str(path))
                processes.append(NativeProcess(f"{called[path]}, prge-run", contender, m, runner=found))
        if peers != "none":
            processes += _inference(loaded, called, Path(scratch))
        if peers == "all":
            processes += _training(loaded, called, lengths, Path(scratch))
        try:
            for process in processes:
                listener(f"loading {process.name}")
                process.contender = replace(process.contender, threads=threads)
                process.start()
            for number in range(rounds):
                for process in processes:
                    for length in lengths if process.manifest else [0]:
                        process.time(length)
                listener(f"round {number + 1} of {rounds}")
        finally:
            for process in processes:
                process.stop()
        limits = {p.name: _limit(p) for p in processes if not p.manifest}
        rows = [row(p, length, limits) for p in processes for length in lengths if p.manifest]
        report = {
            "machine": describe(threads),
            "limits": limits,
            "sizes": {called[path]: sizes(StepProgram(path)) for path in loaded},
            "rows": rows,
        }
        (out / "step.json").write_text(to_json(report, indent=1) + "\n", encoding="utf-8")
        (out / "step.md").write_text(markdown(report), encoding="utf-8")
        plot(out / "step.png", report)
    return report | {"picture": str(output / "step.png")}


def lengths_of(tokens: Sequence[int], loaded: dict[Path, Manifest]) -> list[int]:
    """The lengths to measure, which every program must take: those that are given, or 32."""
    lengths = sorted(set(tokens)) or [min(32, *(m.max_tokens for m in loaded.values()))]
    for path, m in loaded.items():
        for length in lengths:
            if not m.min_tokens <= length <= m.max_tokens:
                raise UserError(f"{path} takes {m.min_tokens} to {m.max_tokens} tokens, not {length}")
    return lengths


def _limits(scratch: Path) -> list[Process]:
    with quiet():
        from prge.bench.references import write_products

        for name, chain in _CHAINS.items():
            write_products(scratch / f"{name}.pte", *chain)
    return [
        Process(name, Contender("products", file=str(scratch / f"{name}.pte"), shape=(1, rows, size)), None)
        for name, (rows, size, _, _) in _CHAINS.items()
    ]


def _limit(process: Process) -> float:
    """GFLOP/s of products, or GB/s of matrices."""
    rows, size, depth, _ = _CHAINS[process.name]
    return (4.0 if rows == 1 else 2.0 * rows) * size * size * depth / min(process.seconds[0]) / 1e9


def _inference(loaded: dict[Path, Manifest], called: dict[Path, str], scratch: Path) -> list[Process]:
    from prge.bench.references import write_inference

    found: list[Process] = []
    for path, m in loaded.items():
        file = scratch / f"inference-{len(found)}.pte"
        write_inference(file, StepProgram(path))
        found.append(
            Process(f"inference as {called[path]}", Contender("inference", manifest=m.to_json(), file=str(file)), m)
        )
    return found


def _training(
    loaded: dict[Path, Manifest], called: dict[Path, str], lengths: Sequence[int], scratch: Path
) -> list[Process]:
    """Who else could make a step of the first program."""
    from prge.bench.references import write_training

    first, m = next(iter(loaded.items()))
    rival = "LoRA, AdamW, backpropagation"
    titles = {"eager": f"{called[first]} in PyTorch", "lora": rival, "lora-checkpointed": f"{rival}, checkpointed"}
    titles["training"] = "LoRA, SGD, ExecuTorch's training module"
    kinds = list(titles) if m.labels else ["eager"]
    if m.labels:
        for length in lengths:
            write_training(scratch / f"training-{length}.pte", m, length)
    pattern = str(scratch / "training-{tokens}.pte")
    return [Process(titles[kind], Contender(kind, str(first), m.to_json(), pattern), m) for kind in kinds]


def row(process: Process, tokens: int, limits: dict[str, float]) -> dict[str, Any]:
    """A report's row: what one contender took for T tokens, and its speed.

    ``seconds`` is the median of the rounds. ``multiply_adds`` is the work that the method needs, counted from the
    model's sizes. It is None for backpropagation, and where there is none: the frozen part may be the embedding alone.
    ``share_of_limit`` is None too where ``limits`` are not known, as on a phone.
    ``driver_seconds`` is the part of a step outside the runtime's execute: the batch and its rows, the guard, the
    journal's line and the snapshot.
    """
    m, kind, seconds = process.manifest, process.contender.kind, process.seconds[tokens]
    drivers = process.driver_seconds.get(tokens)
    assert m is not None
    median = statistics.median(seconds)
    is_step = kind in ("program", "native", "eager")
    needed, run = None, positions(m, tokens) * (m.executions if kind in ("program", "native") else 1)
    if kind == "frozen":
        needed, run = frozen_multiply_adds(m, m.batch, tokens), m.batch * tokens
    elif kind == "inference":
        needed = inference_multiply_adds(m, tokens)
    elif is_step:
        needed = multiply_adds(m, tokens)
    on_runtime = kind in ("program", "frozen", "native", "inference")
    held = m if on_runtime else replace(m, quantization="f32")
    below = frozen_weight_bytes(held)
    limit = limits.get("f32" if held.quantization == "f32" else "int8")
    speed = 2.0 * needed / median / 1e9 if needed else None
    return {
        "contender": process.name,
        "kind": kind,
        "quantization": held.quantization,
        "queries": m.queries if is_step else None,
        "batch": m.batch,
        "tokens": tokens,
        "positions": run if needed else None,
        "seconds": median,
        "least": min(seconds),
        "most": max(seconds),
        "driver_seconds": statistics.median(drivers) if drivers else None,
        "multiply_adds": needed,
        "gflops": speed,
        "share_of_limit": speed / limit if speed and limit else None,
        "peak_megabytes": process.megabytes[tokens],
        "process_megabytes": process.process_megabytes[tokens],
        "start_seconds": process.start_seconds,
        "weight_bytes": below if kind == "frozen" else weight_bytes(held) - below * is_step,
    }


def sizes(step: StepProgram) -> dict[str, float]:
    """Bytes of a program's two files, and of its weights alone."""
    size, held = step.path.stat().st_size + step.frozen_part().path.stat().st_size, weight_bytes(step.manifest)
    return {"program_bytes": size, "weight_bytes": held, "ratio": size / held}


def markdown(report: dict[str, Any]) -> str:
    """The report as tables in Markdown. The last column sets each contender against the first program."""
    limits, machine = report["limits"], report["machine"]
    lines = [", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    if limits:
        lines += [
            f"Products reach {limits['f32']:.0f} GFLOP/s in f32 and {limits['int8']:.0f} in int8; "
            f"matrices are read at {limits['bandwidth']:.0f} GB/s.",
            "",
        ]
    lines += [
        "| contender | q x B x T | seconds (least to most) | positions/s | GFLOP/s | of the limit | peak MB | times |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for r in report["rows"]:
        lines.append("| " + " | ".join(cells(r, report["rows"])) + " |")
    lines += ["", "| driver | T | start-up, s | step, s | driver's share, ms | process's peak, MB |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for r in report["rows"]:
        if r["kind"] in ("program", "native"):
            own = "" if r["driver_seconds"] is None else f"{1000 * r['driver_seconds']:.2f}"
            lines.append(
                f"| {r['contender']} | {r['tokens']} | {r['start_seconds']:.2f} | {r['seconds']:.3f} | {own} "
                f"| {r['process_megabytes']:,.0f} |"
            )
    lines += ["", "| program | bytes | of its weights alone |", "| --- | --- | --- |"]
    lines += [f"| {name} | {s['program_bytes']:,} | {s['ratio']:.3f} |" for name, s in report["sizes"].items()]
    return "\n".join(lines) + "\n"


def cells(r: dict[str, Any], rows: Sequence[dict[str, Any]]) -> list[str]:
    """A row of the table."""
    first = next(x for x in rows if x["tokens"] == r["tokens"])
    shape = " x ".join(str(x) for x in (r["queries"], r["batch"], r["tokens"]) if x is not None)
    counted = r["gflops"] is not None
    return [
        r["contender"],
        shape,
        f"{r['seconds']:.3f} ({r['least']:.3f} to {r['most']:.3f})",
        f"{r['positions'] / r['seconds']:,.0f}" if counted else "",
        f"{r['gflops']:.0f}" if counted else "",
        "" if r["share_of_limit"] is None else f"{r['share_of_limit']:.2f}",
        f"{r['peak_megabytes']:,.0f}",
        f"{r['seconds'] / first['seconds']:.2f}",
    ]


def plot(path: Path, report: dict[str, Any]) -> None:
    """Draw the roofline, and the seconds of every contender."""
    contenders = len({r["contender"] for r in report["rows"]})
    with picture(path, panels=2, height=max(4.5, 0.3 * contenders)) as (left, right):
        _roofline(left, report)
        _seconds(right, report["rows"])


def _roofline(axis: Any, report: dict[str, Any]) -> None:
    """GFLOP/s over floating-point operations per byte of weights, below the machine's limits."""
    limits = report["limits"]
    points = [r for r in report["rows"] if r["gflops"] is not None]
    reach = [2.0 * r["multiply_adds"] / r["weight_bytes"] for r in points]
    low, high = min(0.5, *reach), max(1000.0, *(2 * x for x in reach))
    for name, style in (("f32", "-"), ("int8", "--")):
        knee = limits[name] / limits["bandwidth"]
        x = [low, knee, max(high, 2 * knee)]
        y = [low * limits["bandwidth"], limits[name], limits[name]]
        axis.plot(x, y, style, color="gray", label=f"{name}, {limits[name]:.0f} GFLOP/s")
    for i, name in enumerate(dict.fromkeys(r["contender"] for r in points)):
        at = [(2.0 * r["multiply_adds"] / r["weight_bytes"], r["gflops"]) for r in points if r["contender"] == name]
        axis.plot(*zip(*at, strict=True), "o^sDv"[i // 10 % 5], color=f"C{i}", label=name)
    axis.set(xscale="log", yscale="log", xlabel="operations per byte of weights", ylabel="GFLOP/s")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")


def _seconds(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    """A bar for every contender and length, the first contender at the top."""
    lengths, contenders = sorted({r["tokens"] for r in rows}), list(dict.fromkeys(r["contender"] for r in rows))
    thick = 0.8 / len(lengths)
    for i, tokens in enumerate(lengths):
        at = [(contenders.index(r["contender"]) + (i - (len(lengths) - 1) / 2) * thick, r) for r in rows]
        bars = [(place, r["seconds"]) for place, r in at if r["tokens"] == tokens]
        places, seconds = zip(*bars, strict=True)
        drawn = axis.barh(places, seconds, height=thick, label=f"T = {tokens}")
        axis.bar_label(drawn, fmt=" %.3f", fontsize="small")
    axis.set(yticks=range(len(contenders)), yticklabels=contenders, xscale="log", xlabel="seconds")
    axis.margins(x=0.2)
    axis.invert_yaxis()
    axis.legend(fontsize="small")
