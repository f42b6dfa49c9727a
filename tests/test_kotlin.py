"""The Kotlin driver on a desktop's JVM: the same runs as the other drivers', bit for bit, and the same refusals."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from edits import json_edits, resealed
from forked import Forks
from hypothesis import given
from kotlin import build, compiled
from once import made_once
from test_bench import small_limits as small_limits
from test_cli import rewritten
from test_generate import CONTEXT, FISHER, SIZES, random_tokens, trained_state
from test_hostile import forks as forks
from test_hostile import mutated as share_of
from test_native import DIVERGING as DIVERGING
from test_native import HARMS as HARMS
from test_native import LIES as LIES
from test_native import (
    THOROUGH,
    VERSIONS,
    Prge,
    Run,
    contents,
    is_refused_as_of_another_version,
    lying,
    mutated,
    packed_for,
    said,
    same_run,
)
from test_native import built as built
from test_native import packed as packed
from test_native import programs as programs
from test_native import runner as runner

from prge.commands.build_runner import _package, find_cmake
from prge.errors import UserError
from prge.files.seal import SIZE, seal
from prge.models.step import StepConfig
from prge.runtime_driver.data.hidden import HIDDEN_FILE
from prge.runtime_driver.data.packed import pack, unpack
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.generate import GenerateProgram
from prge.runtime_driver.program.state import load_state, save_state
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.journal import read_journal

MUTATIONS = 500 if THOROUGH else 12
KILLS = 100 if THOROUGH else 10

TOOLS = {"javac": "a JDK 17", "mvn": "Maven", os.environ.get("CXX", "c++"): "a C++ compiler"}
MISSING = [name for tool, name in TOOLS.items() if not shutil.which(tool)] + ["Linux"] * (sys.platform != "linux")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the Kotlin driver's tests need {', '.join(MISSING)}")


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the driver."""
    try:
        cmake = find_cmake()
    except UserError as e:
        pytest.skip(str(e))
    source = build(tmp_path_factory) / "host"

    def make(bridge: Path) -> None:
        wheel = _package("executorch") / "share" / "cmake"
        compiled([cmake, "-S", str(source / "src/main/cpp"), "-B", str(bridge), f"-Dexecutorch_DIR={wheel}"], source)
        compiled([cmake, "--build", str(bridge)], source)

    bridge = made_once(tmp_path_factory, "bridge", make)
    jars = f"{source / 'target' / 'classes'}:{source / 'target' / 'libraries'}/*"
    return ["java", "-XX:+UseSerialGC", f"-Djava.library.path={bridge}", "-cp", jars, "org.prge.host.MainKt"]


@pytest.fixture(scope="session")
def kotlin(host: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run it as prge-run is run: (exit code, what it printed). One process serves all, until it crashes."""
    log, running = tmp_path_factory.mktemp("kotlin") / "stderr", list[subprocess.Popen[bytes]]()

    def run(*arguments: object) -> tuple[int, Any]:
        words = list(map(str, arguments))
        words = ["resume", *words[1:]] if words[0] == "--resume" else words
        if words[0] not in ("resume", "evaluate", "predict", "generate", "bench", "export"):
            words.insert(0, "train")
        if not running or running[-1].poll() is not None:
            running.append(
                subprocess.Popen([*host, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("wb"))
            )
        jvm = running[-1]
        assert jvm.stdin and jvm.stdout
        jvm.stdin.write(json.dumps(words).encode() + b"\n")
        jvm.stdin.flush()
        late = threading.Timer(600, jvm.kill)
        late.start()
        answer = jvm.stdout.readline()
        late.cancel()
        assert answer, (jvm.wait(), log.read_text(errors="replace")[-3000:])
        result = json.loads(answer)
        return int("error" in result), result

    yield run
    for jvm in running:
        jvm.kill()
        jvm.communicate()


@pytest.mark.parametrize(
    "name",
    [
        "an exact gradient", "a full gradient of text", "activations and adam", "loops on the host", "candidates",
        "an encoder's mask", "perturbed weights and momentum", "many classes", "an export from before",
    ],
)  # fmt: skip
def test_all_drivers_make_the_same_run(
    kotlin: Run, runner: Run, prge: Prge, programs: Callable[[str], Path], export: Callable[..., Path],
    demo_data: Path, tmp_path: Path, name: str,
) -> None:  # fmt: skip
    """With a measured lr, evaluations, kept hidden states, and a guard that has remembered states."""
    momentum = name == "perturbed weights and momentum"
    folder = export(step=StepConfig(2, 2, "weights", "momentum")) if momentum else programs(name)
    data = packed_for(folder, demo_data, tmp_path / "data.prge")
    common = (folder, "--data", data, "--steps", 50, "--eval-every", 20, "--seed", 3)
    code, ours = kotlin(*common, "--output", tmp_path / "kotlin")
    assert code == 0
    for driver, other in ((runner, "native"), (lambda *words: prge("train", *words), "python")):
        code, theirs = driver(*common, "--output", tmp_path / other)
        assert code == 0
        same_run(tmp_path / "kotlin", tmp_path / other)
        for field in ("completed", "steps", "lr", "before", "after"):
            assert ours[field] == theirs[field]
        described = [json.loads((tmp_path / run / "config.json").read_text()) for run in ("kotlin", other)]
        for one in described:
            del one["data"]["dev_fraction"]  # of what was split before it was packed
        assert described[0] == described[1]
    adapters = [contents(tmp_path / run / "adapter") for run in ("kotlin", "python")]
    assert adapters[0] == adapters[1] and len(adapters[0]) == 3
    assert ours["adapter"] == str(tmp_path / "kotlin" / "adapter")


def test_evaluations_and_predictions_are_python_s(
    kotlin: Run, programs: Callable[[str], Path], demo_data: Path, tmp_path: Path
) -> None:
    for name in ("activations and adam", "candidates", "an encoder's mask"):
        folder, run = programs(name), tmp_path / name
        data = packed_for(folder, demo_data, tmp_path / "data.prge")
        settings = ("--data", data, "--steps", 20, "--eval-every", 10, "--lr", 0.01, "--output", run)
        assert kotlin(folder, *settings)[0] == 0
        program = StepProgram(folder)
        dev = unpack(data, program.manifest)[1]
        for state in ([], ["--from", run], ["--from", run / "state.safetensors"]):
            file = run / "best.safetensors" if state == ["--from", run] else run / "state.safetensors"
            numbers = load_state(file, program.manifest) if state else program.initial_state()
            theirs = evaluate(program, numbers, dev)
            code, ours = kotlin("evaluate", folder, "--data", data, *state)
            assert code == 0 and ours == {"loss": theirs.loss, "accuracy": theirs.accuracy}
            code, ours = kotlin("predict", folder, "--data", data, *state)
            right = sum(answer == e.label for answer, e in zip(ours["answers"], dev, strict=True))
            assert code == 0 and right / len(dev) == theirs.accuracy
            if theirs.scores is not None:
                assert ours["answers"] == theirs.scores.argmax(1).tolist()


def test_text_is_continued_as_by_python(kotlin: Run, export: Callable[..., Path], tmp_path: Path) -> None:
    """Token by token, with and without what was trained; from prompts of one execution and of more."""
    folder = export(adapter=FISHER, **SIZES)
    step, program, path = StepProgram(folder), GenerateProgram(folder), tmp_path / "state.safetensors"
    state = trained_state(step)
    save_state(path, state, step.manifest)
    for prompt in (random_tokens(n) for n in (7, 129)):
        words = ("generate", folder, "--prompt", " ".join(map(str, prompt)), "--max-new-tokens", 24)
        found = [kotlin(*words, *more)[1]["tokens"] for more in ((), ("--from", path))]
        assert found == [list(program.generate(prompt, with_, 24)) for with_ in (step.initial_state(), state)]
        assert found[0] != found[1]
        assert kotlin(*words, "--temperature", 5, "--seed", 1)[1] == kotlin(*words, "--temperature", 5, "--seed", 1)[1]
    for refused, sentence in (
        (("generate", folder, "--prompt", " ".join(["5"] * CONTEXT)), f"the prompt has {CONTEXT} tokens; "),
        (("generate", export(), "--prompt", "5"), "generate.pte does not exist"),
    ):
        code, result = kotlin(*refused)
        assert code == 1 and sentence in result["error"]


def test_an_exported_run_goes_on_in_python_and_is_merged(
    kotlin: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """As docs/phone.md says: the zip that the app writes, unpacked where the program has another path."""
    phone, whole = tmp_path / "phone", tmp_path / "whole"
    shutil.copytree(program_folder, phone / "program")
    shutil.copy(packed, phone / "data.prge")
    run = (phone / "program", "--data", phone / "data.prge", "--steps", 6, "--eval-every", 3, "--lr", 0.01)
    assert kotlin(*run, "--output", phone / "run", "--max-minutes", 0)[0] == 0
    assert kotlin(*run, "--output", whole)[0] == 0
    for steps, more in ((2, ("--max-minutes", 0)), (6, ())):  # one that was stopped, and one that came to its end
        assert kotlin("--resume", phone / "run", *more)[1]["steps"] == steps
        laptop = tmp_path / f"laptop-{steps}"
        exported = kotlin("export", phone / "run", "--data", phone / "data.prge", "--output", tmp_path / "demo.zip")
        assert exported == (0, {"zip": str(tmp_path / "demo.zip")})
        with zipfile.ZipFile(tmp_path / "demo.zip") as file:
            assert not any(HIDDEN_FILE in name for name in file.namelist())
            file.extractall(laptop)
        assert (laptop / "run" / "adapter").is_dir() == (steps == 6)
        resumed = ("train", program_folder, "--data", laptop / "data.prge", "--resume", laptop / "run")
        code, result = prge(*resumed)
        assert code == 0 and result["completed"] and result["steps"] == 6
        same_run(laptop / "run", whole)
        assert contents(laptop / "run" / "adapter") == contents(whole / "adapter")
        code, result = prge("merge", laptop / "run", "--output", laptop / "merged")
        assert code == 0 and (laptop / "merged" / "config.json").is_file(), result


def test_a_phone_s_report_stands_beside_a_local_one(
    kotlin: Run, prge: Prge, program_folder: Path, small_limits: None, tmp_path: Path
) -> None:
    """The report that the app saves, of the same program's step."""
    code, report = kotlin("bench", program_folder, "--tokens", 9, "--threads", 1)
    assert code == 0
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "step.json").write_text(json.dumps(report))
    local = ("bench", "step", program_folder, "--peers", "none", "--tokens", 9, "--rounds", 1, "--threads", 1)
    assert prge(*local, "--output", tmp_path / "here")[0] == 0
    code, compared = prge("bench", "compare", tmp_path / "here", tmp_path / "phone")
    (row,) = (row for row in compared["rows"] if row["contender"] == program_folder.name)
    assert code == 0 and row["tokens"] == 9 and row["seconds"][1] == report["rows"][0]["seconds"] > 0


def test_the_drivers_take_turns(
    kotlin: Run, runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Step by step in one folder, whoever began it."""
    data = ("--data", packed, "--steps", 9, "--eval-every", 3, "--lr", 0.01)
    assert runner(program_folder, *data, "--output", tmp_path / "whole")[0] == 0
    drivers: list[Run] = [kotlin, runner, lambda *words: prge("train", *words)]
    for first in range(3):
        run = tmp_path / f"turns-{first}"
        assert drivers[first](program_folder, *data, "--output", run, "--max-minutes", 0)[0] == 0
        kept = (run / HIDDEN_FILE).read_bytes()
        for turn in range(1, 8):
            if turn > 4:  # each makes what another made, and goes on with it
                (run / HIDDEN_FILE).unlink()
            code, result = drivers[(first + turn) % 3]("--resume", run, "--max-minutes", 0)
            assert code == 0 and result["steps"] == turn + 1 and (run / HIDDEN_FILE).read_bytes() == kept
        code, result = kotlin("--resume", run)
        assert code == 0 and result["completed"]
        same_run(run, tmp_path / "whole")


def test_a_killed_run_loses_nothing(
    host: list[str], kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """-9 at random moments, also while it begins; what goes on makes the same bits."""
    data = ("--data", str(packed), "--steps", "1000", "--eval-every", "100", "--lr", "0.01", "--patience", "0")
    began = time.monotonic()
    assert kotlin(program_folder, *data, "--output", tmp_path / "whole")[0] == 0
    # Not an assertion about time: kills fall anywhere within as long as a whole run took.
    whole, chance, run = time.monotonic() - began, random.Random(5), tmp_path / "run"
    killed = resumed = 0
    while killed < KILLS:
        begun = (run / "config.json").exists()
        resumed += begun
        # Without --patience 0, a run that is killed at its early stop would go on to one evaluation more.
        begin = ["train", str(program_folder), *data, "--output", str(run)]
        words = ["resume", str(run), "--patience", "0"] if begun else begin
        process = subprocess.Popen([*host, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.0, whole))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        if process.wait() == 0:
            same_run(run, tmp_path / "whole")
            shutil.rmtree(run)
    assert resumed
    if (run / "config.json").exists():
        assert kotlin("--resume", run, "--patience", 0)[0] == 0
        same_run(run, tmp_path / "whole")


def test_a_run_is_one_process_s(
    host: list[str], kotlin: Run, runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Whichever drivers the two are: the second is refused, and the first goes on."""
    drivers: dict[str, Run] = {"kotlin": kotlin, "native": runner, "python": lambda *words: prge("train", *words)}
    beginning = {
        "kotlin": [*host, "train"], "native": [str(runner.path)], "python": [sys.executable, "-m", "prge", "train"]  # type: ignore[attr-defined]
    }  # fmt: skip
    for name, command in beginning.items():
        run = tmp_path / name
        words = (program_folder, "--data", packed, "--output", run, "--steps", 100000, "--lr", 1e-3, "--eval-every", 0)
        log = (tmp_path / f"{name}.log").open("wb")
        process = subprocess.Popen([*command, *map(str, words)], stdout=log, stderr=log)
        try:
            until(lambda: lines_of(run / "log.jsonl") > 3)  # noqa: B023
            for second in drivers.values():
                code, refused = second("--resume", run)
                assert code == 1 and "in use: another process trains there" in refused["error"]
            before = lines_of(run / "log.jsonl")
            until(lambda: lines_of(run / "log.jsonl") > before)  # noqa: B023
        finally:
            process.kill()
            process.wait()
        for each in drivers.values():
            assert each("--resume", run, "--max-minutes", 0)[0] == 0


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def until(happened: Callable[[], bool]) -> None:
    """Wait for what another process does; a minute or more, on a busy machine."""
    for _ in range(2400):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize("cache", ["off", "0.01 MB"])
def test_without_room_for_hidden_states_they_are_computed_at_every_step(
    kotlin: Run, runner: Run, program_folder: Path, packed: Path, tmp_path: Path, cache: str
) -> None:
    common = (program_folder, "--data", packed, "--steps", 12, "--eval-every", 5, "--cache", cache)
    assert kotlin(*common, "--output", tmp_path / "kotlin")[0] == 0
    assert runner(*common, "--output", tmp_path / "native")[0] == 0
    same_run(tmp_path / "kotlin", tmp_path / "native")
    assert not (tmp_path / "kotlin" / HIDDEN_FILE).exists()
    assert kotlin("--resume", tmp_path / "kotlin")[0] == 0


@pytest.mark.parametrize("harm", HARMS)
def test_a_resume_makes_hidden_states_again(
    kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path, harm: str
) -> None:
    run = tmp_path / "run"
    common = (program_folder, "--data", packed, "--lr", 0.01, "--steps", 3, "--max-minutes", 0, "--output", run)
    assert kotlin(*common)[0] == 0
    whole = (run / HIDDEN_FILE).read_bytes()
    harmed = HARMS[harm](whole)
    (run / HIDDEN_FILE).unlink() if harmed is None else (run / HIDDEN_FILE).write_bytes(harmed)
    assert kotlin("--resume", run)[0] == 0 and (run / HIDDEN_FILE).read_bytes() == whole


def test_runs_share_a_folder_of_hidden_states(
    kotlin: Run, runner: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared" / "states"
    common = (program_folder, "--data", packed, "--lr", 0.01, "--steps", 4, "--cache", shared)
    assert runner(*common, "--output", tmp_path / "native")[0] == 0
    (file,) = shared.iterdir()
    made, content = file.stat().st_mtime_ns, file.read_bytes()
    assert kotlin(*common, "--output", tmp_path / "kotlin")[0] == 0
    assert list(shared.iterdir()) == [file] and file.stat().st_mtime_ns == made
    same_run(tmp_path / "kotlin", tmp_path / "native")
    assert json.loads((tmp_path / "kotlin" / "config.json").read_text())["data"]["cache"] == str(file)
    file.unlink()
    assert kotlin("--resume", tmp_path / "native")[0] == 0 and file.read_bytes() == content
    code, result = kotlin(*common[:-1], file, "--output", tmp_path / "blocked")
    assert code == 1 and said(result["error"]) == f"{file} cannot be written" and not (tmp_path / "blocked").exists()


def test_a_diverging_run_backs_off_alike(
    kotlin: Run, runner: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """To the best state of ten steps; and at the first step, until both give up with the same files."""
    backed_off: dict[str, bool] = {}
    for name, settings in (
        *((f"later {i}", ("--steps", 100, *options, "--eps", 0.1)) for i, options in enumerate(DIVERGING)),
        ("once", ("--steps", 20, "--lr", 1e300)),
        ("no number", ("--steps", 20, "--lr", 1e38)),
    ):
        common = (program_folder, "--data", packed, "--eval-every", 0, *settings)
        code, ours = kotlin(*common, "--output", tmp_path / name / "kotlin")
        other, theirs = runner(*common, "--output", tmp_path / name / "native")
        assert code == other and ours.get("error") == theirs.get("error")
        same_run(tmp_path / name / "kotlin", tmp_path / name / "native")
        rows = read_journal(tmp_path / name / "kotlin" / "log.jsonl")[0]
        backed_off[name] = any(row["backed_off"] for row in rows)
    assert backed_off["once"] and backed_off["no number"]
    assert any(backed_off[f"later {i}"] for i in range(len(DIVERGING)))


def test_a_run_goes_on_from_another_s_state(
    kotlin: Run, runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    first = ("--steps", 4, "--lr", 0.01, "--output", tmp_path / "first")
    assert runner(program_folder, "--data", packed, *first)[0] == 0
    second = (program_folder, "--data", packed, "--from", tmp_path / "first", "--steps", 12)
    assert kotlin(*second, "--output", tmp_path / "kotlin")[0] == 0
    assert runner(*second, "--output", tmp_path / "native")[0] == 0
    same_run(tmp_path / "kotlin", tmp_path / "native")
    for file in ("start.safetensors", "config.json"):
        kept = [(tmp_path / run / file).read_bytes() for run in ("kotlin", "native")]
        assert kept[0] == kept[1] if file != "config.json" else json.loads(kept[0]) == json.loads(kept[1])
    code, replayed = prge("replay", tmp_path / "kotlin", "--output", tmp_path / "replayed")
    assert code == 0, replayed


def test_what_does_not_fit_is_refused_in_the_same_words(
    kotlin: Run, runner: Run, program_folder: Path, programs: Callable[[str], Path], packed: Path, tmp_path: Path
) -> None:
    text, newer, new = tmp_path / "data.tsv", tmp_path / "newer.prge", ("--output", tmp_path / "run")
    text.write_text("text\tlabel\n")
    newer.write_bytes(resealed(packed.read_bytes().replace(b'"packed":"1"', b'"packed":"2"')))
    other = tmp_path / "other"
    shutil.copytree(program_folder, other)
    shutil.copy(programs("loops on the host") / "frozen.pte", other / "frozen.pte")
    alone = tmp_path / "alone"
    shutil.copytree(program_folder, alone)
    (alone / "frozen.pte").unlink()
    for arguments in (
        (program_folder, "--data", text, *new),
        (program_folder, "--data", newer, *new),
        (program_folder, "--data", tmp_path / "none", *new),
        (programs("candidates"), "--data", packed, *new),
        (text, "--data", packed, *new),
        (tmp_path / "none", "--data", packed, *new),
        (program_folder / "frozen.pte", "--data", packed, *new),
        (other, "--data", packed, "--lr", 0.01, *new),
        (alone, "--data", packed, "--lr", 0.01, *new),
        (program_folder, "--data", packed, *new, "--steps", "many"),
        (program_folder, "--data", packed, *new, "--lr", "0x"),
        (program_folder, "--data", packed, *new, "--cache", "1.MB"),
        (program_folder, "--data", packed, "--output", packed.parent),
        (programs("an exact gradient"), "--data", packed, "--eps", 0.1, *new),
        ("--resume", tmp_path),
        (program_folder, "--data", packed, *new, "--from", tmp_path),
        (program_folder, "--data", packed, *new, "--from", packed),
    ):
        (code, ours), (other_code, theirs) = kotlin(*arguments), runner(*arguments)
        assert code == other_code == 1 and ours["error"].partition(" (")[0] == theirs["error"].partition(" (")[0]
        assert not (tmp_path / "run").exists()


def test_numbers_in_a_run_s_description_may_be_spelled_in_another_way(
    kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """A manifest may say 32 where Python's driver writes 32.0."""
    run, settings = tmp_path / "run", ("--data", packed, "--lr", 0.01, "--steps", 3)
    assert kotlin(program_folder, *settings, "--output", run, "--max-minutes", 0)[0] == 0
    text = (run / "config.json").read_text()
    config = json.loads(text)
    alpha = config["exported"]["alpha"]
    for spelled, code in ((int(alpha), 0), (float(alpha), 0), (alpha + 1, 1), (str(alpha), 1)):
        config["exported"]["alpha"] = spelled
        (run / "config.json").write_text(json.dumps(config))
        found, result = kotlin("--resume", run, "--max-minutes", 0)
        assert found == code and (not code or "its alpha is not that of" in result["error"])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_another_version_is_refused(
    kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path, version: Any
) -> None:
    run, settings = tmp_path / "run", ("--data", packed, "--lr", 0.01, "--steps", 3)
    assert kotlin(program_folder, *settings, "--output", run, "--max-minutes", 0)[0] == 0
    is_refused_as_of_another_version(run, version, partial(kotlin, "--resume"))


@pytest.mark.parametrize("cache", ["other.safetensors", "../hidden.safetensors", "/etc/passwd", 7])
def test_a_run_names_no_other_file_as_its_cache(
    kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path, cache: object
) -> None:
    run = tmp_path / "run"
    settings = ("--data", packed, "--lr", 0.01, "--steps", 2, "--output", run, "--max-minutes", 0)
    assert kotlin(program_folder, *settings)[0] == 0
    config = json.loads((run / "config.json").read_text())
    config["data"]["cache"] = cache
    (run / "config.json").write_text(json.dumps(config))
    before = contents(run)
    code, result = kotlin("--resume", run)
    assert code == 1 and f"{run / 'config.json'} is not the description of a run: " in result["error"]
    assert contents(run) == before


def test_a_run_cut_off_as_it_began_leaves_no_start(
    kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    data, run = ("--data", packed, "--lr", 0.01, "--steps", 2), tmp_path / "run"
    assert kotlin(program_folder, *data, "--output", tmp_path / "first")[0] == 0
    assert kotlin(program_folder, *data, "--from", tmp_path / "first", "--output", run)[0] == 0
    for file in run.iterdir():
        if file.is_dir():
            shutil.rmtree(file)
        elif file.name not in ("log.jsonl", "start.safetensors", "state.safetensors"):
            file.unlink()
    (run / "log.jsonl").write_bytes(b"")
    assert kotlin(program_folder, *data, "--output", run)[0] == 0
    assert not (run / "start.safetensors").exists()


def test_a_full_disk_leaves_no_hidden_states(
    host: list[str], kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = ("--data", packed, "--lr", 0.01, "--steps", 2, "--max-minutes", 0, "--output")
    assert kotlin(program_folder, *settings, whole)[0] == 0
    (whole / HIDDEN_FILE).unlink()
    before = contents(whole)
    for words in (("train", program_folder, *settings, run), ("resume", whole)):
        # The JVM maps a file of its own for jstat, which would be too large.
        limited = ["bash", "-c", "trap '' XFSZ; ulimit -f 20; exec \"$@\"", "bash", host[0], "-XX:-UsePerfData"]
        done = subprocess.run([*limited, *host[1:], *map(str, words)], capture_output=True, text=True)
        assert done.returncode == 1 and f"{HIDDEN_FILE} cannot be written: " in json.loads(done.stdout)["error"]
        assert not run.exists() and contents(whole) == before


def test_damaged_programs_are_refused(kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path) -> None:
    """Either part, before the runtime sees it, and nothing stays."""
    program, chance, run = tmp_path / "program", random.Random(6), tmp_path / "run"
    shutil.copytree(program_folder, program)
    for i in range(MUTATIONS):
        file = program / ("program.pte", "frozen.pte")[i % 2]
        content = file.read_bytes()
        file.write_bytes(mutated(content, chance))
        same = file.read_bytes() == content
        code, result = kotlin(program, "--data", packed, "--steps", 1, "--lr", 0.01, "--output", run)
        assert same or (code == 1 and result["error"].startswith(f"{file} ") and not run.exists())
        shutil.rmtree(run, ignore_errors=True)
        file.write_bytes(content)


@share_of(0.2)
@given(edit=json_edits())
def test_a_program_that_lies_crashes_no_jvm_that_python_outlives(
    kotlin: Run, forks: Forks, program_folder: Path, packed: Path, tmp_path_factory: pytest.TempPathFactory, edit: Any
) -> None:
    """With a seal over it: whoever makes a program can seal it."""
    folder = tmp_path_factory.mktemp("lies")
    program = folder / "program"
    shutil.copytree(program_folder, program)
    old = (program / "program.pte").read_bytes()[:-SIZE]
    text = old[(start := old.index(b'{"model": ')) : old.index(b'"version": 5}', start) + len(b'"version": 5}')]
    new = json.dumps(edit(json.loads(text) | {"model": "m"})).encode()  # which leaves room
    if len(new) <= len(text):
        (program / "program.pte").write_bytes(old.replace(text, new.ljust(len(text))))
        seal(program / "program.pte")
        words = ("--data", packed, "--steps", 1, "--lr", 0.01, "--output")
        try:
            kotlin(program, *words, folder / "kotlin")
        except AssertionError as e:
            assert forks("train", program, *words, folder / "python", cwd=folder).code not in (0, 1), e
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["quantization", "noise", "outer"])
def test_a_program_that_lacks_what_a_run_tells_is_refused_by_all(
    kotlin: Run, runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path, name: str
) -> None:
    program = rewritten(program_folder, tmp_path / "program", lambda m: m.pop(name))
    words = ("--data", packed, "--steps", 1, "--lr", 0.01, "--output")
    for driver, run in ((kotlin, "kotlin"), (runner, "native"), (partial(prge, "train"), "python")):
        code, said = driver(program, *words, tmp_path / run)
        assert code == 1 and re.search("another version of (it|prge)", said["error"]) and name in said["error"]
        assert not (tmp_path / run).exists()


def test_damaged_packed_files_are_refused_as_by_python(
    kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Also such whose checksum somebody made anew; one that still makes sense is the same to both."""
    manifest, chance, content = StepProgram(program_folder).manifest, random.Random(1), packed.read_bytes()
    path, refused = tmp_path / "data.prge", 0
    for i in range(MUTATIONS):
        changed = mutated(content, chance)
        path.write_bytes(resealed(changed) if i % 2 else changed)
        code, result = kotlin("evaluate", program_folder, "--data", path)
        try:
            _, dev, _ = unpack(path, manifest)
        except UserError as e:
            refused += 1
            assert code == 1 and said(result["error"]) == said(str(e))
        else:
            assert code == 0 if dev else code == 1
    assert refused > MUTATIONS / 2


def test_a_packed_file_of_tokens_that_the_model_has_not_is_refused(
    kotlin: Run, runner: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Although its checksum was made anew: an embedding may be read at any place."""
    manifest, path, content = StepProgram(program_folder).manifest, tmp_path / "data.prge", packed.read_bytes()
    first = 8 + int.from_bytes(content[:8], "little") + 16  # behind the header, and the first example's own four words
    most = manifest.architecture.vocabulary - 1
    for token in (-1, most, most + 1, 2**31 - 1):
        changed = content[:first] + token.to_bytes(4, "little", signed=True) + content[first + 4 :]
        path.write_bytes(resealed(changed))
        for name, driver in (("kotlin", kotlin), ("native", runner)):
            run = tmp_path / f"{name}-{token}"
            code, result = driver(program_folder, "--data", path, "--steps", 1, "--lr", 0.01, "--output", run)
            assert (code, run.exists()) == ((0, True) if token == most else (1, False))
            assert (
                token == most or result["error"] == f"{path} is damaged: what it holds are no examples of this program"
            )
        if token == most:
            assert unpack(path, manifest)[0][0].tokens[0] == most
        else:
            with pytest.raises(UserError, match="what it holds are no examples of this program"):
                unpack(path, manifest)


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_about_its_vector_is_refused(
    kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path, lie: str
) -> None:
    data, run = tmp_path / "data.prge", tmp_path / "run"
    data.write_bytes(lying(packed.read_bytes(), LIES[lie]))
    code, result = kotlin("evaluate", program_folder, "--data", data)
    assert code == 1 and said(result["error"]) == f"{data} is not a file of `prge pack`"
    settings = (program_folder, "--data", packed, "--steps", 2, "--lr", 0.01, "--output", run)
    assert kotlin(*settings, "--max-minutes", 0)[0] == 0
    state = run / "state.safetensors"
    state.write_bytes(lying(state.read_bytes(), LIES[lie]))
    (run / "earlier.safetensors").unlink()  # from which it would go on
    code, result = kotlin("--resume", run)
    assert code == 1 and f"{run} cannot be resumed: {state} is not a snapshot of a run: " in result["error"]
    code, result = kotlin(*settings[:-1], tmp_path / "new", "--from", state)
    assert code == 1 and result["error"].startswith(f"{state} ") and not (tmp_path / "new").exists()


def test_damaged_states_begin_a_run_with_both_or_with_none(
    kotlin: Run, runner: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Also such whose checksum somebody made anew, or that have none."""
    settings, chance = (program_folder, "--data", packed, "--steps", 1, "--lr", 0.01), random.Random(3)
    assert kotlin(*settings, "--output", tmp_path / "whole")[0] == 0
    content, path = (tmp_path / "whole" / "state.safetensors").read_bytes(), tmp_path / "state.safetensors"
    for i in range(MUTATIONS):
        changed = mutated(content, chance)
        path.write_bytes((changed, resealed(changed), changed.replace(b'"crc"', b'"cra"', 1))[i % 3])
        runs = tmp_path / f"kotlin-{i}", tmp_path / f"native-{i}"
        (code, ours), (other, theirs) = (
            driver(*settings, "--from", path, "--output", run)
            for driver, run in zip((kotlin, runner), runs, strict=True)
        )
        assert code == other
        if code:
            assert re.split("[:;(]", ours["error"])[0] == re.split("[:;(]", theirs["error"])[0]
        else:
            same_run(*runs)


def test_damaged_runs_are_refused_or_go_on_as_by_python(
    kotlin: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Also such whose checksums somebody made anew."""
    chance, whole, refused = random.Random(2), tmp_path / "whole", 0
    settings = ("--steps", 14, "--eval-every", 0, "--lr", 0.01, "--output", whole, "--max-minutes", 0)
    assert kotlin(program_folder, "--data", packed, *settings)[0] == 0
    for _ in range(3):
        assert kotlin("--resume", whole, "--max-minutes", 0)[0] == 0
    for i in range(MUTATIONS):
        name = ("log.jsonl", "state.safetensors", "config.json")[i % 3]
        content = (whole / name).read_bytes()
        changed = mutated(content, chance)
        if name == "log.jsonl" and i % 2:
            text = mutated(content.rpartition(b',"crc":"')[0], chance).replace(b"\n", b" ") + b"}"
            changed = text[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(text)
        elif i % 2:
            changed = resealed(changed)
        results: list[tuple[int, Path]] = []
        for driver in (kotlin, lambda *words: prge("train", *words)):
            run = tmp_path / f"run-{i}-{len(results)}"
            shutil.copytree(whole, run)
            (run / name).write_bytes(changed)
            results.append((driver("--resume", run, "--data", packed, "--max-minutes", 0)[0], run))
        (code, ours), (other, theirs) = results
        refused += code
        if name != "config.json":
            assert code == other, (ours, theirs)
        if code == other == 0:
            assert (ours / "state.safetensors").read_bytes() == (theirs / "state.safetensors").read_bytes()
        shutil.rmtree(ours)
        shutil.rmtree(theirs)
    assert refused > MUTATIONS / 6


def test_an_example_set_of_other_words_is_refused(
    kotlin: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    run, fewer = tmp_path / "run", tmp_path / "fewer.prge"
    settings = ("--data", packed, "--lr", 0.01, "--steps", 2, "--output", run, "--max-minutes", 0)
    assert kotlin(program_folder, *settings)[0] == 0
    manifest = StepProgram(program_folder).manifest
    train, dev, _ = unpack(packed, manifest)
    pack(fewer, manifest, train[:20], dev, 0)
    before = contents(run)
    code, result = kotlin("--resume", run, "--data", fewer)
    assert code == 1 and f"these are not the examples that {run} was begun with" in result["error"]
    assert contents(run) == before
