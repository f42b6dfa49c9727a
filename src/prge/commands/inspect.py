"""What `prge inspect` does."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prge.runtime_driver.program.step import StepProgram


def inspect(program: Path, full: bool) -> dict[str, Any]:
    """`prge inspect`; ``full`` gives the whole manifest."""
    loaded = StepProgram(program)
    m = loaded.manifest
    if full:
        return {"path": str(loaded.path), "bytes": loaded.path.stat().st_size, **asdict(m)}
    last = [module.name.split(".")[-1] for module in m.adapter.modules]
    return {
        "model": m.model,
        "quantization": m.quantization,
        "bytes": loaded.path.stat().st_size,
        "objective": m.objective + (", chat" if m.chat_template else ", multiple choice" if m.choices else ""),
        **({"task": m.task} if m.task else {}),
        "template": m.template + (f" -> {m.target}" if m.target else ""),
        "labels": ", ".join(f"{x.name} ={x.word}" for x in m.labels),
        "queries x batch": f"{m.queries} x {m.batch} ({m.rows} rows per execution)",
        "estimator": f"perturbed {m.perturb}, {m.noise} directions, {m.optimizer}",
        "tokens": f"{m.min_tokens} to {m.max_tokens}" if m.min_tokens < m.max_tokens else m.max_tokens,
        "adapter": f"rank {m.adapter.rank}, alpha {m.adapter.alpha:g}, subspace {m.adapter.subspace or 'none'}",
        "adapted": ", ".join(f"{last.count(name)} {name}" for name in dict.fromkeys(last)),
        "state": f"{m.state_size:,} numbers",
        "eps, lr": f"{m.eps:g}, {m.lr:g}",
    }
