"""The native runner: the same run as the Python driver's, bit for bit, in files that both read, and refuse."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEMPLATE
from edits import resealed
from once import made_once
from test_cli import rewritten
from test_families import config
from transformers import AutoModelForMaskedLM

from prge.commands.build_runner import RUNNER, SOURCES, build_runner, find_cmake
from prge.errors import UserError
from prge.examples.read import read_records
from prge.files.checked import load_checked
from prge.files.seal import SIZE, seal
from prge.manifest import FROZEN_FILE, PROGRAM_FILE
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.data.hidden import HIDDEN_FILE, HiddenStates
from prge.runtime_driver.data.packed import digest, pack, unpack
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import VERSION
from prge.runtime_driver.run.journal import read_journal
from prge.runtime_driver.run.snapshots import read_snapshot

# Mutations of a file, and a build that stops at what sanitizers find: many and slow when asked for.
THOROUGH = bool(os.environ.get("PRGE_THOROUGH"))
MUTATIONS = 1000 if THOROUGH else 12


def sanitizers(crashes: int) -> dict[str, str]:
    """Their options: 2 to be told of a crash, 0 to leave it to the runner, as in a build without them."""
    handled = ":".join(f"handle_{name}={crashes}" for name in ("segv", "sigbus", "sigfpe", "sigill"))
    return {"ASAN_OPTIONS": f"exitcode=99:{handled}", "UBSAN_OPTIONS": f"exitcode=99:{handled}"}


ENVIRONMENT = {**os.environ, **sanitizers(2)}
GOLDEN = Path(__file__).parent / "golden"

Prge = Callable[..., tuple[int, Any]]
Run = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the runner and golden-test. The first worker that asks builds it, for all."""
    if not shutil.which(os.environ.get("CXX", "c++")):
        pytest.skip("building the native runner needs a C++ compiler")
    try:
        find_cmake()
    except UserError as e:
        pytest.skip(str(e))
    return made_once(
        tmp_path_factory,
        "native",
        lambda folder: build_runner(folder, settings=["-DPRGE_GOLDEN=ON", *["-DPRGE_SANITIZE=ON"] * THOROUGH]),
    )


@pytest.fixture(scope="session")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the runner, cross-built for 64-bit Arm."""
    return made_once(tmp_path_factory, "arm", lambda folder: build_runner(folder, "aarch64"))


@pytest.fixture(scope="session")
def runner(built: Path) -> Run:
    """Run it with --json: (exit code, what it printed)."""

    def run(*arguments: object, **changes: str) -> tuple[int, Any]:
        command = [str(built / RUNNER), *map(str, arguments), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT | changes)
        assert done.returncode in (0, 1) and done.stderr.count("\n") <= done.returncode, done
        return done.returncode, json.loads(done.stdout)

    run.path = built / RUNNER  # type: ignore[attr-defined]
    return run


@pytest.fixture(scope="session")
def programs(
    program_folder: Path, export: Callable[..., Path], make_model: Callable[..., Path], encoder_tokenizer_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Path]:  # fmt: skip
    """Programs by what they try; exported when asked for."""

    def to_version_4(manifest: dict[str, Any]) -> None:
        manifest["version"] = 4
        del manifest["adapter"]["head"]

    def get(name: str) -> Path:
        if name == "an export from before":
            folder = tmp_path_factory.mktemp("before") / "program"
            return rewritten(get("an exact gradient"), folder, to_version_4)
        if name == "an exact gradient":
            return export(step=StepConfig(1, 2, "exact"))
        if name == "a full gradient of text":
            return export(step=StepConfig(1, 2, "full"), label_words=(), target=" {label}", max_targets=4)
        if name == "many classes":
            return export(step=StepConfig(1, 2, "exact"), label_words=tuple((f"kind {c}", c) for c in "ABCDEFGHIJK"))
        if name == "loops on the host":
            return export(step=StepConfig(3, 2, "weights", "sgd", outer=False, inner=False))
        if name == "candidates":
            form = {"template": "{text}", "target": " {choice}", "choices": "choices", "max_targets": 4}
            return export(adapter=AdapterConfig(rank=4, alpha=8.0, subspace="svd"), label_words=(), **form)
        if name == "an encoder's mask":
            model = make_model(config("bert"), AutoModelForMaskedLM, encoder_tokenizer_folder)
            return export(model=model, template=TEMPLATE + "{mask}")
        return program_folder

    return get


@pytest.fixture(scope="session")
def packed(program_folder: Path, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_for(program_folder, demo_data, tmp_path_factory.mktemp("packed") / "data.prge")


def packed_for(folder: Path, demo_data: Path, path: Path) -> Path:
    program = StepProgram(folder)
    encoder = Encoder(program.manifest, folder / "tokenizer.json", truncate=True)
    records = read_records(demo_data / "train.tsv")[:50]
    if program.manifest.choices:
        names = ["later", "today", "never"]
        for _, row in records:
            row |= {"choices": names, "choice": row["label"], "label": str(names.index(row["label"]))}
    elif len(names := [label.name for label in program.manifest.labels]) > 2:
        for number, row in records:
            row["label"] = names[number % len(names)]
    examples = encoder.encode_all(records, demo_data)
    pack(path, program.manifest, examples[:40], examples[40:50], 3)
    return path


def test_an_exact_gradient_takes_no_eps(
    programs: Callable[[str], Path], packed: Path, runner: Callable[..., tuple[int, Any]], tmp_path: Path
) -> None:
    code, printed = runner(programs("an exact gradient"), "--data", packed, "--eps", 0.1, "--output", tmp_path / "run")
    assert code == 1 and "is exact and perturbs nothing; leave --eps out" in printed["error"]
    assert not (tmp_path / "run").exists()


def same_run(a: Path, b: Path) -> None:
    """Bit for bit, but for the time that the steps took."""
    assert (a / "state.safetensors").read_bytes() == (b / "state.safetensors").read_bytes()
    for name in ("best.safetensors", HIDDEN_FILE):
        kept = [run / name for run in (a, b)]
        assert kept[0].exists() == kept[1].exists()
        assert not kept[0].exists() or kept[0].read_bytes() == kept[1].read_bytes()
    rows = [[list((row | {"seconds": 0}).items()) for row in read_journal(run / "log.jsonl")[0]] for run in (a, b)]
    assert rows[0] == rows[1]


def test_the_native_driver_keeps_the_golden_vectors(built: Path, tmp_path: Path) -> None:
    command = [built / "golden-test", GOLDEN, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0 and done.stdout.endswith(" comparisons, 0 differences\n"), done


@pytest.mark.parametrize(
    "name",
    [
        "an exact gradient", "a full gradient of text", "activations and adam", "loops on the host", "candidates",
        "an encoder's mask", "many classes", "an export from before",
    ],
)  # fmt: skip
def test_both_drivers_make_the_same_run(
    runner: Run, prge: Prge, programs: Callable[[str], Path], demo_data: Path, tmp_path: Path, name: str
) -> None:
    """With a measured lr, evaluations, kept hidden states, and a guard that has remembered states."""
    folder = programs(name)
    data = packed_for(folder, demo_data, tmp_path / "data.prge")
    common = (folder, "--data", data, "--steps", 50, "--eval-every", 20, "--seed", 3)
    code, ours = runner(*common, "--output", tmp_path / "native")
    assert code == 0
    code, theirs = prge("train", *common, "--output", tmp_path / "python")
    assert code == 0
    assert (tmp_path / "native" / HIDDEN_FILE).exists()
    same_run(tmp_path / "native", tmp_path / "python")
    for name in ("completed", "steps", "lr", "before", "after"):
        assert ours[name] == theirs[name]
    described = [json.loads((tmp_path / run / "config.json").read_text()) for run in ("native", "python")]
    for one in described:
        del one["data"]["dev_fraction"]  # of what was split before it was packed
    assert described[0] == described[1]


def test_the_drivers_take_turns(runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path) -> None:
    """Step by step in one folder."""
    data, run = ("--data", packed, "--steps", 8, "--eval-every", 3, "--lr", 0.01), tmp_path / "turns"
    assert prge("train", program_folder, *data, "--output", tmp_path / "whole")[0] == 0
    code, result = runner(program_folder, *data, "--output", run, "--max-minutes", 0)
    assert code == 0 and result["steps"] == 1 and not result["completed"]
    kept = (run / HIDDEN_FILE).read_bytes()
    for turn in range(2, 8):
        if turn > 5:  # each makes what the other made, and goes on with it
            (run / HIDDEN_FILE).unlink()
        limit = ("--resume", run, "--max-minutes", 0)
        code, result = prge("train", *limit) if turn % 2 else runner(*limit)
        assert code == 0 and result["steps"] == turn and (run / HIDDEN_FILE).read_bytes() == kept
    code, result = runner("--resume", run)
    assert code == 0 and result["completed"]
    same_run(run, tmp_path / "whole")
    code, result = prge("train", "--resume", run)
    assert code == 0 and Path(result["adapter"]).is_dir()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def told(runner: Run, *arguments: object) -> str:
    """What it says to people, of a command that succeeds."""
    command = [str(runner.path), *map(str, arguments)]  # type: ignore[attr-defined]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done
    return done.stderr


@pytest.mark.parametrize("cache", ["off", "0MB", "0.01 MB"])
def test_without_room_for_hidden_states_both_compute_them_at_every_step(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path, cache: str
) -> None:
    """And say so where nobody asked for it."""
    common = (program_folder, "--data", packed, "--steps", 12, "--eval-every", 5, "--cache", cache)
    said = told(runner, *common, "--output", tmp_path / "native")
    assert ("every step computes them" in said) == (cache == "0.01 MB")
    assert prge("train", *common, "--output", tmp_path / "python")[0] == 0
    same_run(tmp_path / "native", tmp_path / "python")
    assert not (tmp_path / "native" / HIDDEN_FILE).exists()
    assert json.loads((tmp_path / "native" / "config.json").read_text())["data"]["cache"] is None
    assert "every step" not in told(runner, "--resume", tmp_path / "native")


@pytest.mark.parametrize("cache", ["1.MB", "1.2.3GB", "9 9MB"])
def test_a_size_that_is_none_is_refused_by_both(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path, cache: str
) -> None:
    common = (program_folder, "--data", packed, "--cache", cache, "--output", tmp_path / "run")
    for code, result in (runner(*common), prge("train", *common)):
        assert code == 1 and "write a number and MB or GB, as 1.5GB" in result["error"]
        assert not (tmp_path / "run").exists()


# What may become of a file of hidden states while a run rests.
HARMS: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "cut off": lambda content: content[:-4],
    "longer": lambda content: content + b"\0\0\0\0",
    "a number changed": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "of another program": lambda content: resealed(
        re.sub(b'"frozen_sha256":"....', b'"frozen_sha256":"0000', content, count=1)
    ),
    "of other examples": lambda content: resealed(re.sub(b'"examples":"....', b'"examples":"0000', content, count=1)),
    "of other sizes": lambda content: resealed(content.replace(b'"shape":[', b'"shape":[1', 1)),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_resume_makes_hidden_states_again(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path, harm: str
) -> None:
    """To the same bits, whichever driver began the run."""
    common = (program_folder, "--data", packed, "--lr", 0.01, "--steps", 6, "--eval-every", 3, "--output")
    assert runner(*common, tmp_path / "whole")[0] == 0
    begin: tuple[Run, ...] = (runner, lambda *words: prge("train", *words))
    for name, first, second in (("ours", begin[0], begin[1]), ("theirs", begin[1], begin[0])):
        for resume in (first, second):
            run = tmp_path / f"{name}-{resume is first}"
            assert first(*common, run, "--max-minutes", 0)[0] == 0
            harmed = HARMS[harm]((run / HIDDEN_FILE).read_bytes())
            if harmed is None:
                (run / HIDDEN_FILE).unlink()
            else:
                (run / HIDDEN_FILE).write_bytes(harmed)
            code, result = resume("--resume", run)
            assert code == 0 and result["completed"]
            same_run(run, tmp_path / "whole")


def test_damaged_hidden_states_are_made_again(runner: Run, program_folder: Path, packed: Path, tmp_path: Path) -> None:
    """What is not whole is never used; what Python would not take, the runner does not."""
    run, chance = tmp_path / "run", random.Random(4)
    settings = ("--data", packed, "--steps", 1, "--lr", 0.01, "--eval-every", 0, "--output", run)
    assert runner(program_folder, *settings)[0] == 0
    manifest = StepProgram(program_folder).manifest
    train, dev, _ = unpack(packed, manifest)
    path, content, again = run / HIDDEN_FILE, (run / HIDDEN_FILE).read_bytes(), 0
    length = 8 + int.from_bytes(content[:8], "little")
    for i in range(MUTATIONS):
        # Most of the file are states. So the header has its turn too.
        changed = mutated(content[:length], chance) + content[length:] if i % 3 else mutated(content, chance)
        changed = resealed(changed) if i % 2 else changed
        path.write_bytes(changed)
        try:
            HiddenStates(path, manifest, [*train, *dev])
            taken = True
        except UserError:
            taken = False
        assert runner("--resume", run)[0] == 0
        after = path.read_bytes()
        assert after == content or (taken and after == changed)
        again += after == content
    assert again > MUTATIONS / 2 and {file.name for file in run.iterdir() if file.suffix == ".partial"} == set()


@pytest.mark.parametrize("cache", ["4GB", "off"])
def test_a_missing_or_wrong_frozen_part_is_refused_by_both(
    runner: Run, prge: Prge, programs: Callable[[str], Path], packed: Path, tmp_path: Path, cache: str
) -> None:
    """And nothing stays behind; a run that goes on keeps what it has."""
    program = tmp_path / "program"
    shutil.copytree(programs("activations and adam"), program)
    settings = ("--data", packed, "--lr", 0.01, "--steps", 3, "--cache", cache, "--output")
    whole, frozen, new = tmp_path / "whole", program / FROZEN_FILE, tmp_path / "new"
    assert runner(program, *settings, whole, "--max-minutes", 0)[0] == 0
    (whole / HIDDEN_FILE).unlink(missing_ok=True)
    before, content = contents(whole), frozen.read_bytes()
    other = (programs("loops on the host") / FROZEN_FILE).read_bytes()
    for changed, message in (
        (None, "frozen.pte does not exist"),
        (other, f"frozen.pte is the frozen part of another program than {program / PROGRAM_FILE}; copy both again"),
        (content[: len(content) // 2], "frozen.pte is"),
        (b"", "frozen.pte is"),
    ):
        frozen.unlink()
        if changed is not None:
            frozen.write_bytes(changed)
        for command in (runner, lambda *words: prge("train", *words)):
            code, result = command(program, *settings, new)
            assert code == 1 and message in result["error"] and result["error"].startswith(f"{program}")
            assert not new.exists()
            code, result = command("--resume", whole)
            assert code == 1 and message in result["error"] and contents(whole) == before
        frozen.write_bytes(content)
    assert runner("--resume", whole)[0] == 0


def test_runs_share_a_folder_of_hidden_states(
    runner: Run, prge: Prge, program_folder: Path, demo_data: Path, packed: Path, tmp_path: Path
) -> None:
    """Either driver takes what the other has made, and other examples get a file of their own."""
    shared = tmp_path / "shared" / "states"
    common = (program_folder, "--data", packed, "--lr", 0.01, "--steps", 4)
    assert runner(*common, "--output", tmp_path / "alone")[0] == 0
    assert runner(*common, "--cache", shared, "--output", tmp_path / "native")[0] == 0
    (file,) = shared.iterdir()
    made = file.stat().st_mtime_ns
    assert prge("train", *common, "--cache", shared, "--output", tmp_path / "python")[0] == 0
    assert list(shared.iterdir()) == [file] and file.stat().st_mtime_ns == made
    assert file.read_bytes() == (tmp_path / "alone" / HIDDEN_FILE).read_bytes()
    same_run(tmp_path / "native", tmp_path / "python")
    for run in (tmp_path / "native", tmp_path / "python"):
        assert json.loads((run / "config.json").read_text())["data"]["cache"] == str(file)
        assert not (run / HIDDEN_FILE).exists()
    content = file.read_bytes()
    file.unlink()
    assert runner("--resume", tmp_path / "python")[0] == 0 and file.read_bytes() == content
    fewer = tmp_path / "fewer.prge"
    train, dev, _ = unpack(packed, StepProgram(program_folder).manifest)
    pack(fewer, StepProgram(program_folder).manifest, train[:20], dev, 0)
    others = (program_folder, "--data", fewer, "--lr", 0.01, "--steps", 1, "--cache", shared, "--output")
    assert prge("train", *others, tmp_path / "fewer-python")[0] == 0
    names = {path.name for path in shared.iterdir()}
    assert runner(*others, tmp_path / "fewer-native")[0] == 0
    assert len(names) == 2 and {path.name for path in shared.iterdir()} == names
    blocked = (*common, "--cache", file, "--output", tmp_path / "blocked")
    for code, result in (runner(*blocked), prge("train", *blocked)):
        assert code == 1 and said(result["error"]) == f"{file} cannot be written"
        assert not (tmp_path / "blocked").exists()


@pytest.mark.parametrize("cache", ["other.safetensors", "../hidden.safetensors", "/etc/passwd", 7])
def test_a_run_names_no_other_file_as_its_cache(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path, cache: object
) -> None:
    """Else a run from elsewhere would write anywhere."""
    run = tmp_path / "run"
    settings = ("--data", packed, "--lr", 0.01, "--steps", 2, "--output", run, "--max-minutes", 0)
    assert runner(program_folder, *settings)[0] == 0
    config = json.loads((run / "config.json").read_text())
    config["data"]["cache"] = cache
    (run / "config.json").write_text(json.dumps(config))
    before = contents(run)
    for code, result in (runner("--resume", run), prge("train", "--resume", run)):
        assert code == 1 and f"{run / 'config.json'} is not the description of a run: " in result["error"]
    assert contents(run) == before


def test_a_full_disk_leaves_no_hidden_states(runner: Run, program_folder: Path, packed: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = ("--data", packed, "--lr", 0.01, "--steps", 2, "--max-minutes", 0, "--output")
    assert runner(program_folder, *settings, whole)[0] == 0
    (whole / HIDDEN_FILE).unlink()
    before = contents(whole)
    limit = "import os, resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\nos.execv(sys.argv[1], sys.argv[1:])"
    for arguments in ((program_folder, *settings, run), ("--resume", whole)):
        command = [sys.executable, "-c", limit, runner.path, *arguments, "--json"]  # type: ignore[attr-defined]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 1 and f"{HIDDEN_FILE} cannot be written: " in json.loads(done.stdout)["error"]
        assert not run.exists() and contents(whole) == before


# With each of them, the loss of the tiny program may rise after some steps far above that of the seed's first batch,
# which is a low one.
DIVERGING = tuple(("--lr", lr, "--seed", seed) for seed in (2, 7) for lr in (8.0, 24.0, 96.0))


def test_both_back_off_alike(runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path) -> None:
    """Where the loss diverges, to the best state of ten steps. At which lr it does is up to the machine's rounding."""
    backed_off = False
    for i, given in enumerate(DIVERGING):
        common = (program_folder, "--data", packed, "--steps", 100, "--eval-every", 0, *given, "--eps", 0.1)
        code = runner(*common, "--output", tmp_path / f"native{i}")[0]
        assert prge("train", *common, "--output", tmp_path / f"python{i}")[0] == code
        same_run(tmp_path / f"native{i}", tmp_path / f"python{i}")
        backed_off |= any(row["backed_off"] for row in read_journal(tmp_path / f"native{i}" / "log.jsonl")[0])
    assert backed_off


def test_both_back_off_at_the_first_step(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Where the loss is finite and the new state is not; at last both give up, with the same files."""
    common = (program_folder, "--data", packed, "--steps", 20, "--eval-every", 0, "--lr", 1e300)
    code, ours = runner(*common, "--output", tmp_path / "native")
    assert code == 1 and "smaller learning rates did not help" in ours["error"]
    code, theirs = prge("train", *common, "--output", tmp_path / "python")
    assert code == 1 and "smaller learning rates did not help" in theirs["error"]
    same_run(tmp_path / "native", tmp_path / "python")
    assert [row["backed_off"] for row in read_journal(tmp_path / "native" / "log.jsonl")[0]] == [True] * 8


def test_a_loss_that_is_no_number_does_not_stay_in_the_progress(
    runner: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """At this lr the second step has such a loss. The progress is told at the first, the eleventh and the last."""
    command = [runner.path, program_folder, "--data", packed, "--output", tmp_path / "run"]  # type: ignore[attr-defined]
    done = subprocess.run([*command, "--lr", "1e38", "--steps", "20"], capture_output=True, text=True, env=ENVIRONMENT)
    losses = [row["loss"] for row in read_journal(tmp_path / "run" / "log.jsonl")[0]]
    assert None in losses[1:10] and done.stderr.count("loss ") >= 2 and "nan" not in done.stderr


def test_a_run_goes_on_from_another_s_state(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """With its optimizer's memory: the lr is corrected for the steps behind it; batches go on."""
    first = ("--steps", 4, "--lr", 0.01, "--output", tmp_path / "first")
    assert runner(program_folder, "--data", packed, *first)[0] == 0
    second = (program_folder, "--data", packed, "--from", tmp_path / "first" / "state.safetensors", "--steps", 12)
    assert runner(*second, "--output", tmp_path / "native")[0] == 0
    assert prge("train", *second, "--output", tmp_path / "python")[0] == 0
    same_run(tmp_path / "native", tmp_path / "python")
    described = [json.loads((tmp_path / run / "config.json").read_text()) for run in ("native", "python")]
    assert described[0]["data"]["from"] == described[1]["data"]["from"] == str(second[4])
    assert described[0]["train"] == described[1]["train"] and described[0]["train"]["after"] == 4
    kept = [(tmp_path / run / "start.safetensors").read_bytes() for run in ("native", "python")]
    assert kept[0] == kept[1]
    shutil.rmtree(tmp_path / "first")  # the runs have what they need
    state = (tmp_path / "native" / "state.safetensors").read_bytes()
    code, result = runner("--resume", tmp_path / "native")
    assert code == 0 and result["completed"]
    code, replayed = prge("replay", tmp_path / "native", "--output", tmp_path / "replayed")
    assert code == 0, replayed
    replayed = load_checked(tmp_path / "replayed" / "state.safetensors", "a state")[0]["state"]
    assert torch.equal(replayed, read_snapshot(tmp_path / "native" / "state.safetensors").state)
    assert (tmp_path / "native" / "state.safetensors").read_bytes() == state


def test_a_run_cut_off_as_it_began_leaves_no_start(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Else the next run in the folder would be replayed from there."""
    data, run = ("--data", packed, "--lr", 0.01, "--steps", 2), tmp_path / "run"
    assert runner(program_folder, *data, "--output", tmp_path / "first")[0] == 0
    from_first = ("--from", tmp_path / "first", "--output", run)
    for begin in (runner, lambda *words: prge("train", *words)):
        assert begin(program_folder, *data, *from_first)[0] == 0
        for file in run.iterdir():
            if file.name not in ("log.jsonl", "start.safetensors", "state.safetensors"):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        (run / "log.jsonl").write_bytes(b"")
        assert begin(program_folder, *data, "--output", run)[0] == 0
        assert not (run / "start.safetensors").exists()
        shutil.rmtree(run)


VERSIONS = [None, 1, VERSION - 1, VERSION + 1, str(VERSION)]


def is_refused_as_of_another_version(run: Path, version: Any, *resumes: Run) -> None:
    """By every driver that resumes a run whose description is changed to say so; nothing in its folder changes."""
    config = json.loads((run / "config.json").read_text())
    assert next(iter(config)) == "version" and config.pop("version") == VERSION
    changed = config if version is None else {"version": version, **config}
    (run / "config.json").write_text(json.dumps(changed))
    content = contents(run)
    for resume in resumes:
        code, result = resume(run)
        assert code == 1 and result["error"].startswith(f"{run} was begun by another version of prge (run format ")
        assert f"this one reads {VERSION}); " in result["error"]
    assert contents(run) == content


@pytest.mark.parametrize("version", VERSIONS)
def test_a_run_of_another_version_is_refused_by_both(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path, version: Any
) -> None:
    run, settings = tmp_path / "run", ("--data", packed, "--lr", 0.01, "--steps", 3)
    assert runner(program_folder, *settings, "--output", run, "--max-minutes", 0)[0] == 0
    resumes = partial(runner, "--resume"), partial(prge, "train", "--resume")
    is_refused_as_of_another_version(run, version, *resumes)


def under_way(runner: Run, program: Path, packed: Path, run: Path) -> subprocess.Popen[bytes]:
    """A long run that has made some steps."""
    command = [runner.path, program, "--data", packed, "--output", run]  # type: ignore[attr-defined]
    process = subprocess.Popen([*command, "--steps", "1000000", "--lr", "1e-3", "--json"], stdout=subprocess.PIPE)
    for _ in range(600):
        if (run / "log.jsonl").exists() and (run / "log.jsonl").read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.05)
    return process


def test_a_signal_ends_it_within_a_step(runner: Run, program_folder: Path, packed: Path, tmp_path: Path) -> None:
    process = under_way(runner, program_folder, packed, run := tmp_path / "run")
    code, refused = runner("--resume", run)
    assert code == 1 and "another process trains there" in refused["error"]
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    result = json.loads(printed)
    assert process.returncode == 0 and result["stopped"] == "interrupted" and not result["completed"]
    assert len(read_journal(run / "log.jsonl")[0]) == result["steps"] == read_snapshot(run / "state.safetensors").steps


@pytest.mark.skipif(THOROUGH, reason="the sanitizers tell of crashes themselves")
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_is_a_sentence(
    runner: Run, program_folder: Path, packed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    process = under_way(runner, program_folder, packed, run := tmp_path / "run")
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and json.loads(printed)["error"].startswith("the runtime crashed: the program is ")
    code, result = runner("--resume", run, "--max-minutes", 0)
    assert code == 0 and result["steps"] > 3


def test_a_program_with_a_changed_graph_is_a_sentence(
    runner: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """With a seal over it. Some crash the runtime, whose own memory no sanitizer watches."""
    shutil.copytree(program_folder, tmp_path / "program")
    file, chance = tmp_path / "program" / PROGRAM_FILE, random.Random(3)
    whole = file.read_bytes()[:-SIZE]
    (end,) = struct.unpack_from("<Q", whole, 16)  # of the graph; weights follow
    for _ in range(MUTATIONS * (2 if THOROUGH else 8)):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(40, end)] = chance.choice((0, 1, 127, 128, 255))
        file.write_bytes(changed)
        seal(file)
        report = tmp_path / "report"
        options = {name: f"{value}:log_path={report}" for name, value in sanitizers(0).items()}
        try:
            code, result = runner(file, "--data", packed, "--bench", 1, **options)
        except AssertionError:
            # A size that no machine has. The sanitizer ends the process; in other builds it is std::bad_alloc.
            (said,) = tmp_path.glob("report.*")
            assert "exceeds maximum supported size" in said.read_text()
            said.unlink()
            continue
        assert code == 0 or result["error"]


def test_packed_examples_come_back(
    program_folder: Path, demo_data: Path, packed: Path, prge: Prge, tmp_path: Path
) -> None:
    program = StepProgram(program_folder)
    train, dev, dropped = unpack(packed, program.manifest)
    encoder = Encoder(program.manifest, program_folder / "tokenizer.json", truncate=True)
    assert [*train, *dev] == encoder.examples(demo_data / "train.tsv", 50) and len(dev) == 10 and dropped == 3
    options = ("--data", demo_data / "train.tsv", "--dev-fraction", 0.3, "--seed", 2, "--truncate")
    code, result = prge("pack", program_folder, *options, "--output", tmp_path / "data.prge")
    assert code == 0 and result["bytes"] == (tmp_path / "data.prge").stat().st_size
    for data, run in ((options, "file"), (("--data", tmp_path / "data.prge", "--seed", 2), "packed")):
        code, _ = prge("train", program_folder, *data, "--steps", 2, "--lr", 0.01, "--output", tmp_path / run)
        assert code == 0
    same_run(tmp_path / "file", tmp_path / "packed")
    crcs = [json.loads((tmp_path / run / "config.json").read_text())["data"]["crc"] for run in ("file", "packed")]
    train, dev, _ = unpack(tmp_path / "data.prge", program.manifest)
    assert crcs[0] == crcs[1] == digest([*train, *dev])


def test_what_does_not_fit_is_refused(
    runner: Run, prge: Prge, program_folder: Path, programs: Callable[[str], Path], packed: Path, tmp_path: Path
) -> None:
    text = tmp_path / "data.tsv"
    text.write_text("text\tlabel\n")
    newer = tmp_path / "newer.prge"
    content = packed.read_bytes()
    newer.write_bytes(resealed(content.replace(b'"packed":"1"', b'"packed":"2"')))
    new = ("--output", tmp_path / "run")
    for arguments, message in (
        ((program_folder, "--data", text, *new), "not a file of `prge pack`"),
        ((program_folder, "--data", newer, *new), "version 2"),
        ((programs("candidates"), "--data", packed, *new), "another template"),
        ((tmp_path, "--data", packed, *new), "no ExecuTorch program"),
        ((text, "--data", packed, *new), "no ExecuTorch program"),
        ((program_folder, "--data", packed, *new, "--steps", "many"), "--steps many"),
        ((program_folder, "--data", packed, *new, "--step", 2), "unknown option"),
        ((program_folder, "--data", packed, "--output", packed.parent), "not empty"),
        (("--resume", tmp_path), "no run folder"),
        ((program_folder, "--data", packed, *new, "--from", tmp_path), "state.safetensors does not exist"),
        ((program_folder, "--data", packed, *new, "--from", packed), "is not a state of prge"),
    ):
        code, result = runner(*arguments)
        assert code == 1 and message in result["error"]
        assert not (tmp_path / "run").exists()
    code, result = prge("train", programs("candidates"), "--data", packed, *new)
    assert code == 1 and "another template" in result["error"]
    code, result = prge("train", program_folder, "--data", packed, "--examples", 3, *new)
    assert code == 1 and "leave --dev and --examples out" in result["error"]


def test_the_bench_makes_a_run_and_leaves_nothing(
    runner: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    code, result = runner(program_folder, "--data", packed, "--bench", 3, TMPDIR=str(tmp_path))
    assert code == 0 and 0.0 < result["execution_seconds"] < result["seconds_per_step"]
    assert list(tmp_path.iterdir()) == []
    code, result = runner(program_folder, "--data", packed, "--bench", 3, TMPDIR=str(tmp_path / "none"))
    assert code == 1 and "TMPDIR" in result["error"]


def test_the_bench_sets_both_drivers_side_by_side(
    runner: Run, prge: Prge, program_folder: Path, tmp_path: Path
) -> None:
    """The runner's numbers are of a process without Python."""
    command = ("bench", "step", program_folder, "--peers", "none", "--rounds", 2, "--tokens", 20, "--threads", 1)
    path = runner.path  # type: ignore[attr-defined]
    code, report = prge(*command, "--runner", path, "--output", tmp_path / "out")
    python, frozen, native = report["rows"]
    assert code == 0 and (python["kind"], frozen["kind"], native["kind"]) == ("program", "frozen", "native")
    assert native["start_seconds"] > 0.0 and 0.0 < native["least"] <= native["seconds"]
    assert 0.0 < native["process_megabytes"] < python["process_megabytes"] / 2 or THOROUGH
    table = (tmp_path / "out" / "step.md").read_text().partition("| driver |")[2].splitlines()
    for line, row in zip(table[2:4], (python, native), strict=True):
        assert line.endswith(f" {row['process_megabytes']:,.0f} |")
    code, refused = prge(*command, "--runner", tmp_path, "--output", tmp_path / "other")
    assert code == 1 and "prge build-runner" in refused["error"]


def test_the_documentation_s_program_compiles(runner: Run, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "native.md").read_text()
    (tmp_path / "app.cpp").write_text(page.partition("```cpp\n")[2].partition("```")[0])
    flags = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{SOURCES}")
    subprocess.run([os.environ.get("CXX", "c++"), *flags, tmp_path / "app.cpp"], check=True)


MISSING = [tool for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64") if not shutil.which(tool)]
needs_arm = pytest.mark.skipif(
    bool(MISSING), reason=f"no {' and no '.join(MISSING)} here: Debian's g++-aarch64-linux-gnu, qemu-user"
)


@needs_arm
def test_64_bit_arm_makes_the_same_losses(
    runner: Run, arm: Path, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Cross-built, under qemu's user emulation."""
    common = (program_folder, "--data", packed, "--steps", 20, "--lr", 1e-3)
    assert runner(*common, "--output", tmp_path / "here")[0] == 0
    # A processor must be named: qemu 7's default has a wrong instruction (its issue 2083).
    command = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", "cortex-a72", str(arm / RUNNER)]
    subprocess.run([*command, *map(str, common), "--output", tmp_path / "there"], check=True, capture_output=True)
    here, there = (read_journal(tmp_path / run / "log.jsonl")[0] for run in ("here", "there"))
    assert [row["examples"] for row in here] == [row["examples"] for row in there]
    for one, other in zip(here, there, strict=True):
        assert one["losses"] == pytest.approx(other["losses"], abs=1e-3)


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A byte or a word changed, a part cut out, or the end cut off."""
    data, at, kind = bytearray(content), chance.randrange(len(content)), chance.randrange(4)
    if kind == 0:
        data[at] ^= chance.randrange(1, 256)
    elif kind == 1:
        word = chance.choice((0, 1, -1, 2**31 - 1, -(2**31)))
        data[at // 4 * 4 : at // 4 * 4 + 4] = word.to_bytes(4, "little", signed=True)
    elif kind == 2:
        del data[at : at + chance.randrange(1, 9)]
    else:
        del data[at:]
    return bytes(data)


def said(error: str) -> str:
    """The part of a sentence that both drivers have; the reason behind it is the JSON library's."""
    return error.partition(":")[0]


def test_damaged_packed_files_are_refused_by_both(
    runner: Run, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Also such whose checksum somebody made anew; one that still makes sense is the same to both."""
    manifest, chance, content = StepProgram(program_folder).manifest, random.Random(1), packed.read_bytes()
    path, refused = tmp_path / "data.prge", 0
    for i in range(MUTATIONS):
        changed = mutated(content, chance)
        path.write_bytes(resealed(changed) if i % 2 else changed)
        code, result = runner(program_folder, "--data", path, "--bench", 1)
        try:
            unpack(path, manifest)
        except UserError as e:
            refused += 1
            assert code == 1 and said(result["error"]) == said(str(e))
        else:
            assert code == 0
    assert refused > MUTATIONS / 2


# What a header may say of its only, or its first, vector, though the checksum is right.
LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a shorter vector": lambda t: t["shape"].append(t["shape"].pop() - 1),
    "a column": lambda t: t["shape"].append(1),
    "a row": lambda t: t["shape"].insert(0, 1),
    "one number": lambda t: t["shape"].clear(),
    "no shape": lambda t: t.pop("shape"),
    "half as wide": lambda t: t.update(dtype="F16"),
    "whole numbers, or fractions": lambda t: t.update(dtype={"I32": "F32", "F32": "I32"}[t["dtype"]]),
    "an end that is not its own": lambda t: t["data_offsets"].append(t["data_offsets"].pop() - 4),
    "a start that is not its own": lambda t: t.update(data_offsets=[4, t["data_offsets"][1]]),
    "three offsets": lambda t: t["data_offsets"].append(0),
}


def lying(content: bytes, lie: Callable[[dict[str, Any]], Any]) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    lie(next(value for name, value in header.items() if name != "__metadata__"))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return resealed(len(text).to_bytes(8, "little") + text + content[8 + length :])


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_lies_about_its_vector_is_refused_by_both(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path, lie: str
) -> None:
    data, run = tmp_path / "data.prge", tmp_path / "run"
    data.write_bytes(lying(packed.read_bytes(), LIES[lie]))
    code, result = runner(program_folder, "--data", data, "--bench", 1)
    with pytest.raises(UserError) as refused:
        unpack(data, StepProgram(program_folder).manifest)
    assert code == 1 and said(result["error"]) == said(str(refused.value)) == f"{data} is not a file of `prge pack`"
    settings = (program_folder, "--data", packed, "--steps", 2, "--lr", 0.01, "--output", run)
    assert runner(*settings, "--max-minutes", 0)[0] == 0
    state = run / "state.safetensors"
    state.write_bytes(lying(state.read_bytes(), LIES[lie]))
    (run / "earlier.safetensors").unlink()  # from which both would go on
    for code, result in (runner("--resume", run), prge("train", "--resume", run)):
        assert code == 1 and f"{run} cannot be resumed: {state} is not a snapshot of a run: " in result["error"]
    new = (*settings[:-1], tmp_path / "new", "--from", state)
    for code, result in (runner(*new), prge("train", *new)):
        assert code == 1 and result["error"].startswith(f"{state} ") and not (tmp_path / "new").exists()


def test_a_best_state_before_the_first_step_is_refused_by_both(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    settings = ("--data", packed, "--steps", 2, "--lr", 0.01, "--output", tmp_path / "run")
    assert runner(program_folder, *settings, "--max-minutes", 0)[0] == 0
    state = tmp_path / "run" / "state.safetensors"
    (state.parent / "earlier.safetensors").unlink()  # from which both would go on
    state.write_bytes(resealed(state.read_bytes().replace(b'"run_steps":"1"', b'"run_steps":"0"')))
    for code, result in (runner("--resume", tmp_path / "run"), prge("train", "--resume", tmp_path / "run")):
        assert code == 1 and f"{state} is not a snapshot of a run: " in result["error"]


def test_damaged_states_begin_a_run_with_both_or_with_none(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Also such whose checksum somebody made anew, or that have none."""
    settings, chance = (program_folder, "--data", packed, "--steps", 1, "--lr", 0.01), random.Random(3)
    assert runner(*settings, "--output", tmp_path / "whole")[0] == 0
    content, path = (tmp_path / "whole" / "state.safetensors").read_bytes(), tmp_path / "state.safetensors"
    for i in range(min(MUTATIONS, 100)):
        changed = mutated(content, chance)
        path.write_bytes((changed, resealed(changed), changed.replace(b'"crc"', b'"cra"', 1))[i % 3])
        runs = tmp_path / f"native-{i}", tmp_path / f"python-{i}"
        code, ours = runner(*settings, "--from", path, "--output", runs[0])
        other, theirs = prge("train", *settings, "--from", path, "--output", runs[1])
        assert code == other
        if code:
            assert re.split("[:;(]", ours["error"])[0] == re.split("[:;(]", theirs["error"])[0]
        else:
            same_run(*runs)


def test_damaged_runs_are_refused_by_both(
    runner: Run, prge: Prge, program_folder: Path, packed: Path, tmp_path: Path
) -> None:
    """Or go on with the same bits."""
    chance, whole = random.Random(2), tmp_path / "whole"
    settings = ("--steps", 14, "--eval-every", 0, "--lr", 0.01, "--output", whole)
    assert runner(program_folder, "--data", packed, *settings)[0] == 0
    state, run = (whole / "state.safetensors").read_bytes(), tmp_path / "run"
    for _ in range(MUTATIONS):
        shutil.copytree(whole, run)
        name = chance.choice(("log.jsonl", "state.safetensors", "config.json"))
        content = (whole / name).read_bytes()
        changed = mutated(content, chance)
        if name == "log.jsonl" and chance.random() < 0.5:  # with its checksum made anew
            lines = content.splitlines()
            at = chance.randrange(len(lines))
            text = mutated(lines[at].rpartition(b',"crc":"')[0], chance).replace(b"\n", b" ") + b"}"
            lines[at] = text[:-1] + b',"crc":"%08x"}' % zlib.crc32(text)
            changed = b"\n".join(lines) + b"\n"
        (run / name).write_bytes(changed)
        code, result = runner("--resume", run, "--data", packed, program_folder)
        if code == 0 and name != "config.json":
            assert result["steps"] == 14 and (run / "state.safetensors").read_bytes() == state
        if code == 1 and name == "state.safetensors":
            assert prge("train", "--resume", run)[0] == 1
        shutil.rmtree(run)
