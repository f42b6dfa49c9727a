"""What `prge plan` does."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from prge.errors import UserError
from prge.quiet import quiet


def plan(model: str, memory: float, tokens: int, queries: int, batch: int, max_targets: int) -> dict[str, Any]:
    """`prge plan`; ``memory`` in bytes, of the whole process."""
    with quiet():
        from prge.export.plan import plan as fitting
        from prge.export.plan import planned
        from prge.models.checkpoints import load_sizes
        from prge.models.step import StepConfig

        sizes = load_sizes(model)
    try:
        manifest = planned(sizes, StepConfig(queries, batch), tokens, max_targets)
    except ValueError as e:
        raise UserError(f"{model}: {e}") from e
    # What a driver takes before it has loaded anything, measured here.
    code = (
        "from prge.cli import app; from prge.runtime_driver.program.step import runtime; from prge import memory; "
        "runtime(); print(memory.peak_megabytes())"
    )
    imports = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    return {
        "queries": queries,
        "batch": batch,
        "tokens": tokens,
        "imports_bytes": round(imports * 1e6),
        "rows": fitting(manifest, memory - imports * 1e6),
    }
