"""What is judged before a model is loaded, and what a call that failed leaves to the next one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prge.commands.export import export, standard
from prge.commands.fit import fit
from prge.commands.hooks import Hooks
from prge.examples.detect import FormOptions
from prge.examples.form import Form
from prge.export import program as exporter
from prge.files.folders import PROGRAM_FOLDER
from prge.models import checkpoints
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.program.step import StepProgram

Prge = Callable[..., tuple[int, Any]]
DATA = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""

    def load(*arguments: Any, **settings: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(checkpoints, "load_checkpoint", load)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ROWS = [{"text": f"call me, number {i}", "label": ("today", "later")[i % 2]} for i in range(12)]
CLASSES = ["--template", "{text} Reply", "--label", "today= today", "--label", "later= later"]
LONG = {"text": "nobody can deploy until it's reverted " * 400, "label": "today"}


@pytest.mark.parametrize(
    ("command", "rows", "options", "message"),
    [
        ("train", [*ROWS, LONG], [], "data.jsonl, line 13: [0-9,]+ tokens, more than the 2048"),
        ("export", [*ROWS, LONG], [], "data.jsonl, line 13: [0-9,]+ tokens, more than the 2048"),
        ("train", [*ROWS, {**LONG, "text": "call me " * 40}], ["--max-tokens", 30], "1 of .* longer than .* 30 tokens"),
        ("train", [*ROWS, {"text": "x", "label": "never"}], CLASSES, "line 13: unknown label 'never'"),
        ("export", [*ROWS, {"text": "x", "label": "never"}], CLASSES, "line 13: unknown label 'never'"),
        ("train", ROWS, ["--label", "today=qzxj", "--label", "later= later"], "label word 'qzxj'"),
        ("train", ROWS[::2], CLASSES, "holds no two classes"),
    ],
)  # fmt: skip
def test_data_are_judged_before_a_model_is_loaded(
    prge: Prge, tiny_model: Path, tmp_path: Path, no_weights: None, command: str, rows: list[dict[str, Any]],
    options: list[object], message: str,
) -> None:  # fmt: skip
    data = written(tmp_path / "data.jsonl", rows)
    code, printed = prge(command, tiny_model, "--data", data, *options, "-o", tmp_path / "run")
    assert code == 1 and not (tmp_path / "run").exists()
    assert re.search(message, printed["error"]), printed


@pytest.mark.parametrize(
    ("row", "message"),
    [({"text": "x"}, "left out for having no label: 1 row (line 13)"),
     ({"label": "today"}, "left out for an empty text: 1 row (line 13)")],
)  # fmt: skip
def test_rows_that_lack_something_are_told(
    tiny_model: Path, tmp_path: Path, no_weights: None, row: dict[str, Any], message: str
) -> None:
    data, said = written(tmp_path / "data.jsonl", [*ROWS, row]), list[str]()
    labels = (("today", " today"), ("later", " later"))
    form = Form("{text} Reply", labels, "label", "", "", None, "", None, None)
    found = fit(str(tiny_model), form, standard, Source(str(data)), Hooks(tell=said.append), trains=True)
    assert any(message in text for text in said), said
    assert len(found.records) == 9  # of 12 the dev set has a fifth, and some of each class


def test_what_training_will_cut_is_told(tiny_model: Path, tmp_path: Path) -> None:
    data, said = written(tmp_path / "data.jsonl", [*ROWS, LONG]), list[str]()
    export(str(tiny_model), tmp_path / "out", FormOptions(max_tokens=32), data, hooks=Hooks(tell=said.append))
    assert any("1 of 13 texts are longer than 32 tokens" in text for text in said)


def test_a_retry_works(prge: Prge, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, then cut; failed behind the export, then with the program that was made; and anew for other data."""
    data, run = written(tmp_path / "data.jsonl", [*ROWS, LONG]), tmp_path / "run"
    train = ["train", tiny_model, "--data", data, "--steps", 2, "--lr", 0.01, "-o", run]
    assert prge(*train)[0] == 1
    train += ["--truncate", "--max-tokens", 32]
    with monkeypatch.context() as patch:
        patch.setattr("prge.commands.train.settle", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
        assert prge(*train)[0] == 1 and (run / PROGRAM_FOLDER / "program.pte").is_file()
    made = (run / PROGRAM_FOLDER / "program.pte").stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(exporter, "write_program", lambda *_: pytest.fail("it is exported again"))
        code, trained = prge(*train)
    assert code == 0 and trained["completed"] and trained["export_seconds"] == 0.0
    assert (run / PROGRAM_FOLDER / "program.pte").stat().st_mtime_ns == made
    code, refused = prge(*train)
    assert code == 1 and f"prge train --resume {run}" in refused["error"]


def test_a_program_of_other_data_is_made_anew(
    prge: Prge, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    for i, rows in enumerate((ROWS, [{**row, "text": row["text"] + " please"} for row in ROWS])):
        data = written(tmp_path / f"{i}.jsonl", rows)
        with monkeypatch.context() as patch:
            if not i:
                patch.setattr("prge.commands.train.settle", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "full")))
            code, trained = prge("train", tiny_model, "--data", data, "--steps", 1, "--lr", 0.01, "-o", run)
        assert code == 1 - i
    assert trained["export_seconds"] > 0


def test_what_is_learned_is_shown(prge: Prge, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"Where is it, number {i}?", "output": "Behind the gate."} for i in range(9)]
    data, run = written(tmp_path / "data.jsonl", rows), tmp_path / "run"
    code, trained = prge("train", tiny_model, "--data", data, "--steps", 1, "--lr", 0.01, "-o", run)
    assert code == 0 and "' Behind the gate.<end>' behind" in trained["inferred"]["learns"]
    assert "outside_the_delegates" not in trained and trained["export_seconds"] > 0
    assert StepProgram(run / PROGRAM_FOLDER).manifest.stop_tokens == (0, 2)


@pytest.mark.parametrize("task", ["boolq", "multirc", "squad", "cb", "qnli"])
def test_a_task_s_bounds_come_from_its_data(
    task: str, tiny_model: Path, tmp_path: Path, demo_data: Path, no_weights: None
) -> None:
    """What is too long for any default is cut: the tiny tokenizer makes several times as many tokens of a text."""
    if not (DATA / task).exists():
        pytest.skip("the tasks' files are not at hand")
    form = Form.of_task(task)
    words = (" today", " later", " the")  # which are tokens of the tiny tokenizer, other than the task's own
    form = replace(form, labels=tuple((name, word) for (name, _), word in zip(form.labels, words, strict=False)))
    found = fit(
        str(tiny_model), form, standard, Source(str(DATA / task), limit=60, truncate=True), Hooks(),
        trains=True,
    )  # fmt: skip
    assert found.config.max_tokens > 64 and found.config.step.batch * found.config.max_tokens <= 16 * 512
    assert found.records and found.inferred["most tokens"] == str(found.config.max_tokens)


@pytest.mark.parametrize(
    ("classes", "max_tokens", "gradient", "batch"),
    [
        (2, 64, "exact", 8), (4, 64, "exact", 8), (5, 64, "full", 4), (10, 256, "full", 4), (11, 64, "exact", 16),
        (6, 512, "exact", 8), (2, 1024, "exact", 8), (0, 256, "full", 4), (0, 257, "exact", 4), (0, 4096, "exact", 2),
    ],
)  # fmt: skip
def test_the_gradient_and_the_batch_follow_from_the_classes_and_the_rows(
    classes: int, max_tokens: int, gradient: str, batch: int
) -> None:
    """As docs/bench.md measured them."""
    labels = tuple((f"kind {i}", f" {i}") for i in range(classes))
    form = Form("{text}", labels, target="" if labels else "{answer}", max_tokens=max_tokens)
    step = standard(form).step
    assert (step.gradient, step.batch, step.queries) == (gradient, batch, 1)
