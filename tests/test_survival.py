"""Runs that are killed, cut off, starved of disk, or stopped: they go on to the very same bits.

``PRGE_THOROUGH=1 pytest -n 0 -s tests/test_survival.py`` makes the figures: 200 kills, every prefix, 5,000 steps.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import save_file
from survivor import STEPS, begin, go_on, resume
from test_training import examples

from prge.commands import train as training
from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.files.checked import load_checked
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.runtime_driver.loop.stopping import Limits, Stopping
from prge.runtime_driver.loop.train import TrainConfig, fold
from prge.runtime_driver.program.state import save_state
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import CONFIG_FILE, LOG_FILE, START_FILE, VERSION, RunFolder
from prge.runtime_driver.run.journal import Journal, read_journal
from prge.runtime_driver.run.snapshots import BEST_FILE, EARLIER_FILE, STATE_FILE, Snapshots, newest, read_snapshot

THOROUGH = bool(os.environ.get("PRGE_THOROUGH"))
thorough = pytest.mark.skipif(not THOROUGH, reason="PRGE_THOROUGH=1 runs it: minutes")


def outcome(run: Path) -> tuple[Any, ...]:
    """All that a run comes to: where it began, states, journal without times, adapter."""
    rows, _ = read_journal(run / LOG_FILE)
    state = read_snapshot(run / STATE_FILE).state.numpy().tobytes()
    kept = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    adapter, _ = load_checked(run / "adapter" / "adapter_model.safetensors", "an adapter", required=True)
    start, best = ((run / name).read_bytes() if (run / name).exists() else None for name in (START_FILE, BEST_FILE))
    return start, best, state, kept, {name: tensor.numpy().tobytes() for name, tensor in adapter.items()}


@pytest.fixture(scope="module")
def undisturbed(program_folder: Path, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert begin(program_folder, demo_data, run)["completed"]
    return run


def life_of(context: ForkServerContext, program: Path, data: Path, run: Path) -> float:
    """Seconds that a run of its own process takes. The second one: the first waits for the modules' import."""
    for _ in range(2):
        began = time.perf_counter()
        process = context.Process(target=go_on, args=(program, data, run))
        process.start()
        process.join()
        assert process.exitcode == 0
        found = time.perf_counter() - began
        shutil.rmtree(run)
    return found


def test_killed_runs_end_with_the_same_bits(
    undisturbed: Path, program_folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    """kill -9 at random moments of the run's whole life, loading and writing included."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prge.commands.train", "matplotlib.pyplot", "torch._dynamo"])
    expected, chance = outcome(undisturbed), random.Random(0)
    life = life_of(context, program_folder, demo_data, tmp_path / "whole")
    kills, runs, behind = 0, 0, []
    while kills < (200 if THOROUGH else 4):
        runs += 1
        run = tmp_path / f"run{runs}"
        while True:
            process = context.Process(target=go_on, args=(program_folder, demo_data, run))
            process.start()
            process.join(life * chance.uniform(0.05, 1.5))
            if process.exitcode is not None:
                break
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
            if (run / CONFIG_FILE).exists():
                steps = len(read_journal(run / LOG_FILE)[0])
                behind.append(steps - newest(run, steps).steps)
        assert process.exitcode == 0
        assert outcome(run) == expected
    assert max(behind, default=0) <= 1  # nothing lost but the step in flight
    print(f"\n{kills} kills over {runs} runs; steps journalled and not in a snapshot: {sum(behind)}")


def test_every_prefix_of_journal_and_snapshot(
    program_folder: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves any prefix of either file: the run goes on from a point that it was at, or says why not."""
    program, run = StepProgram(program_folder), tmp_path / "run"
    states = record_states(program_folder, demo_data, run, 12, monkeypatch)
    whole = {name: (run / name).read_bytes() for name in (LOG_FILE, STATE_FILE, EARLIER_FILE)}
    chance = random.Random(1)
    lengths = {name: len(content) for name, content in whole.items()}
    cuts = [{name: size} for name in lengths for size in range(lengths[name])]
    cuts = cuts if THOROUGH else chance.sample(cuts, 150)
    cuts += [{n: chance.randint(0, lengths[n]) for n in lengths} for _ in range(1000 if THOROUGH else 100)]
    resumed = 0
    for cut in cuts:
        for name, content in whole.items():
            (run / name).write_bytes(content[: cut.get(name)])
        try:
            opened = RunFolder.resume(run, program)
        except UserError as e:
            assert "cannot be resumed" in str(e) and "\n" not in str(e)
            # Only where no whole snapshot is as old as the journal.
            assert len(cut) > 1 or LOG_FILE in cut
            continue
        opened.close()
        resumed += 1
        assert torch.equal(opened.stands.state, states[opened.stands.steps])
        assert len(read_journal(run / LOG_FILE)[0]) == opened.stands.steps
    assert 0 < resumed <= len(cuts)
    print(f"\n{len(cuts)} cuts, {resumed} resumed, {len(cuts) - resumed} refused")


def record_states(
    program: Path, data: Path, run: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> list[torch.Tensor]:
    """Every state of a run, which writes every fourth snapshot through to the disk."""
    states: list[torch.Tensor] = []
    save = Snapshots.save

    def recording(self: Snapshots, snapshot: Any, sync: Callable[[], None]) -> None:
        states.append(snapshot.state.clone())
        self._synced -= 10.0 * (snapshot.steps % 4 == 3)
        save(self, snapshot, sync)

    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "save", recording)
        begin(program, data, run, steps)
    return states


class Fault:
    """Fails the n-th write, rename, or write-through of files below a folder, half of the bytes written."""

    def __init__(self, folder: Path, at: int, number: int, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.at, self.number, self.seen = str(folder), at, number, 0
        opened, moved, synced = io.open, os.replace, os.fsync

        def open_(file: Any, *args: Any, **kwargs: Any) -> Any:
            found = opened(file, *args, **kwargs)
            return Failing(found, self) if self._mine(file) and found.writable() else found

        def replace(a: Any, b: Any, **kwargs: Any) -> None:
            if self._mine(b):
                self.count()
            moved(a, b, **kwargs)

        def fsync(descriptor: Any) -> None:
            self.count()
            synced(descriptor)

        monkeypatch.setattr(io, "open", open_)
        monkeypatch.setattr(builtins, "open", open_)
        monkeypatch.setattr(os, "replace", replace)
        monkeypatch.setattr(os, "fsync", fsync)

    def _mine(self, file: Any) -> bool:
        return isinstance(file, (str, Path)) and str(file).startswith(self.folder)

    def count(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise OSError(self.number, os.strerror(self.number))


class Failing:
    def __init__(self, file: Any, fault: Fault):
        self._file, self._fault = file, fault

    def write(self, data: Any) -> Any:
        try:
            self._fault.count()
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Failing:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_or_broken_disk_stops_a_run_and_loses_nothing(
    number: int, program_folder: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error injected at every write: one sentence, the snapshot before is whole, and the run goes on.

    The run begins with another's state, which it writes too.
    """
    begin(program_folder, demo_data, tmp_path / "before", 1, eval_every=0)
    monkeypatch.setattr("prge.runtime_driver.run.snapshots._SYNC", 0.0)  # every step is written through
    settings: dict[str, Any] = {"steps": 3, "eval_every": 0, "start": tmp_path / "before"}
    begin(program_folder, demo_data, tmp_path / "clean", **settings)
    expected = outcome(tmp_path / "clean")
    at, failed = 0, 0
    while True:
        at += 1 if THOROUGH else 7
        run = tmp_path / f"run{at}"
        with monkeypatch.context() as patch:
            fault = Fault(run, at, number, patch)
            try:
                begin(program_folder, demo_data, run, **settings)
                if fault.seen < at:
                    break  # no write was left to fail
            except UserError as e:
                failed += 1
                assert os.strerror(number) in str(e) and "\n" not in str(e)
        if (run / CONFIG_FILE).exists():
            newest(run, len(read_journal(run / LOG_FILE)[0]))
            resume(run)
        else:
            begin(program_folder, demo_data, run, **settings)
        assert outcome(run) == expected
    assert failed > (20 if THOROUGH else 3)
    print(f"\n{errno.errorcode[number]} at each of {at} writes: {failed} stopped, all resumed")


def test_limits_and_signals_stop_between_steps(
    undisturbed: Path, program_folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stopped = begin(program_folder, demo_data, run, limits=Limits(max_minutes=0.0))
    assert not stopped["completed"] and stopped["steps"] == 1 and "0 minutes are over" in stopped["stopped"]
    assert stopped["go_on"] == f"prge train --resume {run}"
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    before = signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        stopped = resume(run)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not stopped["completed"] and stopped["stopped"] == "interrupted"
    assert resume(run)["completed"] and outcome(run) == outcome(undisturbed)
    assert resume(run)["completed"]  # nothing is left to do


def test_a_hot_or_starved_machine(
    program_folder: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prge.runtime_driver.loop.stopping._LOOK", 0.0)
    heat = iter([90.0, 90.0, 88.0, 84.0, *[60.0] * 10_000])
    monkeypatch.setattr("prge.runtime_driver.loop.stopping.temperature", lambda: next(heat))
    assert begin(program_folder, demo_data, tmp_path / "hot", 5, limits=Limits(max_temperature=85.0))["completed"]
    assert next(heat) == 60.0
    charge = iter([50.0, 30.0, 19.0])
    monkeypatch.setattr("prge.runtime_driver.loop.stopping.battery", lambda: next(charge))
    stopped = begin(program_folder, demo_data, tmp_path / "low", 5, limits=Limits(min_battery=20.0))
    assert "the battery is at 19 %" in stopped["stopped"] and stopped["steps"] == 2
    monkeypatch.setattr("prge.runtime_driver.loop.stopping.battery", lambda: None)
    with pytest.raises(UserError, match="shows no battery"):
        Limits(min_battery=20.0)
    memory = type("memory", (), {"available": 1e6, "total": 1e9})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    stopped = begin(program_folder, demo_data, tmp_path / "full", 5)
    assert stopped["stopped"] == "only 1 MB of memory are left"


class Clock:
    """A time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeping: Callable[[], object] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeping()


@pytest.mark.parametrize("what", ["minutes", "battery", "memory", "SIGTERM", "SIGINT"])
def test_a_machine_that_stays_hot_waits_no_longer_than_anything_allows(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, place, told = Clock(), "prge.runtime_driver.loop.stopping", []
    monkeypatch.setattr(f"{place}.time", clock)
    monkeypatch.setattr(f"{place}.temperature", lambda: 90.0)
    monkeypatch.setattr(f"{place}.battery", lambda: 50.0 - clock.now if what == "battery" else 50.0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(
        total=1e9, available=1e6 if what == "memory" and clock.now > 30 else 5e8
    ))  # fmt: skip
    if what.startswith("SIG"):
        clock.sleeping = lambda: os.kill(os.getpid(), getattr(signal, what)) if clock.now == 30 else None
    limits = Limits(1.0 if what == "minutes" else None, 60.0, 20.0 if what == "battery" else None)
    with Stopping(limits) as stopping:
        clock.now = 2.0

        def waiting(text: str) -> None:
            told.append(text)
            assert clock.now < 3600, "it waits for ever"

        with pytest.raises(KeyboardInterrupt):
            stopping.look(waiting)
    why, at = {
        "minutes": ("1 minutes are over", 60),
        "battery": ("the battery is at 19 %", 31),
        "memory": ("only 1 MB of memory are left", 31),
    }.get(what, ("interrupted", 30))
    assert (stopping.why, clock.now) == (why, at) and told == ["waiting at 90 degrees"] * (at - 2)


def test_what_cannot_be_resumed_is_said(
    prge: Callable[..., tuple[int, Any]], undisturbed: Path, weights_program: Path, demo_data: Path, tmp_path: Path
) -> None:
    def refused(*arguments: object) -> str:
        code, printed = prge("train", "--resume", *arguments)
        assert code == 1
        return str(printed["error"])

    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    assert "no run folder" in refused(tmp_path)
    assert "leave steps, lr out" in refused(run, "--steps", 3, "--lr", 1)
    assert "its gradient is 'activations', and that of" in refused(run, weights_program)
    lines = (demo_data / "train.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "other.tsv").write_text("".join(lines[:-1]))
    assert "not the examples" in refused(run, "--data", tmp_path / "other.tsv")
    journal = Journal(run / LOG_FILE)
    assert "in use: another process" in refused(run)
    journal.close()
    for name in (STATE_FILE, EARLIER_FILE):
        (run / name).unlink(missing_ok=True)
    assert "cannot be resumed" in refused(run)
    damaged = bytearray((run / LOG_FILE).read_bytes())
    damaged[1000] ^= 1
    (run / LOG_FILE).write_bytes(damaged)
    assert "is damaged at byte" in refused(run)
    (run / CONFIG_FILE).write_text("{")
    assert "not the description of a run" in refused(run)


@pytest.fixture(scope="module")
def weights_run(weights_program: Path, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six steps of perturbed weights."""
    run = tmp_path_factory.mktemp("weights") / "run"
    assert begin(weights_program, demo_data, run, 6, lr=1.0, eval_every=0)["completed"]
    return run


@pytest.mark.parametrize("kind", ["weights", "activations"])
def test_a_replay_begins_with_what_its_run_began_with(
    kind: str, prge: Callable[..., tuple[int, Any]], program_folder: Path, weights_program: Path, demo_data: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Also when the run before has gone on since, or is gone."""
    program, lr = (weights_program, 1.0) if kind == "weights" else (program_folder, 0.02)
    a, b, settings = tmp_path / "a", tmp_path / "b", {"lr": lr, "eval_every": 0}
    stopped = begin(program, demo_data, a, 10, limits=Limits(max_minutes=0.0), **settings)
    assert stopped["steps"] == 1
    between = read_state_of(a / STATE_FILE)
    begin(program, demo_data, b, 5, start=a / STATE_FILE, **settings)
    assert torch.equal(read_state_of(b / START_FILE), between)
    assert resume(a)["completed"]
    for name in ("again", "alone"):
        code, _ = prge("replay", b, "-o", tmp_path / name)
        assert code == 0
        torch.testing.assert_close(
            read_state_of(tmp_path / name / STATE_FILE), read_state_of(b / STATE_FILE), rtol=1e-5, atol=1e-6
        )
        shutil.rmtree(a, ignore_errors=True)
    code, found = prge("verify", b)
    assert code == 0 and found["steps"] == 5
    code, found = prge("forget", b, "--yes")
    assert code == 0 and not b.exists()


def test_a_start_that_is_not_the_run_s_is_refused(
    prge: Callable[..., tuple[int, Any]], weights_run: Path, weights_program: Path, program_folder: Path,
    demo_data: Path, tmp_path: Path,
) -> None:  # fmt: skip
    run, m = tmp_path / "run", StepProgram(weights_program).manifest
    begin(weights_program, demo_data, run, 2, lr=1.0, start=weights_run)
    whole = (run / START_FILE).read_bytes()
    state = read_state_of(run / START_FILE)
    other = StepProgram(program_folder).manifest

    def missing(file: Path) -> None:
        file.unlink()

    for change, message in [
        (missing, "is missing; the run began with the state in it"),
        (lambda file: file.write_bytes(whole[:-1]), START_FILE),
        (lambda file: file.write_bytes(whole[:-1] + b"?"), "is damaged: its checksum"),
        (lambda file: save_state(file, state, m, 7), "is not the state that this run began with"),
        (lambda file: save_state(file, torch.zeros(other.state_size), other, 6), f"{START_FILE} holds 180 numbers"),
        (lambda file: save_state(file, state[:-1], m, 6), f"{START_FILE} holds"),
        (lambda file: shutil.copy(run / CONFIG_FILE, file), START_FILE),
    ]:  # fmt: skip
        change(run / START_FILE)
        for command in (["verify", run], ["replay", run, "-o", tmp_path / "out"]):
            code, refused = prge(*command)
            assert code == 1 and message in refused["error"], (message, refused)
        assert not (tmp_path / "out").exists()
        (run / START_FILE).write_bytes(whole)
    assert prge("replay", run, "-o", tmp_path / "out")[0] == 0


def test_a_replay_with_another_program_is_refused(
    prge: Callable[..., tuple[int, Any]], export: Callable[..., Path], weights_run: Path, tmp_path: Path
) -> None:
    """Of the same sizes, so that nothing else would tell: its adapter would be another."""
    step, adapter = StepConfig(2, 2, "weights", "sgd"), AdapterConfig(4, 16.0, subspace="fisher", directions=3)
    code, refused = prge(
        "replay", weights_run, "--program", export(step=step, adapter=adapter), "-o", tmp_path / "out"
    )  # fmt: skip
    assert code == 1 and "is a run of another program: its adapter_sha256" in refused["error"]
    assert not (tmp_path / "out").exists()


def test_a_run_that_begins_where_one_was_cut_off_has_a_start_of_its_own(
    weights_run: Path, weights_program: Path, demo_data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    begin(weights_program, demo_data, run, 2, lr=1.0, start=weights_run)
    (run / CONFIG_FILE).unlink()  # as it is before a run has begun
    (run / LOG_FILE).write_bytes(b"")
    for file in ("curves.png", EARLIER_FILE, BEST_FILE, *(f"adapter/{p.name}" for p in (run / "adapter").iterdir())):
        (run / file).unlink()
    (run / "adapter").rmdir()
    begin(weights_program, demo_data, run, 2, lr=1.0)
    assert not (run / START_FILE).exists()


def test_the_state_that_was_the_best_on_dev_is_kept(
    prge: Callable[..., tuple[int, Any]], program_folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    """The last one within two points of the highest accuracy. The adapter is made of it; a replay makes both."""
    run, again = tmp_path / "run", tmp_path / "again"
    told = begin(program_folder, demo_data, run, 24, lr=0.2, eval_every=2)
    rows, _ = read_journal(run / LOG_FILE)
    made = {row["step"] + 1: row["dev"] for row in rows if "dev" in row}
    highest = max(dev["accuracy"] for dev in made.values())
    steps = max(step for step, dev in made.items() if dev["accuracy"] >= highest - 0.02)
    loss = made[steps]["loss"]
    assert told["after"] == {"steps": steps, **made[steps]} and steps < 24
    assert prge("replay", run, "-o", again, "--steps", steps)[0] == 0
    assert read_state_of(again / STATE_FILE).equal(read_state_of(run / BEST_FILE))
    adapters = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in (run, again)]
    assert adapters[0] == adapters[1]
    data = ("--data", demo_data / "test.tsv", "--truncate")
    assert prge("eval", program_folder, *data, "--state", run)[1]["loss"] == pytest.approx(loss)
    assert prge("verify", run)[1]["best_step"] == steps
    shutil.copy(again / STATE_FILE, run / BEST_FILE)
    assert prge("verify", run)[0] == 0
    save_state(run / BEST_FILE, read_state_of(again / STATE_FILE), StepProgram(program_folder).manifest, steps - 2)
    code, refused = prge("verify", run)
    assert code == 1 and f"the journal says that step {steps} was the best" in refused["error"]
    save_file({"state": read_state_of(again / STATE_FILE)}, run / BEST_FILE, {"steps": "many"})
    assert "best.safetensors is not a state of prge: it says of its steps 'many'" in prge("verify", run)[1]["error"]
    (run / BEST_FILE).unlink()
    assert "best.safetensors does not exist" in prge("verify", run)[1]["error"]


@pytest.mark.parametrize("version", [None, 1, VERSION - 1, VERSION + 1, str(VERSION), 2.5, [VERSION]])
def test_a_run_of_another_format_says_which(
    version: Any, prge: Callable[..., tuple[int, Any]], weights_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(weights_run, run)
    config = json.loads((run / CONFIG_FILE).read_text())
    assert next(iter(config)) == "version" and config.pop("version") == VERSION
    (run / CONFIG_FILE).write_text(json.dumps(config if version is None else {"version": version, **config}))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    formats = f"(run format {version or 1}, this one reads {VERSION})"
    told = f"{run} was begun by another version of prge {formats}; finish it with"
    out = tmp_path / "out"
    for command in (
        ["train", "--resume", run], ["replay", run, "-o", out], ["verify", run], ["compare", run, run], ["forget", run],
    ):  # fmt: skip
        code, refused = prge(*command, *(["--yes"] if command[0] == "forget" else []))
        assert code == 1 and refused["error"].startswith(told) and f"--from {run}" in refused["error"]
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_run_is_not_taken_for_a_program_or_a_model(
    prge: Callable[..., tuple[int, Any]], weights_run: Path, demo_data: Path, tmp_path: Path
) -> None:
    with_program = tmp_path / "run"
    shutil.copytree(weights_run, with_program)
    (with_program / "program").mkdir()
    program = json.loads((weights_run / CONFIG_FILE).read_text())["program"]
    data, out = ["--data", demo_data / "train.tsv"], tmp_path / "out"
    for run, its in ((weights_run, program), (with_program, with_program / "program")):
        for command in (
            ["train", run, *data, "-o", out], ["train", run, *data, "--label", "a=b", "-o", out], ["eval", run, *data],
            ["predict", run, "a text"], ["calibrate", run, *data], ["inspect", run], ["generate", run, "a text"],
            ["export", run, "-o", out, "--label", "a= b", "--label", "b= c"], ["plan", run, "--memory", "1GB"],
            ["bench", "step", run, "-o", out],
        ):  # fmt: skip
            code, refused = prge(*command)
            said = refused["error"]
            assert code == 1 and said.startswith(f"{run} is a run of `prge train`, not a"), (command, said)
            assert f"its program is {its}, and `prge train --resume {run}` goes on" in said
    assert not out.exists()


def test_a_run_whose_files_have_moved_says_how_to_go_on(
    prge: Callable[..., tuple[int, Any]], weights_program: Path, demo_data: Path, tmp_path: Path
) -> None:
    run, program, data = tmp_path / "run", tmp_path / "program", tmp_path / "data"
    shutil.copytree(weights_program, program)
    shutil.copytree(demo_data, data)
    tokenizer = shutil.copy(program / "tokenizer.json", data)
    begin(program, data, run, 3, lr=1.0, limits=Limits(max_minutes=0.0), tokenizer=tokenizer)
    moved, there = tmp_path / "moved", tmp_path / "there"
    program.rename(moved)
    resuming = f"`prge train PROGRAM --data FILE --resume {run} --dev FILE`"
    code, refused = prge("train", "--resume", run)
    assert code == 1 and refused["error"].endswith(f"its program is not at {program / 'program.pte'}; if it has moved, "
                                                   f"say where it is: {resuming}")  # fmt: skip
    data.rename(there)
    code, refused = prge("train", moved, "--resume", run)
    assert code == 1 and refused["error"].endswith(resuming) and "its program" not in refused["error"]
    assert f"its data is not at {data / 'train.tsv'} and its dev data is not at {data / 'test.tsv'}" in refused["error"]
    given = ["--data", there / "train.tsv", "--dev", there / "test.tsv"]
    code, trained = prge("train", moved, *given, "--resume", run)
    assert code == 0 and trained["completed"]
    code, refused = prge("replay", run, "-o", tmp_path / "again")  # which needs no data
    assert code == 1 and refused["error"].endswith(f"`prge replay {run} --program PROGRAM -o {tmp_path / 'again'}`")
    assert prge("replay", run, "--program", moved, "-o", tmp_path / "again")[0] == 0


@pytest.mark.parametrize("steps", [None, 123])
def test_a_replay_is_the_run_or_a_part_of_it(
    steps: int | None, prge: Callable[..., tuple[int, Any]], undisturbed: Path, program_folder: Path,
    weights_program: Path, demo_data: Path, tmp_path: Path,
) -> None:  # fmt: skip
    upto = [] if steps is None else ["--steps", steps]
    code, replayed = prge("replay", undisturbed, "-o", tmp_path / "again", *upto)
    assert code == 0 and replayed["forward_passes"] == (steps or STEPS)
    described = json.loads((undisturbed / CONFIG_FILE).read_text())
    expected = state_after(StepProgram(program_folder), undisturbed, described, steps or STEPS)
    assert torch.equal(read_state_of(tmp_path / "again" / STATE_FILE), expected)
    weights = tmp_path / "weights"
    begin(weights_program, demo_data, weights, 150, lr=1.0)
    code, replayed = prge("replay", weights, "-o", tmp_path / "other", *upto)
    assert code == 0 and replayed["forward_passes"] == 0
    if steps is None:
        state = read_snapshot(weights / STATE_FILE).state
        torch.testing.assert_close(read_state_of(tmp_path / "other" / STATE_FILE), state, rtol=1e-5, atol=1e-6)
    code, refused = prge("replay", weights, "-o", tmp_path / "third", "--steps", 151)
    assert code == 1 and "has 150 steps, not 151" in refused["error"]


@thorough
def test_a_long_run_grows_nowhere(program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    """5,000 steps: memory and file handles flat, the journal linear."""
    program, process = StepProgram(program_folder), psutil.Process()
    texts = examples(program, program_folder, demo_data / "train.tsv", 100)
    config, data = TrainConfig(5000, 0.01, 0.02), {"crc": ""}
    run = RunFolder.begin(tmp_path / "run", program, config, data, program.initial_state())
    memory, handles, sizes = [], [], []
    for state, record in fold(program, run.stands.state, texts, [], config, guard=run.guard):
        run.log(record, state, run.guard, None)
        memory.append(process.memory_info().rss)
        handles.append(process.num_fds())
        sizes.append((tmp_path / "run" / LOG_FILE).stat().st_size)
    tenths = [sum(memory[i : i + 500]) / 500 for i in range(0, 5000, 500)]
    print(f"\nMB by tenths: {[round(t / 1e6, 1) for t in tenths]}; handles {min(handles)} to {max(handles)}; "
          f"journal {sizes[-1] / 5000:.0f} bytes a step")  # fmt: skip
    assert abs(tenths[-1] / tenths[1] - 1) < 0.01
    assert max(handles[100:]) == min(handles[100:])
    assert abs(sizes[-1] / sizes[2499] - 2) < 0.02


def read_state_of(path: Path) -> torch.Tensor:
    return load_checked(path, "a state")[0]["state"]


def state_after(program: StepProgram, run: Path, described: dict[str, Any], steps: int) -> torch.Tensor:
    """The state of a run's settings after some steps, without its folder."""
    source, config, loaded = training.reopen(run, described, None, None, None, "", Hooks())
    texts, dev, _ = source.read(loaded.encoder())
    with program.kept([*texts, *dev]):  # as the run has them: how sums are rounded may depend on the length of a row
        every = fold(program, program.initial_state(), texts, [], config)
        return next(state for state, record in every if record.step + 1 == steps)
