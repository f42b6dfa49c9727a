"""Commands in processes of their own, at the price of a fork: what crashes or hangs there is seen and harms nobody.

As a script: one process that has imported prge, and runs nothing itself; it forks for every line that comes in.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of one command, in seconds and bytes above what the imports take; they need a tenth of it.
_SECONDS, _BYTES = 60.0, 3 << 30


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (or what ended it, in words), and what it wrote."""

    code: int | str
    out: str
    err: str

    def check(self) -> dict[str, Any]:
        """Assert that all went well, or one sentence was said; what was printed."""
        assert self.code in (0, 1), (self.code, self.err[-3000:])
        assert "Traceback" not in self.err, self.err[-3000:]
        printed: dict[str, Any] = json.loads(self.out, parse_constant=_not_json)
        if self.code:
            assert list(printed) == ["error"] and printed["error"] and self.err.startswith("error: ")
        return printed


def _not_json(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


class Forks:
    """The client of that process.

    Attributes:
        codes: how many commands ended how.
    """

    def __init__(self) -> None:
        self.codes = Counter[int | str]()
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: object, cwd: Path) -> Ended:
        """`prge ARGUMENTS --json` in a folder."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"arguments": [*map(str, arguments), "--json"], "cwd": str(cwd)}) + "\n")
        self.process.stdin.flush()
        ended = Ended(**json.loads(self.process.stdout.readline()))
        self.codes[ended.code] += 1
        return ended

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def _command(arguments: list[str], cwd: str) -> None:
    """The child's part; does not return."""
    from prge.cli import app as cli
    from prge.commands import screen as console

    code = 70
    try:
        console.err.file = sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        sys.stdout = os.fdopen(os.dup(1), "w")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + _BYTES, resource.RLIM_INFINITY))
        os.chdir(cwd)
        sys.argv = ["prge", *arguments]
        cli.main()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve() -> None:
    import matplotlib.pyplot  # noqa: F401
    import torch

    from prge.cli import app  # noqa: F401
    from prge.runtime_driver.program import base

    torch.set_num_threads(1)
    base.runtime()
    for line in sys.stdin:
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            child = os.fork()
            if not child:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                _command(**json.loads(line))
            watched, end = os.pidfd_open(child), time.monotonic() + _SECONDS
            late = not select.select([watched], [], [], end - time.monotonic())[0]
            if late:
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            os.close(watched)
            code: int | str = os.waitstatus_to_exitcode(status)
            if late or status & 127:
                code = "it took too long" if late else signal.Signals(status & 127).name
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        print(json.dumps({"code": code, "out": texts[0], "err": texts[1]}), flush=True)


if __name__ == "__main__":
    _serve()
