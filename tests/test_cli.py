"""The command line: what it prints, and one clear sentence for every mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import LABELS, TEMPLATE

from prge.files.seal import SIZE, seal
from prge.manifest import Manifest
from prge.runtime_driver.data.hidden import HIDDEN_FILE
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.snapshots import BEST_FILE, EARLIER_FILE, STATE_FILE


def export_arguments(model: Path, output: Path) -> list[object]:
    labels = [word for name, text in LABELS for word in ("--label", f"{name}={text}")]
    return ["export", model, "-o", output, "--template", TEMPLATE, *labels]


def test_the_whole_way(prge: Callable[..., tuple[int, Any]], tiny_model: Path, demo_data: Path, tmp_path: Path) -> None:
    """export, inspect, train, eval, predict, merge."""
    program, run = tmp_path / "program", tmp_path / "run"
    shape = ["--max-tokens", 48, "--rank", 4, "--alpha", 8, "--texts", demo_data / "train.tsv"]
    code, exported = prge(*export_arguments(tiny_model, program), *shape)
    assert code == 0 and exported["delegate_calls"] <= 10 and exported["multiply_adds_inside"] == 1.0
    assert {"embedding", "gather"} < set(exported["outside_the_delegates"]) and "alloc" not in exported[
        "outside_the_delegates"
    ]
    code, inspected = prge("inspect", program)
    assert code == 0 and (inspected["queries"], inspected["batch"]) == (1, 8)
    assert [x["word"] for x in inspected["labels"]] == [" today", " later"]
    code, refused = prge("train", program, "--data", demo_data / "train.tsv", "--eps", 0.1, "-o", run)
    assert code == 1 and "is exact and perturbs nothing; leave --eps out" in refused["error"] and not run.exists()
    calibrate = ["calibrate", program, "--data", demo_data / "train.tsv", "--truncate", "-o", tmp_path / "cal.png"]
    code, found = prge(*calibrate, "--minutes", 1, "--megabytes", 100_000)
    assert code == 0 and found["lr"] > 0 and found["proposed"]["steps"] > 0 and (tmp_path / "cal.png").stat().st_size
    assert found["eps"] in [float(eps) for eps in found["correlation_with_exact"]]
    code, message = prge(*calibrate, "--megabytes", 2)
    assert code == 1 and "2 MB do not hold one example" in message["error"]
    train = ["train", program, "--data", demo_data / "train.tsv", "--dev", demo_data / "test.tsv", "--steps", 20]
    train += ["--eval-every", 10, "--lr", 0.01, "--truncate", "-o", run]
    code, trained = prge(*train)
    assert code == 0 and trained["completed"] and trained["steps"] == 20
    written = {"config.json", "log.jsonl", STATE_FILE, EARLIER_FILE, BEST_FILE, HIDDEN_FILE, "adapter", "curves.png"}
    assert {p.name for p in run.iterdir()} == written
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(20)) and "dev" in log[9] and log[0]["lr"] == pytest.approx(0.01)
    code, message = prge(*train)
    assert code == 1 and "it holds another run" in message["error"]
    code, evaluated = prge("eval", program, "--data", demo_data / "test.tsv", "--state", run, "--truncate")
    assert code == 0 and evaluated["accuracy"] == pytest.approx(trained["after"]["accuracy"])
    code, predicted = prge("predict", program, "call me back", "thanks for dinner", "--state", run)
    assert code == 0 and [p["label"] in ("today", "later") for p in predicted["predictions"]] == [True, True]
    code, _ = prge("merge", run, "-o", tmp_path / "merged")
    assert code == 0 and (tmp_path / "merged" / "model.safetensors").is_file()
    code, message = prge(*export_arguments(tiny_model, program))
    assert code == 1 and "not empty" in message["error"]
    code, message = prge(*export_arguments(tiny_model, tmp_path / "x"), *shape, "--subspace", "svd")
    assert code == 1 and "--texts choose the directions" in message["error"]


def rewritten(program: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the program whose manifest was changed in place, at the same length, and sealed again."""
    data = (program / "program.pte").read_bytes()[:-SIZE]
    old = StepProgram(program).manifest.to_json().encode()
    fields = json.loads(old)
    change(fields)
    new = json.dumps(fields).encode()
    assert len(new) <= len(old) and data.count(old) == 1
    folder.mkdir()
    (folder / "program.pte").write_bytes(data.replace(old, new.ljust(len(old))))
    seal(folder / "program.pte")
    for name in ("tokenizer.json", "frozen.pte"):
        (folder / name).write_bytes((program / name).read_bytes())
    return folder


def test_bad_programs(prge: Callable[..., tuple[int, Any]], program_folder: Path, tmp_path: Path) -> None:
    whole = (program_folder / "program.pte").read_bytes()
    cases = {
        "missing.pte": (None, "does not exist"),
        "cut.pte": (whole[: len(whole) // 2], "truncated"),
        "unsealed.pte": (whole[:-1], "no seal behind its end"),
        "changed.pte": (whole[:-9999] + b"?" + whole[-9998:], "is not what it was sealed as"),
        "stub.pte": (whole[:20], "not a program"),
        "text.pte": (b"hello", "not an ExecuTorch program"),
        "empty.pte": (b"", "not an ExecuTorch program"),
    }
    for name, (content, message) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        code, printed = prge("inspect", tmp_path / name)
        assert code == 1 and message in printed["error"], name
    newer = rewritten(program_folder, tmp_path / "newer", lambda m: m.update(version=9))
    code, printed = prge("inspect", newer)
    assert code == 1 and "version 9" in printed["error"] and "upgrade" in printed["error"]
    other = rewritten(program_folder, tmp_path / "other", lambda m: m.update(format="zzzz"))
    code, printed = prge("inspect", other)
    assert code == 1 and "not a program made by prge" in printed["error"]


def test_a_foreign_program_is_refused(prge: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    from executorch.exir import to_edge_transform_and_lower

    exported = torch.export.export(torch.nn.ReLU(), (torch.ones(2),))
    with (tmp_path / "relu.pte").open("wb") as f:
        to_edge_transform_and_lower(exported).to_executorch().write_to_file(f)
    code, printed = prge("inspect", tmp_path / "relu.pte")
    assert code == 1 and "not a program made by prge" in printed["error"]


def test_bad_input_to_the_driver(
    prge: Callable[..., tuple[int, Any]], program_folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    data, run = demo_data / "test.tsv", tmp_path / "run"
    one_class = tmp_path / "one.tsv"
    one_class.write_text("a b c\tlater\nd e f\tlater\n")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "state.safetensors").write_bytes(b"junk")
    train = ["train", program_folder, "--output", run, "--truncate"]
    for arguments, message in [
        ([*train, "--data", one_class, "--dev-fraction", 0], "every example has the label 'later'"),
        ([*train, "--data", tmp_path / "none.tsv"], "none.tsv does not exist"),
        ([*train, "--data", data, "--tokenizer", tmp_path / "tokenizer.json"], "not the tokenizer"),
        ([*train, "--data", data, "--eps", 0], "--eps must be above zero"),
        ([*train, "--data", data, "--dev", data], "no example is left"),
        (["eval", program_folder, "--data", data, "--truncate", "--state", tmp_path], "not a state of prge"),
        (["predict", program_folder, "word " * 99], "use --truncate"),
        (["predict", program_folder], "nothing to predict"),
        (["predict", program_folder, "a", "--state", tmp_path / "none"], "does not exist"),
        (["merge", tmp_path, "-o", tmp_path / "merged"], "not a PEFT adapter folder"),
    ]:
        code, printed = prge(*arguments)
        assert code == 1 and message in printed["error"], arguments
        assert not run.exists(), arguments


def test_bad_input_to_export(
    prge: Callable[..., tuple[int, Any]], tiny_model: Path, make_model: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from transformers import AutoConfig

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bloom = make_model(AutoConfig.for_model("bloom", n_layer=1, hidden_size=8, n_head=1, vocab_size=600))
    out = tmp_path / "out"
    good = export_arguments(tiny_model, out)
    for arguments, message in [
        (["export", tiny_model, "-o", out, "--label", "a= qzxj reply", "--label", "b= later"], "tokens ["),
        (["export", tiny_model, "-o", out, "--label", "a= later", "--label", "b= later"], "share a token"),
        (["export", tiny_model, "-o", out, "--label", "a= later"], "at least two labels"),
        (["export", tiny_model, "-o", out, "--label", "later="], "NAME=WORD"),
        (["export", tiny_model, "-o", out, "--label", "later", "--label", "label"], "names several columns"),
        ([*good, "--rank", 33], "rank 33 is larger"),
        ([*good, "--module", "w_pack"], "the model has q_proj, k_proj"),
        ([*good, "--layers", "first"], "write a slice"),
        (["export", tiny_model, "-o", out], "either the classes' label words"),
        ([*good, "--target", "{text}"], "either the classes' label words"),
        ([*good, "--template", "{0}"], "write column names in braces"),
        ([*good, "--lr", 0], "lr must be above zero"),
        ([*good, "--backend", "portable"], "the portable backend is the float32 reference"),
        (export_arguments(bloom, out), "which is not supported: its configuration says nothing of max_position"),
        (export_arguments(tmp_path, out), "holds no config.json"),
        (export_arguments(Path("nobody/nothing"), out), "the hub does not answer"),
        (export_arguments(Path("nothing"), out), "preset"),
    ]:
        code, printed = prge(*arguments)
        assert code == 1 and message in printed["error"], (arguments, printed)
        assert not out.exists(), arguments
    for option in ("--queries", "--batch"):
        assert prge(*good, option, 0)[0] == 2


def test_a_full_disk_leaves_nothing(
    prge: Callable[..., tuple[int, Any]], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from executorch.exir import ExecutorchProgramManager

    def full(self: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ExecutorchProgramManager, "write_to_file", full)
    code, printed = prge(*export_arguments(tiny_model, tmp_path / "out"), "--fixed", "--max-tokens", 8)
    assert code == 1 and "No space left on device" in printed["error"]
    assert list(tmp_path.iterdir()) == []


def test_manifest_round_trip(program_folder: Path) -> None:
    manifest = StepProgram(program_folder).manifest
    assert Manifest.from_json(manifest.to_json(), "x") == manifest
