"""Imports: what a device loads, and the same package from a wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from test_layout import modules

ROOT = Path(__file__).parent.parent


def test_the_driver_imports_no_server_side(program_folder: Path) -> None:
    """Loading a program through the command line's modules pulls no transformers, torchao or exporter."""
    code = f"""
import sys
from pathlib import Path
import prge.cli.app
from prge.runtime_driver.program.step import StepProgram
StepProgram(Path({str(program_folder)!r}))
names = ("transformers", "torchao", "peft", "executorch.exir.", "prge.models", "prge.export")
heavy = [m for m in sys.modules if m.startswith(names) and m != "executorch.exir._warnings"]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_runtime_is_quiet(program_folder: Path) -> None:
    command = [sys.executable, "-m", "prge", "inspect", str(program_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "" and "label-words" in done.stdout


def test_the_wheel_holds_the_same_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    expected = {str(Path("prge", file)) for file in modules()}
    assert expected <= names, expected - names
    assert {f"prge/demo/{name}" for name in ("train.tsv", "test.tsv", "chat.jsonl")} <= names
    assert "prge/federated/app/pyproject.template" in names
    code = "import prge, prge.cli.app, prge.models.build, prge.export.program; print(prge.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}, capture_output=True,
        text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert str(tmp_path / "site") in done.stdout
