"""Faults that were found by reading, each with its kind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from survivor import begin, resume

from prge import memory
from prge.commands.replay import replay_run
from prge.commands.screen import print_json
from prge.cost import positions
from prge.errors import UserError
from prge.files.checked import load_checked
from prge.models.adapter import AdapterConfig
from prge.runtime_driver.loop import stopping
from prge.runtime_driver.loop.calibrate import example_positions
from prge.runtime_driver.loop.stopping import Limits
from prge.runtime_driver.loop.train import Guard
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import CONFIG_FILE, START_FILE, read_config
from prge.runtime_driver.run.snapshots import STATE_FILE, read_snapshot


@pytest.mark.parametrize("weights", [True, False], ids=["weights", "activations"])
def test_a_replay_begins_where_its_run_began(
    weights: bool, weights_program: Path, program_folder: Path, demo_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A run that another was begun from may go on meanwhile, or be gone."""
    program = weights_program if weights else program_folder
    first, second = tmp_path / "first", tmp_path / "second"
    monkeypatch.setattr("prge.runtime_driver.loop.stopping._LOOK", 0.0)
    begin(program, demo_data, first, 10, limits=Limits(max_minutes=0.0))
    begin(program, demo_data, second, 4, start=first)
    assert resume(first)["completed"]
    replay_run(second, tmp_path / "replayed")
    expected = read_snapshot(second / STATE_FILE).state
    replayed = load_checked(tmp_path / "replayed" / STATE_FILE, "a state")[0]["state"]
    torch.testing.assert_close(replayed, expected, rtol=1e-5, atol=1e-6)
    (second / START_FILE).unlink()
    with pytest.raises(UserError, match=START_FILE):
        replay_run(second, tmp_path / "again")


def test_a_run_of_another_format_is_refused(program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    begin(program_folder, demo_data, tmp_path / "run", 1)
    file = tmp_path / "run" / CONFIG_FILE
    config = json.loads(file.read_text())
    assert next(iter(config)) == "version"
    for version in (None, 1, 3):
        changed = {k: v for k, v in config.items() if k != "version"} | ({"version": version} if version else {})
        file.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=rf"run format {version or 1}, this one reads 2"):
            read_config(tmp_path / "run")


def test_a_hot_machine_does_not_hold_up_the_other_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a sensor that stays hot: the time runs out, the battery runs down, memory gets short, a signal comes."""
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("prge.runtime_driver.loop.stopping.time.monotonic", lambda: now)
    monkeypatch.setattr("prge.runtime_driver.loop.stopping.time.sleep", sleep)
    monkeypatch.setattr(stopping, "temperature", lambda: 99.0)
    monkeypatch.setattr(stopping, "battery", lambda: 100.0 - now)
    hot = Limits(max_temperature=80.0)
    memory_left = lambda: type("memory", (), {"available": 1e9 - 1e7 * now, "total": 1e9})  # noqa: E731
    enough = type("memory", (), {"available": 9e8, "total": 1e9})
    cases = [
        (replace(hot, max_minutes=1.0), "1 minutes are over", 60.0),
        (replace(hot, min_battery=20.0), "the battery is at 79 %", 80.0),
        (hot, "memory are left", 100.0),
    ]
    for limits, why, latest in cases:
        now = 2.0
        short = limits is hot
        monkeypatch.setattr(psutil, "virtual_memory", memory_left if short else lambda: enough)
        waiting = stopping.Stopping(limits)
        waiting._began = waiting._looked = 0.0
        with pytest.raises(KeyboardInterrupt):
            waiting.look(lambda text: None)
        assert why in waiting.why or (limits.min_battery and "battery" in waiting.why)
        assert now <= latest + 2
    waiting = stopping.Stopping(hot)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: enough)
    monkeypatch.setattr("prge.runtime_driver.loop.stopping.time.sleep", lambda seconds: waiting._ask(2, None))
    waiting._looked = now - 2.0
    with pytest.raises(KeyboardInterrupt):
        waiting.look(lambda text: None)


def test_the_guard_backs_off_at_the_first_step_too() -> None:
    start, broken = torch.zeros(2), torch.full((2,), math.inf)
    guard = Guard()
    state, back = guard.watch(start, 0.7, broken)
    assert back and state is start and (guard.scale, guard.first, guard.best) == (0.5, 0.7, 0.7)
    again = Guard(start)
    again.note(0.7, True)
    assert vars(again) == vars(guard)
    with pytest.raises(UserError, match="the first loss is not finite"):
        Guard().watch(start, math.nan, start)


def test_a_run_is_neither_a_program_nor_a_model(
    prge: Callable[..., tuple[int, Any]], program_folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    run, data = tmp_path / "run", demo_data / "train.tsv"
    begin(program_folder, demo_data, run, 1)
    for command in (
        ["train", run, "--data", data, "-o", tmp_path / "x"],
        ["eval", run, "--data", data],
        ["export", run, "-o", tmp_path / "y", "--data", data],
    ):
        code, printed = prge(*command)
        assert code == 1 and f"{run} is a run" in printed["error"], printed
        assert "config.json names its program" in printed["error"] or "its program is" in printed["error"]


def test_a_run_whose_files_have_moved_names_the_command(program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    begin(program_folder, demo_data, tmp_path / "run", 2)
    file = tmp_path / "run" / CONFIG_FILE
    whole = json.loads(file.read_text())
    for place in ("program", "train", "dev"):
        config = json.loads(json.dumps(whole))
        (config if place == "program" else config["data"])[place] = "/nowhere/it"
        file.write_text(json.dumps(config))
        with pytest.raises(UserError, match=r"/nowhere/it.*prge train PROGRAM --data FILE --resume"):
            resume(tmp_path / "run")


def test_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    here = memory.peak_megabytes()

    def missing(self: Path, *arguments: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr("prge.memory.Path.read_text", missing)
    assert abs(memory.peak_megabytes() - here) < 0.2 * here + 100


def test_an_example_s_share_of_memory_follows_its_positions(program_folder: Path, weights_program: Path) -> None:
    """Another q has as many positions as a program of that q would have."""
    for folder in (program_folder, weights_program):
        m = StepProgram(folder).manifest
        for queries in (1, 3, 16):
            whole = positions(replace(m, queries=queries), 20)[1]
            assert example_positions(m, queries, 20) * m.batch == whole


def test_json_has_no_number_that_is_not_one(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"loss": math.nan, "more": [math.inf, {"x": -math.inf}], "right": 0.5})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "more": [None, {"x": None}], "right": 0.5}


def test_texts_with_nothing_to_learn_are_counted(
    prge: Callable[..., tuple[int, Any]], export: Callable[..., Path], demo_data: Path, tmp_path: Path
) -> None:
    """Where the tokenizer adds no first token, a text of one token has nothing that it could be predicted from."""
    adapter = AdapterConfig(rank=4, subspace="svd")
    program = export(adapter=adapter, template="", label_words=(), target="{text}", max_targets=4)
    lines = [line.split("\t")[0] for line in (demo_data / "train.tsv").read_text().splitlines()[1:20]]
    data = tmp_path / "data.txt"
    data.write_text("\n\n".join([*lines[:9], "a", *lines[9:]]) + "\n")
    arguments = ["--data", data, "--truncate", "--steps", 1, "--lr", 0.01, "-o", tmp_path / "run"]
    code, found = prge("train", program, *arguments)
    assert code == 0 and found["skipped"] == "1 record that holds nothing to learn", found
