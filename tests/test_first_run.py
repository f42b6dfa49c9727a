"""A program that is new here runs once in a process of its own before a command loads it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prge.commands import first_run
from prge.commands.hooks import Hooks
from prge.commands.open import load
from prge.files.seal import SIZE, seal

Prge = Callable[..., tuple[int, Any]]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ran in a process of its own, by file name."""
    found: list[str] = []
    run_once = first_run.run_once

    def counted(path: Path, kind: str | None = None) -> dict[str, Any]:
        found.append(path.name)
        return run_once(path, kind)

    monkeypatch.setattr(first_run, "run_once", counted)
    return found


def crashing(program: Path, name: str, out: Path) -> Path:
    """A program's copy with an operator's name that is no text: that ends the process, in the runtime's bindings."""
    shutil.copytree(program, out)
    data = (out / name).read_bytes()[:-SIZE]
    assert data.count(b"aten::") > 0
    (out / name).write_bytes(data.replace(b"aten::", b"\xff\xfe\xff\xff::"))
    seal(out / name)
    return out


def test_no_command_crashes(prge: Prge, export: Callable[..., Path], demo_data: Path, tmp_path: Path) -> None:
    program, data = export(context=64), demo_data / "test.tsv"
    step, writes = (crashing(program, name, tmp_path / name) for name in ("program.pte", "generate.pte"))
    for command in (
        ("predict", step, "a text"),
        ("inspect", step),
        ("eval", step, "--data", data),
        ("train", step, "--data", data, "-o", tmp_path / "run"),
        ("calibrate", step, "--data", data),
        ("generate", writes, "a text"),
    ):
        code, said = prge(*command)
        assert code == 1 and "crashes the runtime (SIGABRT)" in said["error"], command
    assert not (tmp_path / "run").exists()


def test_it_happens_once(
    runs: list[str], program_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRGE_CACHE", str(tmp_path / "cache"))
    told: list[str] = []
    for _ in range(2):
        assert load(program_folder, first_run=True, hooks=Hooks(tell=told.append)).manifest
    assert runs == ["program.pte"] and len(told) == 1 and "is new here" in told[0]
    load(program_folder)
    assert runs == ["program.pte"]


def test_without_a_cache_it_happens_every_time(
    runs: list[str], program_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRGE_CACHE", str(tmp_path / "file" / "cache"))
    for _ in range(2):
        load(program_folder, first_run=True)
    assert len(runs) == 2


def test_what_was_exported_here_is_known(
    runs: list[str], prge: Prge, tiny_model: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRGE_CACHE", str(tmp_path / "cache"))
    data, out = demo_data / "test.tsv", tmp_path / "program"
    code, _ = prge("export", tiny_model, "--data", data, "--generate", "--context", 64, "-o", out)
    assert code == 0
    assert prge("inspect", out)[0] == prge("generate", out, "a text", "--max-new-tokens", 1)[0] == 0 and not runs
