"""`prge bench`: the rival starts from the same scores, and the report holds what was run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prge.runtime_driver.bench.convergence import Curve, table
from prge.runtime_driver.bench.runners import LoraAdamW, Run
from prge.runtime_driver.data import Encoder
from prge.runtime_driver.evaluate import evaluate
from prge.runtime_driver.program import StepProgram


def settings(program: Path, data: Path, seed: int = 0) -> Run:
    return Run("lora-adamw", str(program), 3, 1e-3, seed, str(data), 30, str(data), 10, points=2)


def test_lora_starts_from_the_program_s_scores(program_folder: Path, demo_data: Path) -> None:
    program = StepProgram(program_folder)
    texts = Encoder(program.manifest, program_folder / "tokenizer.json", truncate=True).examples(
        demo_data / "test.tsv", 7
    )
    rival = LoraAdamW(program.manifest, settings(program_folder, demo_data / "test.tsv"))
    expected = evaluate(program, program.initial_state(), texts)
    with torch.no_grad():
        assert expected.scores is not None
        torch.testing.assert_close(rival.scores(texts), expected.scores, rtol=0, atol=1e-4)
    assert rival.accuracy(texts) == pytest.approx(expected.accuracy)
    before = rival.scores(texts).detach()
    assert len(list(rival.steps(texts))) == 3
    assert (rival.scores(texts) - before).abs().max() > 1e-5


def test_time_to_an_accuracy_is_of_every_seed(program_folder: Path, demo_data: Path) -> None:
    points = [{"seconds": 1.0, "accuracy": 0.5}, {"seconds": 2.0, "accuracy": 0.8}]
    curves = [Curve("a", settings(program_folder, demo_data, seed), points) for seed in (0, 1)]
    assert table(curves, 0.7)[0]["seconds_to_target"] == 2.0
    curves[1].points = points[:1]
    assert table(curves, 0.7)[0]["seconds_to_target"] is None


def test_convergence_report(program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prge", "bench", "convergence", str(program_folder), "--json", "--seeds", "1"]
    command += ["--data", str(demo_data / "train.tsv"), "--dev", str(demo_data / "test.tsv"), "--examples", "40"]
    command += ["--steps", "6", "--lora-steps", "3", "--lora-lr", "1e-3", "--curve", "10", "--target", "0.01"]
    done = subprocess.run([*command, "-o", str(tmp_path / "out")], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["rows"]
    assert [row["method"] for row in rows] == [program_folder.name, "lora-adamw lr 0.001"]
    assert all(0 < row["seconds_to_target"] <= row["seconds"] and row["peak_megabytes"] > 1 for row in rows)
    saved = json.loads((tmp_path / "out" / "convergence.json").read_text())
    assert [c["points"][-1]["steps"] for c in saved["curves"]] == [6, 3]
    assert (tmp_path / "out" / "convergence.png").stat().st_size > 5000
    assert "| lora-adamw" in (tmp_path / "out" / "convergence.md").read_text()
