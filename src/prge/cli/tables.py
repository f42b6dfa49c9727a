"""Results that are more than a name and a value, as tables."""

from __future__ import annotations

import math
from typing import Any

from rich.text import Text

from prge.commands.compare import table_rows
from prge.commands.screen import columns, out, plain, show
from prge.manifest import ESTIMATES

Result = dict[str, Any]


def predicted(result: Result) -> None:
    """Of `prge predict`."""
    table = columns("label", "probability", "text")
    for p in result["predictions"]:
        table.add_row(Text(p["label"]), f"{p['probability']:.2f}", Text(p["text"]))
    out.print(table)


def tasks(result: Result) -> None:
    """Of `prge tasks`."""
    table = columns("task", "kind", "metrics", "data on the hub", "about")
    for name, task in result.items():
        table.add_row(name, task["kind"], ", ".join(task["metrics"]), task["hub"][0], task["about"])
    out.print(table)


def inspected(m: Result) -> None:
    """Of `prge inspect`: what most readers look for."""
    adapter, modules = m["adapter"], m["adapter"]["modules"]
    last = [module["name"].split(".")[-1] for module in modules]
    shown = {
        "model": m["model"],
        "quantization": m["quantization"],
        "bytes": m["bytes"],
        "objective": m["objective"] + (", chat" if m["chat_template"] else ", multiple choice" if m["choices"] else ""),
        **({"task": m["task"]} if m["task"] else {}),
        "template": m["template"] + (f" -> {m['target']}" if m["target"] else ""),
        "labels": ", ".join(f"{x['name']} ={x['word']}" for x in m["labels"]),
        **_gradient(m),
        "optimizer": m["optimizer"],
        "tokens": f"{m['min_tokens']} to {m['max_tokens']}" if m["min_tokens"] < m["max_tokens"] else m["max_tokens"],
        "adapter": f"rank {adapter['rank']}, alpha {adapter['alpha']:g}, subspace {adapter['subspace'] or 'none'}",
        "adapted": ", ".join(f"{last.count(name)} {name}" for name in dict.fromkeys(last)),
        "state": f"{m['state_size']:,} numbers",
        "lr": f"{m['lr']:g}",
    }
    show(shown, m["path"])


def _gradient(m: Result) -> Result:
    """How a program has its gradient, and on how many rows."""
    if m["gradient"] not in ESTIMATES:
        back = {"full": "back through all tokens", "exact": "along the target tokens' own path"}[m["gradient"]]
        return {"batch": m["batch"], "gradient": f"{m['gradient']}, {back}"}
    return {
        "queries x batch": f"{m['queries']} x {m['batch']} ({m['rows']} rows per execution)",
        "gradient": f"estimated by perturbed {m['gradient']}, {m['noise']} directions, eps {m['eps']:g}",
    }


def looked_at(result: Result) -> None:
    """Of `prge data`. The part of an example that is learned stands between double brackets."""
    lengths = result["lengths"]
    classes = [f"{name}: {n:,}" for name, n in sorted(result["classes"].items(), key=lambda item: -item[1])]
    shown = {
        "format": result["format"],
        **result["inferred"],
        "examples": result["examples"],
        "lengths": f"{lengths['median']:,} {lengths['unit']} by the median, at most {lengths['longest']:,}",
        "longest": lengths["where"],
        **({"of each class": ", ".join(classes[:20]) + (", ..." if classes[20:] else "")} if classes else {}),
    }
    show(shown, result["file"])
    for example in result["first"]:
        out.print(Text(f"\n{example['where']}; what is learned stands in [[ ]]:", style="dim"))
        out.print(Text(example["prompt"]).append(f"[[{example['learned']}]]", style="bold"))
    for title, lines in (
        ("Duplicates", result["duplicates"]), ("Rows", result["left_out"]), ("Worth knowing", result["notes"]),
        ("Unsure", result["unsure"]),
    ):  # fmt: skip
        if lines:
            out.print(Text("\n".join([f"\n{title}", *(f"  - {line}" for line in lines)])), soft_wrap=True)


def planned(result: Result) -> None:
    """Of `prge plan`."""
    queries, batch, imports = result["queries"], result["batch"], result["imports_bytes"]
    shape = f"q={queries} B={batch}" if result["gradient"] in ESTIMATES else f"B={batch}"
    table = columns("quantization", "program MB", "peak MB", f"{shape} fits", "largest B", "to export it: MB, minutes")
    for row in result["rows"]:
        once, steps = (f"{(row[name] + imports) / 1e6:,.0f}" for name in ("frozen_peak_bytes", "step_peak_bytes"))
        fits, largest = "yes" if row["fits"] else "no", str(row["largest_batch"] or "none")
        export = f"{row['export_peak_bytes'] / 1e6:,.0f}, {math.ceil(row['export_seconds'] / 60)}"
        program = f"{row['program_bytes'] / 1e6:,.0f}"
        table.add_row(row["quantization"], program, f"{once}, {steps}", fits, largest, export)
    out.print(table)
    row = result["rows"][0]
    work, once = row["multiply_adds"], row["frozen_multiply_adds"]
    out.print(f"peak MB: while the frozen layers run once, and of a step; {imports / 1e6:,.0f} of them are Python's")
    out.print(
        f"{result['texts']:,} texts of {result['tokens']} tokens: once the work of {once / work:,.0f} steps, and "
        f"{row['cache_bytes'] / 1e6:,.0f} MB of disk"
    )


def compared(result: Result) -> None:
    """Of `prge compare`."""
    table = columns("", *(run["folder"] for run in result["runs"]))
    for name, values in table_rows(result):
        table.add_row(name, *map(plain, values))
    out.print(table)
    if "picture" in result:
        out.print(result["picture"])
