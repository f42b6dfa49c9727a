"""`--report-to tensorboard`: TensorBoard's own reader finds the journal's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prge.runtime_driver.run.folder import read_log

Prge = Callable[..., tuple[int, Any]]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: (step, value) by name."""
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def of_journal(run: Path) -> dict[str, list[tuple[int, float]]]:
    rows = read_log(run)
    dev = [(0, rows[0]["before"])] + [(row["step"] + 1, row["dev"]) for row in rows if "dev" in row]
    found = {f"train/{name}": [(row["step"] + 1, row[name]) for row in rows] for name in ("loss", "lr")}
    return found | {f"dev/{name}": [(step, e[name]) for step, e in dev] for name in ("loss", "accuracy")}


def test_it_shows_the_journal(program_folder: Path, demo_data: Path, tmp_path: Path, prge: Prge) -> None:
    run, data = tmp_path / "run", ("--data", demo_data / "train.tsv", "--dev", demo_data / "test.tsv", "--truncate")
    settings = ("--steps", 6, "--eval-every", 1, "--lr", 1e-20, "--patience", 2)  # too small to get better
    watched = ("--report-to", "tensorboard")
    code, _ = prge("train", program_folder, *data, *settings, "-o", run, *watched)
    assert code == 0 and len(read_log(run)) == 2
    shown, expected = scalars(run), of_journal(run)
    assert shown.keys() == expected.keys()
    for name, points in expected.items():
        assert [step for step, _ in shown[name]] == [step for step, _ in points]
        assert [value for _, value in shown[name]] == pytest.approx([value for _, value in points], rel=1e-6)

    code, _ = prge("train", "--resume", run, *watched, "--patience", 0)
    assert code == 0 and len(read_log(run)) == 6
    assert [step for step, _ in scalars(run)["train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert len(scalars(run)["dev/loss"]) == 7

    (run / "tensorboard" / "notes.txt").write_text("mine")
    code, found = prge("forget", run, "--yes")
    assert code == 0 and found["left"] == ["tensorboard/notes.txt"]


def test_without_the_library_nothing_begins(
    program_folder: Path, tmp_path: Path, prge: Prge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    run = tmp_path / "run"
    code, said = prge("train", program_folder, "--data", "nowhere.tsv", "-o", run, "--report-to", "tensorboard")
    assert code == 1 and "pip install 'prge[tensorboard]'" in said["error"] and not run.exists()
