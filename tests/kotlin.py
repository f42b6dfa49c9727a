"""The Kotlin driver's tokenizers and examples behind a pipe, so that tests can compare them with Python's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from once import made_once

ANDROID = Path(__file__).parent.parent / "android_demo"


class Kotlin:
    """A JVM with the test's own main class, `Lines.kt`."""

    def __init__(self, android: Path):
        core, libraries = android / "core" / "target", android / "host" / "target" / "libraries"
        command = ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m", "-Dstdout.encoding=UTF-8"]
        command += ["-Dfile.encoding=UTF-8", "-cp", f"{core}/classes:{core}/test-classes:{libraries}/*"]
        command += ["org.prge.LinesKt"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **question: Any) -> Any:
        """The answer to a question; a text is a sentence for the user. Anything else that is thrown fails the test."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        self.process.stdin.flush()
        found = json.loads(self.process.stdout.readline())
        assert "crash" not in found, found["crash"]
        return found.get("answer", found.get("error"))

    def close(self) -> None:
        self.process.communicate()


def compiled(command: Sequence[str], folder: Path) -> None:
    """Build with Maven or CMake in a folder. Where Maven's registry is out of reach, the tests skip."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode and re.search(r"Could not (transfer|find) artifact|[Cc]ould not (be )?resolve", said):
        pytest.skip(f"Maven cannot fetch what the Kotlin driver needs: {said.strip().splitlines()[0][:300]}")
    assert done.returncode == 0, said


def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the Kotlin driver. The first worker that asks builds it with Maven, and runs its tests, for all."""
    for tool, what in (("javac", "a JDK 17"), ("mvn", "Maven")):
        if not shutil.which(tool):
            pytest.skip(f"the Kotlin driver's tests need {what}")

    def make(built: Path) -> None:
        compiled(["mvn", "-q", "-B", "package", "--projects", "host", "--also-make"], ANDROID)
        built.mkdir()

    made_once(tmp_path_factory, "kotlin", make)
    return ANDROID
