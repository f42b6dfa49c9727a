"""The native runner as a contender of `prge bench step`: every round starts a process, which makes a few steps."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from prge.bench.contenders import synthetic
from prge.bench.process import Process
from prge.commands.build_runner import RUNNER, build_runner
from prge.errors import UserError
from prge.runtime_driver.data.packed import pack

# Steps of a round. Their median counts.
_STEPS = 3


def find_runner(given: str, scratch: Path, target: str | None = None) -> Path:
    """The runner: the file that is given, or the one in the folder that is given; for "native" it is built."""
    if given == "native":
        build_runner(scratch, target)
        return scratch / RUNNER
    return Path(given) / RUNNER if Path(given).is_dir() else Path(given)


@dataclass
class NativeProcess(Process):
    """`prge-run --bench`. Its megabytes are the whole process's."""

    runner: Path = Path(RUNNER)

    def start(self) -> None:
        """Make room for packed data. Processes start with the rounds."""
        self.scratch = tempfile.TemporaryDirectory()

    def time(self, tokens: int) -> None:
        """Let a process make a few steps on random rows."""
        assert self.manifest is not None
        data = Path(self.scratch.name) / f"{tokens}.prge"
        if not data.exists():
            pack(data, self.manifest, synthetic(self.manifest, tokens, self.manifest.batch), [], 0)
        words = ["--json", "--bench", str(_STEPS)]
        words += ["--threads", str(self.contender.threads)] if self.contender.threads else []
        try:
            said = json.loads(self.run(data, words))
        except (OSError, ValueError) as e:
            raise UserError(f"{self.runner} cannot be run; make it with `prge build-runner` ({e})") from e
        if "error" in said:
            raise UserError(f"{self.name} failed: {said['error']}")
        seconds, executing = said["seconds_per_step"], said.get("execution_seconds")
        self.note(tokens, seconds, None if executing is None else seconds - executing)
        self.megabytes[tokens] = max(self.megabytes.get(tokens, 0.0), said["peak_megabytes"])
        self.process_megabytes = self.megabytes
        self.start_seconds = min(self.start_seconds or said["start_seconds"], said["start_seconds"])

    def run(self, data: Path, words: list[str]) -> str:
        """What the runner prints for packed data and more words."""
        command = [str(self.runner), self.contender.program, "--data", str(data), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout

    def stop(self) -> None:
        if hasattr(self, "scratch"):
            self.scratch.cleanup()
