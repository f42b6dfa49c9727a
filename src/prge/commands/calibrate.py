"""What `prge calibrate` does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prge.commands.hooks import Hooks
from prge.commands.open import DataPath, ProgramPath, Tokenizer, Truncate, load
from prge.commands.plots import plot_calibration
from prge.errors import UserError
from prge.options import AnyPath, Option
from prge.runtime_driver.loop.calibrate import calibrate as measure


def calibrate(
    program: ProgramPath,
    data: DataPath = None,
    output: Annotated[AnyPath | None, Option("A PNG of what was measured.", ("--output", "-o"))] = None,
    examples: Annotated[int | None, Option("Use only the first N examples of --data.", least=1)] = None,
    minutes: Annotated[
        float | None, Option("Time for training, in minutes; also proposes the number of steps.", least=0.1)
    ] = None,
    megabytes: Annotated[
        float | None, Option("Memory that training may take, in MB; bounds the proposed batch.", least=1)
    ] = None,
    truncate: Truncate = False,
    tokenizer: Tokenizer = None,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Measure the estimate's quality on this data, and propose eps, lr, q and B."""
    loaded = load(program, tokenizer=tokenizer, truncate=truncate, first_run=True, hooks=hooks)
    texts = loaded.examples(data, examples)
    with loaded.kept(texts):
        found = measure(loaded, texts, lambda text: hooks.show("calibrating", 0, None, text))
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
        bound = found.largest_batch(m, megabytes)
        if bound < 1:
            raise UserError(f"{megabytes:g} MB do not hold one example of this program; its weights alone take more")
        result["proposed"]["batch"] = min(found.batch, bound)
    if minutes is not None:
        share = result["proposed"]["batch"] / found.batch
        result["proposed"]["steps"] = int(minutes * 60 / found.seconds_per_step / share)
    if output is not None:
        plot_calibration(Path(output), found)
        result["picture"] = str(output)
    return result
