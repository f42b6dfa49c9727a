"""What `prge compare` does: sets runs side by side, from their folders."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from prge.commands.plots import plot_runs, running_mean
from prge.errors import UserError
from prge.lora import CONFIG_FILE as ADAPTER_CONFIG
from prge.lora import Lora, adapter_folder, read_lora
from prge.options import AnyPath, Option
from prge.runtime_driver.run.folder import LOG_FILE, read_config, read_log


def compare(
    runs: Annotated[tuple[AnyPath, ...], Option("Two or more run folders.", argument=True)],
    output: Annotated[AnyPath | None, Option("A PNG of all runs' losses.", ("--output", "-o"))] = None,
) -> dict[str, Any]:
    """Runs side by side: settings that differ, losses, time, and how alike the adapters' updates are.

    Returns:
        ``runs``: of each, folder, program, base, steps, ``seconds_per_step`` (median), ``first_loss`` and
        ``last_loss`` (a running mean over about 20 steps), ``dev_loss`` and ``dev_accuracy`` (the last ones);
        ``settings``: those that differ, with each run's value; ``cosine``: of the weight updates of every
        two runs, None where their bases differ or one has no adapter.

    Raises:
        UserError: fewer than two, or a folder without a run of at least one step.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise UserError("give at least two run folders to compare")
    read = [_read(folder) for folder in folders]
    flat = [dict(_flat({k: v for k, v in config.items() if k not in _SHOWN})) for config, _ in read]
    names = dict.fromkeys(name for settings in flat for name in settings)
    settings = {name: [each.get(name) for each in flat] for name in names}
    adapters = [_adapter(folder) for folder in folders]
    result = {
        "runs": [_summary(folder, *run) for folder, run in zip(folders, read, strict=True)],
        "settings": {name: values for name, values in settings.items() if any(v != values[0] for v in values)},
        "cosine": [[_cosine(a, b) for b in adapters] for a in adapters],
    }
    if output is not None:
        plot_runs(Path(output), {str(folder): log for folder, (_, log) in zip(folders, read, strict=True)})
        result["picture"] = str(output)
    return result


# Left out of the settings: `_summary` has them, or they are digests.
_SHOWN = ("program", "base", "base_sha256", "adapter_sha256")


def table_rows(result: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """The rows of a table of what `compare` found: a name, and a value for each run."""
    runs = result["runs"]
    for name in runs[0]:
        if name != "folder":
            yield name.replace("_", " "), [run[name] for run in runs]
    yield from result["settings"].items()
    for run, row in list(zip(runs, result["cosine"], strict=True))[:-1]:
        yield f"update's cosine with {run['folder']}", row


def _read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    config, log = read_config(folder), read_log(folder)
    if not log:
        raise UserError(f"{folder / LOG_FILE} holds no step")
    return config, log


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _summary(folder: Path, config: dict[str, Any], log: list[dict[str, Any]]) -> dict[str, Any]:
    losses = running_mean([row["loss"] for row in log])
    dev: dict[str, float] = next((row["dev"] for row in reversed(log) if "dev" in row), {})
    return {
        "folder": str(folder),
        "program": config.get("program"),
        "base": config.get("base"),
        "steps": len(log),
        "seconds_per_step": statistics.median(row["seconds"] for row in log),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "dev_loss": dev.get("loss"),
        "dev_accuracy": dev.get("accuracy"),
    }


def _adapter(folder: Path) -> Lora | None:
    adapter = adapter_folder(folder)
    return read_lora(adapter) if (adapter / ADAPTER_CONFIG).is_file() else None


def _cosine(one: Lora | None, other: Lora | None) -> float | None:
    if one is None or other is None or one.base_sha256 != other.base_sha256:
        return None
    lengths = (_product(one, one) * _product(other, other)) ** 0.5
    return _product(one, other) / lengths if lengths > 0 else None


def _product(one: Lora, other: Lora) -> float:
    """Inner product of two updates: of ``B A`` and ``D C`` it is the sum of ``(B^T D) * (A C^T)``."""
    total = 0.0
    for name in one.pairs.keys() & other.pairs.keys():
        (a, b), (c, d) = one.pairs[name], other.pairs[name]
        if (a.shape[1], b.shape[0]) != (c.shape[1], d.shape[0]):
            raise UserError(f"{one.path} and {other.path}: {name} is of other sizes in one than in the other")
        total += float(((b.double().T @ d.double()) * (a.double() @ c.double().T)).sum())
    return total * one.scale * other.scale
