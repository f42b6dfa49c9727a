"""A contender of `prge bench step` in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from prge.bench.contenders import Contender
from prge.errors import UserError
from prge.manifest import Manifest


@dataclass
class Process:
    """A contender that runs, and what it has said.

    Attributes:
        start_seconds: from the beginning of its process until it could step: imports, loading, packing.
        seconds: of a step, by T; one per round.
        driver_seconds: of a step outside the runtime's execute, likewise; empty where that is not known.
        megabytes, process_megabytes: by T; peak above the imports, and of the whole process.
    """

    name: str
    contender: Contender
    manifest: Manifest | None
    start_seconds: float = 0.0
    seconds: dict[int, list[float]] = field(default_factory=dict)
    driver_seconds: dict[int, list[float]] = field(default_factory=dict)
    megabytes: dict[int, float] = field(default_factory=dict)
    process_megabytes: dict[int, float] = field(default_factory=dict)

    def start(self) -> None:
        """Start the process, and wait until it has loaded its model or program."""
        began = time.perf_counter()
        self.stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115, it lives as long as the process
        self.scratch = tempfile.TemporaryDirectory()
        command = [sys.executable, "-m", "prge.bench.contenders", self.contender.kind]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, text=True,
            env={**os.environ, "TMPDIR": self.scratch.name},
        )  # fmt: skip
        self._ask(json.dumps(asdict(self.contender)))
        self.start_seconds = time.perf_counter() - began

    def time(self, tokens: int) -> None:
        """Let it make one step on T = ``tokens``."""
        answer = self._ask(str(tokens))
        self.note(tokens, answer["seconds"], answer["driver_seconds"])
        self.megabytes.setdefault(tokens, answer["peak_megabytes"])
        self.process_megabytes.setdefault(tokens, answer["process_megabytes"])

    def note(self, tokens: int, seconds: float, driver_seconds: float | None) -> None:
        """Keep what a step took."""
        self.seconds.setdefault(tokens, []).append(seconds)
        if driver_seconds is not None:
            self.driver_seconds.setdefault(tokens, []).append(driver_seconds)

    def _ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin and self.process.stdout
        answer = ""
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            pass
        if not answer:
            self.process.wait()
            self.stderr.seek(0)
            said = self.stderr.read().strip().splitlines()
            raise UserError(f"{self.name} failed: {said[-1] if said else self.process.returncode}")
        return json.loads(answer)

    def stop(self) -> None:
        """End the process, and remove what it wrote."""
        if hasattr(self, "process"):
            self.process.kill()
            self.process.wait()
            self.scratch.cleanup()
