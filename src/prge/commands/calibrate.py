"""What `prge calibrate` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from prge.commands.open import open_program
from prge.commands.plots import plot_calibration
from prge.commands.screen import progress_bar
from prge.errors import UserError
from prge.memory import return_freed
from prge.runtime_driver.loop.calibrate import calibrate as measure


def calibrate(
    program: Path, data: Path | None, output: Path | None, *, limit: int | None, minutes: float | None,
    megabytes: float | None, truncate: bool, tokenizer: Path | None, console: Console | None,
) -> dict[str, Any]:  # fmt: skip
    """`prge calibrate`."""
    loaded, encoder = open_program(program, tokenizer, truncate)
    examples = encoder.examples(data, limit)
    del encoder
    return_freed()
    with progress_bar(console) as progress:
        bar = progress.add_task("calibrating", total=None, note="")
        found = measure(loaded, examples, lambda text: progress.update(bar, note=text))
    m = loaded.manifest
    result: dict[str, Any] = {
        "eps": found.eps,
        "lr": found.lr,
        "correlation_with_exact": {f"{eps:g}": correlation for eps, correlation in found.by_eps},
        "shares": {
            "signal": found.signal,
            "noise of directions": found.directions,
            "noise of examples": found.examples,
        },
        "seconds_per_step": found.seconds_per_step,
        "exported": {"queries": m.queries, "batch": m.batch},
        "proposed": {"queries": found.queries, "batch": found.batch},
    }
    if megabytes is not None:
        bound = found.largest_batch(megabytes)
        if bound < 1:
            raise UserError(f"{megabytes:g} MB do not hold one example of this program; its weights alone take more")
        result["proposed"]["batch"] = min(found.batch, bound)
    if minutes is not None:
        share = result["proposed"]["batch"] / found.batch
        result["proposed"]["steps"] = int(minutes * 60 / found.seconds_per_step / share)
    if output is not None:
        plot_calibration(output, found)
        result["picture"] = str(output)
    return result
