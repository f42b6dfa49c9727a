"""`prge bench tasks`: the table from invented runs, what is made again and what is not, the probe, LoRA on texts."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from prge.bench import tasks as bench
from prge.bench.convergence import Curve
from prge.bench.lora import LoraAdamW
from prge.bench.runners import LORA, PROBE, PROGRAM, Examples, Run, read, run
from prge.bench.tasks_folder import Settings
from prge.bench.tasks_report import ZERO_SHOT, TaskRuns, markdown, plot, rows_of, summary_of, target_of
from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.examples.rows import Example
from prge.models.adapter import AdapterConfig
from prge.regression import L2, choose, fit
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import summary

SETTINGS = Run(PROGRAM, "", 4, None, 0, "", None, "", 10, 2)


def curve(
    name: str, seed: int, points: list[tuple[float, float]], metric: str = "accuracy", peak: float = 1.0
) -> Curve:
    """A run of invented (seconds, score) points."""
    told = [{"seconds": s, "steps": i, "loss": 9.0} | {metric: v} for i, (s, v) in enumerate(points)]
    return Curve(name, replace(SETTINGS, method=name, seed=seed), told, 0.5 * peak, peak)


@pytest.fixture
def invented() -> list[TaskRuns]:
    """Two tasks with accuracies, one with losses; seeds 0 to 2."""
    classes = [curve(ZERO_SHOT, 0, [(0.0, 0.4)])]
    for seed, last in enumerate((0.8, 0.7, 0.9)):
        classes.append(curve("prge", seed, [(2.0, 0.5), (4.0 + seed, last), (9.0, last - 0.02)], peak=2.0))
        classes.append(curve(LORA, seed, [(10.0, 0.6), (20.0 + seed, 0.8)], peak=20.0))
        classes.append(curve(PROBE, seed, [(1.0, 0.6 + seed / 10)], peak=5.0))
    choices = [
        curve(ZERO_SHOT, 0, [(0.0, 0.5)]),
        curve("prge", 0, [(1.0, 0.45)], peak=3.0),
        curve(LORA, 0, [(5.0, 0.5)]),
    ]
    texts = [
        curve(ZERO_SHOT, 0, [(0.0, 3.0)], "loss"),
        curve("prge", 0, [(2.0, 2.5), (4.0, 2.0)], "loss", 4.0),
        curve(LORA, 0, [(8.0, 2.1), (16.0, 2.0)], "loss", 10.0),
    ]
    facts = {"train": 1000, "dev": 500, "left_out": 7, "majority": 0.3}
    found = zip(("classes", "choices", "texts"), (classes, choices, texts), (0.3, 0.26, None), strict=True)
    return [TaskRuns(name, facts | {"majority": most}, curves) for name, curves, most in found]


def test_rows_are_medians_over_seeds(invented: list[TaskRuns]) -> None:
    assert [target_of(task) for task in invented] == [pytest.approx(0.78), None, pytest.approx(2.05)]
    rows = {row["method"]: row for row in rows_of(invented[0])}
    assert list(rows) == ["majority", ZERO_SHOT, "prge", LORA, PROBE]
    assert rows["majority"]["score"] == 0.3 and rows[ZERO_SHOT]["score"] == 0.4 and rows[ZERO_SHOT]["seconds"] is None
    ours = rows["prge"]
    assert ours["score"] == pytest.approx(0.78) and ours["best"] == 0.8 and len(ours["scores"]) == 3
    # Seeds 0 and 2 pass 0.78 after 4 and 6 s, seed 1 never does: the median of 4, 6 and infinity is 6.
    assert ours["seconds_to_target"] == 6.0 and ours["seconds"] == 9.0 and ours["seconds_per_step"] == 1.0
    assert rows[LORA]["seconds_to_target"] == 21.0 and rows[PROBE]["seconds_per_step"] is None
    assert rows[PROBE]["score"] == pytest.approx(0.7) and rows[PROBE]["seconds_to_target"] is None
    texts = {row["method"]: row for row in rows_of(invented[2])}
    assert "majority" not in texts and texts["prge"]["metric"] == "loss" and texts["prge"]["seconds_to_target"] == 4.0
    assert texts[LORA]["best"] == 2.0 and texts[LORA]["seconds_to_target"] == 16.0


def test_the_summary_is_over_the_tasks(invented: list[TaskRuns], tmp_path: Path) -> None:
    rows = [row for task in invented for row in rows_of(task)]
    lines = {line["method"]: line for line in summary_of(rows)}
    ours = lines["prge"]
    assert ours["accuracy"] == pytest.approx((0.78 + 0.45) / 2) and ours["loss"] == 2.0 and ours["tasks"] == 3
    assert ours["lowest"] == pytest.approx(-0.05) and lines[LORA]["lowest"] == 0
    # Of the tasks that have a target: 6 / 21 and 4 / 16. Of all: memory 2 / 20, 3 / 1 and 4 / 10.
    assert ours["seconds_to_target"] == pytest.approx((6 / 21 + 4 / 16) / 2)
    assert ours["peak_megabytes"] == pytest.approx(0.4) and lines[LORA]["seconds_to_target"] == 1.0
    # The probe is on one of the two tasks, and its mean would be of other tasks than LoRA's.
    assert lines[PROBE]["accuracy"] is None and lines[PROBE]["peak_megabytes"] == pytest.approx(0.25)
    assert lines["majority"]["accuracy"] == pytest.approx(0.28) and lines["majority"]["peak_megabytes"] is None
    page = markdown(invented, list(lines.values()), "tiny", {"cpu": "none", "cores": 2})
    assert "| classes | accuracy | 0.300 | 0.400 | 0.780 | 0.800 | 0.700 |" in page
    assert "| mean | accuracy | 0.280 | 0.450 | 0.615 | 0.650 |  |" in page
    assert "| mean | loss |  | 3.000 | 2.000 | 2.000 |  |" in page
    assert "| classes | prge | 0.800 | 6 | 9 | 1.000 | 2 |" in page
    assert "| classes | 1,000 | 500 | 7 |" in page and "Medians of 3 seeds" in page
    plot(tmp_path / "tasks.png", rows)
    assert (tmp_path / "tasks.png").stat().st_size > 5000


def test_a_method_that_never_gets_there_has_no_time(invented: list[TaskRuns]) -> None:
    slow = [curve(c.name, c.run.seed, [(1.0, 0.41)]) if c.name == "prge" else c for c in invented[0].curves]
    rows = rows_of(replace(invented[0], curves=slow))
    assert next(row for row in rows if row["method"] == "prge")["seconds_to_target"] is None
    line = next(line for line in summary_of(rows) if line["method"] == "prge")
    assert line["seconds_to_target"] is None and line["peak_megabytes"] is not None


def clouds(n: int, classes: int, apart: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around a centre for each class, and one direction in which all vary a hundred times as much."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    x = apart * F.one_hot(labels, 6).double() + torch.randn(n, 6, generator=draw).double()
    x[:, 5] *= 100
    return x, labels


def test_the_probe_is_logistic_regression() -> None:
    """Against Newton's method, written out for two classes: softmax of two rows is a logistic of their difference."""
    x, labels = clouds(200, 2, 1.0)
    found = fit(x, labels, 2, 0.1)
    z, y = ((x - x.mean(0)) / x.std(0, correction=0)).numpy(), labels.numpy()
    z = np.concatenate([z, np.ones((len(z), 1))], 1)
    # The two rows are w/2 and -w/2, so their squared norm is half of w's; the bias is free.
    penalty, w = np.diag([0.05] * 6 + [0.0]), np.zeros(7)
    for _ in range(50):
        p = 1 / (1 + np.exp(-z @ w))
        hessian = (z * (p * (1 - p))[:, None]).T @ z / len(z) + penalty
        w -= np.linalg.solve(hessian, z.T @ (p - y) / len(z) + penalty @ w)
    weight, bias = found.weight.numpy(), found.bias.numpy()
    np.testing.assert_allclose(weight[1] - weight[0], w[:6], rtol=0, atol=1e-4)
    assert bias[1] - bias[0] == pytest.approx(w[6], abs=1e-4)


def test_the_probe_separates_what_is_separable() -> None:
    x, labels = clouds(150, 3, 12.0)
    found, l2 = choose(x, labels, 3, seed=0)
    assert l2 in L2 and bool((found.scores(x).argmax(1) == labels).all())
    noise = torch.randn(200, 40, generator=torch.Generator().manual_seed(1))
    _, strong = choose(noise, torch.tensor([random.Random(i).randrange(2) for i in range(200)]), 2, seed=0)
    assert strong == max(L2)  # nothing to learn


def test_majority_is_of_the_training_set() -> None:
    train, dev = ([Example((1,), label) for label in labels] for labels in ((0, 1, 1, 1, 2), (1, 0, 0, 2)))
    assert bench.majority(Examples(train, dev, 0)) == 0.25
    assert bench.majority(Examples([Example((1, 2), targets=1)], dev, 0)) is None


CHOICES = {"template": "{text}", "label_words": (), "target": " {choice}", "choices": "choices"}


@pytest.fixture
def choices_file(demo_data: Path, tmp_path: Path) -> Path:
    rows = [line.split("\t") for line in (demo_data / "test.tsv").read_text().splitlines()[1:13]]
    lines = [{"text": text, "choices": ["today", "much later", "later"], "label": label} for text, label in rows]
    (tmp_path / "choices.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "choices.jsonl"


def test_lora_on_texts_starts_from_the_program_s_loss(export: Callable[..., Path], choices_file: Path) -> None:
    """Targets of different lengths, of which the longest decides how many positions the head sees."""
    folder = export(**CHOICES, max_targets=9, adapter=AdapterConfig(rank=4, subspace="svd"))
    program = StepProgram(folder)
    examples = Encoder(program.manifest, folder / "tokenizer.json", truncate=True).examples(choices_file)
    assert len({row.targets for e in examples for row in e.rows}) > 1
    expected = evaluate(program, program.initial_state(), examples)
    rival = LoraAdamW(program.manifest, rank=8, seed=0, lr=1e-2)
    got = rival.evaluate(examples)
    torch.testing.assert_close(got.losses, expected.losses, rtol=0, atol=1e-4)
    assert summary(got) == pytest.approx(summary(expected), abs=1e-4) and got.metrics == expected.metrics
    for _ in range(5):
        rival.step(examples)
    assert rival.evaluate(examples).loss < got.loss - 0.01


def test_what_is_too_long_is_left_out_and_counted(program_folder: Path, tmp_path: Path) -> None:
    program = StepProgram(program_folder)
    long = "please " * 60
    (tmp_path / "train.tsv").write_text(
        f"text\tlabel\nCall me now\ttoday\nNo hurry\tlater\n{long}\tlater\nSeen\ttoday\nLast\tlater\n"
    )
    (tmp_path / "dev.tsv").write_text(f"text\tlabel\nSeen\ttoday\n{long}\tlater\nBye\tlater\n")
    settings = replace(SETTINGS, program=str(program_folder), data=str(tmp_path), dev=str(tmp_path), examples=4)
    found = read(settings, program.manifest)
    # Of the first four, one is too long and one is in dev too.
    assert (len(found.train), len(found.dev), found.left_out) == (2, 2, 2)
    assert max(len(e.tokens) for e in [*found.train, *found.dev]) <= program.manifest.max_tokens
    assert len(read(replace(settings, dev_examples=1), program.manifest).dev) == 1
    (tmp_path / "dev.tsv").write_text(f"text\tlabel\n{long}\tlater\n")
    with pytest.raises(
        UserError, match=r"none of 1 records for dev .* fits into 40 tokens; give a larger --max-tokens"
    ):
        read(settings, program.manifest)
    (tmp_path / "dev.tsv").write_text("text\tlabel\nCall me now\ttoday\nNo hurry\tlater\nSeen\ttoday\n")
    with pytest.raises(UserError, match="every text to train on is also in the dev set"):
        read(settings, program.manifest)
    (tmp_path / "dev.tsv").write_text("text\tlabel\nNo hurry\tlater\n")
    with pytest.raises(UserError, match="every example has the label 'today'"):
        read(settings, program.manifest)


def test_a_run_that_gives_up_is_scored_where_it_stopped(program_folder: Path, demo_data: Path) -> None:
    given = replace(
        SETTINGS, program=str(program_folder), steps=400, lr=1e41, data=str(demo_data / "train.tsv"), examples=64,
        dev=str(demo_data / "test.tsv"), dev_examples=20,
    )  # fmt: skip
    *points, cost = run(given)
    made = points[-1]["steps"]
    assert [p["full"] for p in points] == [False] * (len(points) - 1) + [True] and made < 400
    assert cost["stopped"].startswith(f"step {made}: smaller learning rates did not help")
    assert points[-1]["kept"] <= made and points[-1]["loss"] < 5


@pytest.fixture
def data(demo_data: Path, tmp_path: Path) -> Path:
    """Two tasks: messages with classes, and the messages alone."""
    folder = tmp_path / "data"
    for name in ("errands", "letters"):
        (folder / name).mkdir(parents=True)
        for part, file in (("train", "train.tsv"), ("dev", "test.tsv")):
            lines = ["text\tlabel", *(demo_data / file).read_text().splitlines()[1:33]]
            kept = lines if name == "errands" else [line.partition("\t")[0] for line in lines]
            (folder / name / f"{part}.tsv").write_text("\n".join(kept) + "\n")
    return folder


class Recorded:
    """Stands in for the runs' processes: counts them, and makes them here or invents them."""

    def __init__(self, really: bool):
        self.really, self.runs = really, list[tuple[str, Run]]()

    def __call__(self, name: str, given: Run, listener: Callable[[str], None]) -> Curve:
        self.runs.append((name, given))
        if not self.really:
            score = {None: 0.7, 1e-3: 0.8, 2e-3: 0.9}[given.lr if name == LORA else None] - given.seed / 100
            return replace(curve(name, given.seed, [(0.0, 0.5), (1.0, score)]), run=given)
        *points, cost = run(given)
        return Curve(name, given, points, cost["seconds_per_step"], cost["peak_megabytes"], cost["left_out"])


FEW = ("--steps", 4, "--lora-steps", 2, "--curve", 4, "--dev-examples", 12, "--examples", 24, "--max-tokens", 48)


def test_the_whole_way_in_processes_of_their_own(
    prge: Callable[..., tuple[int, Any]], tiny_model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command: tuple[object, ...] = ("bench", "tasks", data, "--model", tiny_model, "--task", "errands", *FEW)
    command = (*command, "--seeds", 1, "--lora-lr", 1e-3, "-o", out)
    code, result = prge(*command, "--variant", "prge=--rank 2 -b 2")
    assert code == 0, result
    assert [row["method"] for row in result["rows"]] == ["majority", ZERO_SHOT, "prge", LORA, PROBE]
    assert all(0 <= row["score"] <= 1 for row in result["rows"])
    trained = [row for row in result["rows"] if row["seconds"] is not None]
    assert len(trained) == 3 and all(row["seconds"] > 0 and row["peak_megabytes"] > 0 for row in trained)
    assert Path(result["picture"]).stat().st_size > 5000 and (out / "curves" / "errands.png").stat().st_size > 5000
    saved = json.loads((out / "tasks.json").read_text())
    assert saved["rows"] == result["rows"] and saved["tasks"]["errands"]["train"] <= 24
    assert saved["machine"]["prge"] and saved["settings"]["steps"] == 4
    assert "| errands | accuracy |" in (out / "tasks.md").read_text()
    program = StepProgram(out / "programs" / "errands-prge")
    assert (program.manifest.adapter.rank, program.manifest.batch) == (2, 2)
    expected = read(Run(**saved["tasks"]["errands"]["curves"][0]["run"]), program.manifest).dev
    before = evaluate(program, program.initial_state(), expected).accuracy
    assert next(row["score"] for row in result["rows"] if row["method"] == ZERO_SHOT) == before
    code, refused = prge(*command)
    assert code == 1 and f"{out} was made with variant prge '--rank 2 -b 2', not ''" in refused["error"]
    command = (*command, "--variant", "prge=--rank 2 -b 2", "--variant")
    code, refused = prge(*command, "wrong=--no-such-option")
    assert code == 1 and "errands, wrong: " in refused["error"] and "--no-such-option" in refused["error"]
    monkeypatch.setattr("prge.bench.tasks._Bench.export", lambda *_: None)
    code, refused = prge(*command, "wrong=--rank 2")  # may be corrected
    assert code == 1 and "errands-wrong" in refused["error"]


def test_a_program_is_made_for_the_longest_row_that_is_kept(
    prge: Callable[..., tuple[int, Any]], tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    """As `prge export` makes it, unasked."""
    code, result = prge("export", tiny_model, "-o", tmp_path / "program", "--data", data / "errands")
    assert code == 0, result
    needed = StepProgram(tmp_path / "program").manifest.max_tokens

    def bound(limit: int) -> int:
        settings = Settings(str(tiny_model), str(data), 1000, 12, limit, 4, 2, 4)
        return bench._Bench(tmp_path, settings, Hooks())._longest(data / "errands")

    assert bound(needed + 50) == needed > 16 and bound(needed - 8) == needed - 8
    (data / "errands" / "train.tsv").write_text("")  # which is for the export to say
    assert bound(needed + 50) == needed + 50
    out = tmp_path / "out"
    code, refused = prge("bench", "tasks", data, "--model", tiny_model, "--task", "errands", *FEW, "-o", out)
    assert code == 1 and refused["error"].startswith("errands, prge: ") and "train.tsv" in refused["error"]


def test_texts_are_scored_by_their_loss(
    prge: Callable[..., tuple[int, Any]], export: Callable[..., Path], data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    form = {"template": "", "label_words": (), "target": "{text}", "max_targets": 9}
    folder = export(**form, adapter=AdapterConfig(rank=4, subspace="svd"))
    monkeypatch.setattr("prge.bench.tasks._Bench._program", lambda self, task, variant: folder)
    monkeypatch.setattr("prge.bench.tasks.measure", Recorded(really=True))
    command = ("bench", "tasks", data, "--model", "none", "--task", "letters", *FEW, "--seeds", 1, "--lora-lr", 1e-3)
    code, result = prge(*command, "-o", tmp_path / "out")
    assert code == 0, result
    assert [row["method"] for row in result["rows"]] == [ZERO_SHOT, "prge", LORA]
    assert all(row["metric"] == "loss" and row["score"] > 0 for row in result["rows"])


def test_a_call_goes_on_where_the_last_one_stopped(
    prge: Callable[..., tuple[int, Any]], program_folder: Path, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Runs are invented, and the program is one for both tasks: what counts is which runs are made."""
    out, recorded = tmp_path / "out", Recorded(really=False)
    monkeypatch.setattr("prge.bench.tasks.measure", recorded)
    exported: list[str] = []

    def program(self: Any, task: str, variant: str) -> Path:
        exported.append(f"{task}-{variant}")
        return program_folder

    monkeypatch.setattr("prge.bench.tasks._Bench._program", program)
    command: tuple[object, ...] = ("bench", "tasks", data, "--model", "none", "--task", "errands", *FEW, "-o", out)
    command = (*command, "--lora-lr", 1e-3, "--lora-lr", 2e-3)
    code, result = prge(*command, "--seeds", 2)
    assert code == 0, result
    made = [(name, run.lr if name == LORA else None, run.seed) for name, run in recorded.runs]
    ours, rival = [("prge", None, seed) for seed in (0, 1)], [(LORA, lr, 0) for lr in (1e-3, 2e-3)]
    probes = [(PROBE, None, seed) for seed in (0, 1)]
    assert made == [(ZERO_SHOT, None, 0), ours[0], *rival, probes[0], ours[1], (LORA, 2e-3, 1), probes[1]]
    rows = {row["method"]: row for row in result["rows"]}
    assert rows[LORA]["scores"] == pytest.approx([0.9, 0.89]) and rows["prge"]["score"] == pytest.approx(0.695)
    recorded.runs.clear()
    assert prge(*command, "--seeds", 2) == (0, result) and not recorded.runs
    gone = out / "runs" / "errands-prge-seed1.json"
    gone.unlink()
    assert prge(*command, "--seeds", 2) == (0, result)
    assert [(name, run.seed) for name, run in recorded.runs] == [("prge", 1)]
    recorded.runs.clear()
    assert prge(*command, "--seeds", 3)[0] == 0  # more of them
    assert [(name, run.seed) for name, run in recorded.runs] == [("prge", 2), (LORA, 2), (PROBE, 2)]
    code, refused = prge(*command, "--steps", 5)
    assert code == 1 and f"{out} was made with steps 4, not 5; choose another --output" in refused["error"]
    gone.write_text("{")
    code, refused = prge(*command, "--seeds", 2)
    assert code == 1 and f"{gone} cannot be read" in refused["error"] and gone.read_text() == "{"


def test_the_paper_s_settings_are_rows_beside_the_default(
    prge: Callable[..., tuple[int, Any]], program_folder: Path, tiny_model: Path, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options = shlex.split(bench.PAPER["paper-4x4"])
    code, result = prge("export", tiny_model, "-o", tmp_path / "paper", "--data", data / "errands", *options)
    assert code == 0, result
    found = StepProgram(tmp_path / "paper").manifest
    assert (found.queries, found.batch, found.gradient, found.optimizer) == (4, 4, "weights", "sgd")
    assert (found.adapter.rank, found.adapter.alpha, found.adapter.subspace) == (16, 32.0, None)
    monkeypatch.setattr("prge.bench.tasks.measure", Recorded(really=False))
    monkeypatch.setattr("prge.bench.tasks._Bench._program", lambda self, task, variant: program_folder)
    command = ("bench", "tasks", data, "--model", "none", "--task", "errands", *FEW, "-o", tmp_path / "out")
    code, result = prge(*command, "--lora-lr", 1e-3, "--seeds", 1, "--paper")
    assert code == 0, result
    methods = ["majority", ZERO_SHOT, "prge", "paper-1x16", "paper-4x4", "paper-16x1", LORA, PROBE]
    assert [row["method"] for row in result["rows"]] == methods


def test_an_interrupted_run_leaves_the_others(
    prge: Callable[..., tuple[int, Any]], program_folder: Path, data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recorded = Recorded(really=False)

    def fails(name: str, given: Run, listener: Callable[[str], None]) -> Curve:
        if name == LORA:
            raise UserError("lora-adamw failed: no memory")
        return recorded(name, given, listener)

    monkeypatch.setattr("prge.bench.tasks._Bench._program", lambda self, task, variant: program_folder)
    monkeypatch.setattr("prge.bench.tasks.measure", fails)
    command = ("bench", "tasks", data, "--model", "none", "--task", "errands", *FEW, "-o", tmp_path / "out", "--short")
    code, refused = prge(*command)
    assert code == 1 and refused["error"] == "lora-adamw failed: no memory"
    monkeypatch.setattr("prge.bench.tasks.measure", recorded)
    assert prge(*command)[0] == 0
    # One seed and one learning rate, and nothing twice.
    assert [name for name, _ in recorded.runs] == [ZERO_SHOT, "prge", LORA, PROBE]
    kept = json.loads((tmp_path / "out" / "runs" / "errands-lora-adamw-0.001-seed0.json").read_text())
    assert kept["run"] == asdict(recorded.runs[2][1])


def test_what_is_wrong_is_said_in_a_sentence(prge: Callable[..., tuple[int, Any]], data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    (data / "half").mkdir()
    (data / "half" / "train.tsv").write_text("text\tlabel\nCall me\ttoday\n")
    out = tmp_path / "out"
    cases: list[tuple[tuple[object, ...], str]] = [
        ((tmp_path / "none", "-o", out), "is no folder; give one that holds a folder for each task"),
        ((tmp_path / "empty", "-o", out), "empty holds no folders; put each task's files into a folder of its own"),
        (
            (data, "-o", out),
            "has no folder for sst2, mr, .*; it has errands, half, letters: choose among them with --task",
        ),
        (
            (data, "--task", "half", "-o", out),
            "half holds no file for dev, or several; put one there, as .*half/dev.jsonl",
        ),
        ((data, "--task", "errands", "--variant", "wide", "-o", out), "write NAME=OPTIONS"),
        ((data, "--task", "errands", "--variant", "probe=--rank 4", "-o", out), "not named majority"),
        ((data, "--task", "errands", "--variant", "a='", "-o", out), "No closing quotation"),
        ((data, "--task", "errands", "-o", tmp_path / "used"), "used exists and is not empty"),
    ]
    for words, message in cases:
        code, refused = prge("bench", "tasks", *words)
        assert code == 1
        with pytest.raises(UserError, match=message):
            raise UserError(refused["error"])
    assert [file.name for file in (tmp_path / "used").iterdir()] == ["mine.txt"]
