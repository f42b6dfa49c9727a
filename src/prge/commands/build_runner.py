"""What `prge build-runner` does: compiles the native runner against the libraries of an executorch wheel."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from prge import runtime_driver
from prge.errors import UserError
from prge.options import AnyPath, Option

SOURCES = Path(runtime_driver.__file__).parent.resolve() / "native"
RUNNER = "prge-run"

_CMAKE = (3, 28)
# Other processors: the compiler for one, and how to get it.
CROSS = {"aarch64": ("aarch64-linux-gnu-g++", "apt install g++-aarch64-linux-gnu")}


def build_runner(
    output: Annotated[AnyPath, Option("Folder for the program and its libraries.", ("--output", "-o"))],
    target: Annotated[str | None, Option("Another processor to build for: aarch64.")] = None,
    wheel: Annotated[
        AnyPath | None, Option("The target's executorch wheel, or a folder into which pip unpacked it; default: pip's.")
    ] = None,
    settings: Sequence[str] = (),
) -> dict[str, Any]:
    """Build prge-run: the native runner for devices without Python.

    Args:
        settings: of CMake, for developers, as ``-DPRGE_SANITIZE=ON``; with some, symbols are kept.

    Returns:
        ``runner``, its path; ``bytes``, its size; ``libraries``, the bytes of those beside it.

    Raises:
        UserError: CMake or the compiler are missing, or the build fails.
    """
    output, wheel = Path(output), Path(wheel) if wheel else None
    if target not in (None, *CROSS):
        raise UserError(f"--target {target}: known are {', '.join(CROSS)}; leave it out for this machine")
    if wheel and not target:
        raise UserError("--wheel goes with --target; this machine's wheel is the installed one")
    compiler, install = CROSS[target] if target else (os.environ.get("CXX", "c++"), "apt install g++")
    if not shutil.which(compiler):
        raise UserError(f"building needs the C++ compiler {compiler}: {install}")
    cmake = find_cmake()
    with tempfile.TemporaryDirectory() as scratch:
        package = _unpacked(target, wheel, Path(scratch)) if target else _package("executorch")
        build = str(Path(scratch) / "build")
        found = [f"-Dexecutorch_DIR={package / 'share' / 'cmake'}"]
        found.append(f"-DNLOHMANN_JSON={_package('nlohmann_json') / 'include'}")
        if target:
            found += ["-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_SYSTEM_PROCESSOR={target}"]
            found.append(f"-DCMAKE_CXX_COMPILER={compiler}")
        _run(cmake, "-S", str(SOURCES), "-B", build, *found, *settings)
        _run(cmake, "--build", build, "--parallel", str(os.cpu_count() or 1))
        _run(cmake, "--install", build, "--prefix", str(output.resolve()), *([] if settings else ["--strip"]))
    runner = output / RUNNER
    libraries = sum(file.stat().st_size for file in output.glob("*.so"))
    return {"runner": str(runner), "bytes": runner.stat().st_size, "libraries": libraries}


def find_cmake() -> str:
    """The newest that is found: beside this Python, or on the path.

    Raises:
        UserError: there is none, or only an old one.
    """
    beside = Path(sys.executable).parent / "cmake"
    for found in filter(None, (str(beside) if beside.exists() else None, shutil.which("cmake"))):
        said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
        version = re.search(r"(\d+)\.(\d+)", said)
        if version and (int(version[1]), int(version[2])) >= _CMAKE:
            return found
    raise UserError("building needs CMake 3.28 or newer: pip install 'prge[native]'")


def _package(name: str) -> Path:
    """An installed package's folder."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise UserError(f"building needs {name}: pip install 'prge[native]'")
    return Path(next(iter(found.submodule_search_locations)))


def _unpacked(target: str, wheel: Path | None, scratch: Path) -> Path:
    """The package's folder in a wheel, or in a folder into which pip unpacked one."""
    if wheel and wheel.is_dir():
        return wheel / "executorch"
    name = str(wheel or f"executorch=={importlib.metadata.version('executorch')}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(scratch / "wheel")]
    _run(*command, "--only-binary=:all:", "--platform", f"manylinux_2_28_{target}", name)
    return scratch / "wheel" / "executorch"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        wrong = next((i for i, line in enumerate(said) if "rror" in line), len(said) - 3)
        raise UserError(f"{Path(command[0]).name} failed: " + " ".join(line.strip() for line in said[wrong:][:3]))
