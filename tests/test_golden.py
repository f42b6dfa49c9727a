"""The golden vectors: the maker makes them again to the byte, and the Python driver reads them back."""

from __future__ import annotations

import json
import math
import shutil
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from golden.make import HERE, files
from golden.tokens import MANIFESTS

from prge.errors import UserError
from prge.manifest import Manifest
from prge.runtime_driver.loop.best import Best
from prge.runtime_driver.loop.train import Guard
from prge.runtime_driver.program.state import load_state, steps_behind
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import RunFolder, read_log
from prge.runtime_driver.run.snapshots import read_snapshot

COMMITTED = {str(path.relative_to(HERE)): path for path in HERE.rglob("*") if path.is_file()}
VECTORS = sorted(name for name in COMMITTED if Path(name).suffix not in (".py", ".pyc", ".md"))
made = cache(files)


def cases(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(COMMITTED[f"{name}.json"].read_bytes())["cases"]
    return found


@pytest.mark.parametrize("name", VECTORS)
def test_the_maker_makes_the_same_bytes_again(name: str) -> None:
    assert made()[name] == COMMITTED[name].read_bytes()


def test_all_vectors_are_committed_and_small() -> None:
    assert sorted(made()) == VECTORS
    assert sum(COMMITTED[name].stat().st_size for name in VECTORS) < 300_000
    readme = COMMITTED["README.md"].read_text()
    assert [name for name in VECTORS if f"`{name}`" not in readme and f"`{Path(name).parent}/`" not in readme] == []


def test_manifests_are_read_as_they_were_written() -> None:
    written = json.loads(COMMITTED["manifests.json"].read_bytes())
    assert {name: Manifest.from_json(json.dumps(m), name) for name, m in written.items()} == MANIFESTS


@pytest.mark.parametrize("case", cases("guard"), ids=lambda case: case["about"])
def test_the_guard_decides_by_the_rules(case: dict[str, Any]) -> None:
    """Of which the vectors are an implementation of their own; and a run that goes on knows the same."""
    of = case["batch"], case["classes"]
    guard, noted, state = Guard(*of), Guard(*of), torch.tensor([0.0])
    for step, row in enumerate(case["steps"]):
        loss, new = float(row["loss"]), torch.tensor([step + 1.0 if row["finite"] else math.inf])
        if "error" in row:
            with pytest.raises(UserError, match="the first loss is not finite"):
                guard.watch(state, loss, new)
            return
        state, backed_off = guard.watch(state, loss, new)
        noted.note(loss, backed_off)
        assert guard.good is not None
        assert [backed_off, state.item(), guard.good.item()] == [row["backed_off"], row["state"], row["good"]]
        for each in (guard, noted):
            assert [each.scale, each.first, each.mean, each.best] == [
                row[k] for k in ("scale", "first", "mean", "best")
            ]


@pytest.mark.parametrize("case", cases("best"), ids=lambda case: case["about"])
def test_the_best_evaluation_is_known(case: dict[str, Any]) -> None:
    best = Best()
    for steps, row in enumerate(case["evaluations"]):
        numbers = {"loss": float(row["loss"])} | ({} if row["accuracy"] is None else {"accuracy": row["accuracy"]})
        assert best.note(steps, numbers) == row["best"]
        assert not row["best"] or best.steps == steps


def test_the_run_goes_on(tmp_path: Path) -> None:
    """The folder is one that the driver resumes, with what it was made of."""
    (given,) = cases("run")
    folder, m = tmp_path / "run", MANIFESTS[given["manifest"]]
    shutil.copytree(HERE / "run", folder)
    program = cast(StepProgram, SimpleNamespace(path=Path(given["program"]), runtime="executorch", manifest=m))
    run = RunFolder.resume(folder, program)
    run.close()
    assert run.stands.good is not None and run.after == given["train"]["after"]
    assert [run.stands.steps, run.cut] == [len(given["steps"]), ""]
    assert [run.stands.state.tolist(), run.stands.good.tolist()] == [given["state"], given["good"]]
    assert [row["seed"] for row in read_log(folder)] == [row["seed"] for row in given["steps"]]
    start = folder / "start.safetensors"
    assert load_state(start, m).tolist() == given["start"] and steps_behind(start, m) == run.after
    best = folder / "best.safetensors"
    assert run.best.steps == len(given["steps"]) and load_state(best, m).tolist() == given["state"]
    begun = read_snapshot(folder / "begun.safetensors")
    assert begun.steps == 0 and begun.good is None and begun.state.tolist() == given["start"]
