"""What `prge plan` does."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any

from prge.commands.export import usual
from prge.errors import UserError
from prge.manifest import ESTIMATES, Gradient
from prge.options import Option, parse_bytes
from prge.quiet import quiet


def parse_memory(text: str) -> float:
    """As `parse_bytes`; the message names the option."""
    try:
        return parse_bytes(text)
    except UserError as e:
        raise UserError(f"--memory {e}") from e


def plan(
    model: Annotated[str, Option("As for export; of a hub model the config alone is fetched.", argument=True)],
    memory: Annotated[
        float, Option("Memory of the device for the whole process, for example 1.5GB or 800MB.", parse=parse_memory)
    ],
    tokens: Annotated[int, Option("Longest row.", least=2)] = 128,
    gradient: Annotated[Gradient | None, Option("As for export.")] = None,
    queries: Annotated[
        int | None,
        Option("Random directions per step, of an estimate; default: as for export.", ("--queries", "-q"), least=1),
    ] = None,
    batch: Annotated[
        int | None, Option("Examples per step; default: as for export.", ("--batch", "-b"), least=1)
    ] = None,
    max_targets: Annotated[int, Option("Target tokens of an example; 0: label words.", least=0)] = 0,
) -> dict[str, Any]:
    """Which quantization and batch fit a memory, before anything is exported.

    Args:
        memory: of the whole process, in bytes.

    Returns:
        ``imports_bytes``, what Python, torch and the runtime take here; ``rows``, one for each quantization; and
        ``texts``, for how many of them the frozen layers' work is counted there.
    """
    with quiet():
        from prge.export.plan import TEXTS, planned
        from prge.export.plan import plan as fitting
        from prge.models.checkpoints import load_sizes
        from prge.models.step import StepConfig

        sizes = load_sizes(model)
    way, size = usual(0 if max_targets else 2, tokens, gradient)
    try:
        step = StepConfig(queries or (size if way in ESTIMATES else 1), batch or size, way)
        manifest = planned(sizes, step, tokens, max_targets)
    except ValueError as e:
        raise UserError(f"{model}: {e}") from e
    # What a driver takes before it has loaded anything, measured here.
    code = (
        "from prge.cli import app; from prge.runtime_driver.program.base import runtime; from prge import memory; "
        "runtime(); print(memory.peak_megabytes())"
    )
    imports = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    return {
        "gradient": way,
        "queries": step.queries,
        "batch": step.batch,
        "tokens": tokens,
        "imports_bytes": round(imports * 1e6),
        "texts": TEXTS,
        "rows": fitting(manifest, memory - imports * 1e6),
    }
