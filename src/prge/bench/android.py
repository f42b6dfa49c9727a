"""`prge bench android`: seconds and memory of a step on a phone, without Python and without an app.

A phone has another C library than the runner, so the runner brings its own, and that library's loader starts it.
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from prge.bench.adb import Phone, find_phone
from prge.bench.contenders import Contender
from prge.bench.machine import names
from prge.bench.native import NativeProcess, find_runner
from prge.bench.step import lengths_of, markdown, row, sizes
from prge.commands.build_runner import CROSS, RUNNER
from prge.commands.hooks import Hooks
from prge.commands.open import load
from prge.errors import UserError
from prge.files.folders import new_folder
from prge.files.typed import to_json
from prge.options import AnyPath, Option

_TARGET = "aarch64"
_LOADER = "ld-linux-aarch64.so.1"


def android(
    program: Annotated[AnyPath, Option("A program.pte, or the folder that holds it.", argument=True)],
    output: Annotated[AnyPath, Option("New folder for table and JSON.", ("--output", "-o"))],
    tokens: Annotated[tuple[int, ...], Option("Length T of the rows, once per length; default: 32.", least=2)] = (),
    rounds: Annotated[int, Option("Rounds; each starts the runner once per length.", least=1)] = 7,
    threads: Annotated[int, Option("Threads of the runner; 0: its own default.", least=0)] = 0,
    serial: Annotated[str, Option("The phone, as `adb devices` lists it; default: the only one.")] = "",
    runner: Annotated[str, Option('A folder of `prge build-runner --target aarch64`; "native" builds it.')] = "native",
    keep: Annotated[bool, Option("Leave on the phone what was copied there.", ("--keep",))] = False,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Seconds and memory of a step on a phone behind adb, for `prge bench compare`.

    Copies the program and the native runner into a folder of /data/local/tmp, runs it there, and removes the folder.
    Writes ``step.json`` and ``step.md`` into ``output``.

    Returns:
        the report; ``folder``, where the copies are on the phone, or None where they are removed.

    Raises:
        UserError: no such phone, or it is none of 64-bit Arm, has no room, or goes away; a length out of the program's
            bounds; the runner cannot be built, or fails there.
    """
    output, listener = Path(output), hooks.tell
    step = load(program, first_run=True, hooks=hooks)
    m, (name,) = step.manifest, names([Path(program)])
    lengths = lengths_of(tokens, {step.path: m})
    phone = find_phone(serial)
    machine = describe(phone, threads)
    with new_folder(output) as out, tempfile.TemporaryDirectory() as scratch:
        listener("building the runner" if runner == "native" else "looking at the runner")
        found = find_runner(runner, Path(scratch) / "runner", _TARGET)
        files = [*needed(found), step.path, step.frozen_part().path]
        with phone.folder(keep) as folder:
            listener(f"copying {sum(file.stat().st_size for file in files) / 1e6:,.0f} MB to {phone.serial}")
            phone.push(files, folder)
            contender = Contender("native", f"{folder}/{step.path.name}", threads=threads)
            process = PhoneProcess(f"{name}, prge-run", contender, m, runner=found, phone=phone, folder=folder)
            try:
                process.start()
                for number in range(rounds):
                    for length in lengths:
                        process.time(length)
                    listener(f"round {number + 1} of {rounds}")
            finally:
                process.stop()
        rows = [row(process, length, {}) for length in lengths]
        report = {"machine": machine, "limits": {}, "sizes": {name: sizes(step)}, "rows": rows}
        (out / "step.json").write_text(to_json(report, indent=1) + "\n")
        (out / "step.md").write_text(markdown(report))
    return report | {"report": str(output / "step.md"), "folder": folder if keep else None}


@dataclass
class PhoneProcess(NativeProcess):
    """`prge-run --bench` in a folder of a phone."""

    phone: Phone = field(kw_only=True)
    folder: str = field(kw_only=True)
    copied: set[Path] = field(default_factory=set)

    def run(self, data: Path, words: list[str]) -> str:
        """As `NativeProcess.run`, there. The data are copied the first time."""
        if data not in self.copied:
            self.phone.push([data], self.folder)
            self.copied.add(data)
        command = [f"{self.folder}/{_LOADER}", "--library-path", self.folder, f"{self.folder}/{RUNNER}"]
        command += [self.contender.program, "--data", f"{self.folder}/{data.name}", *words]
        code, said = self.phone.shell(f"TMPDIR={self.folder} {shlex.join(command)} 2>&1")
        if code > 1:
            why = f"signal {code - 128} ended it" if code > 128 else (said.splitlines() or [f"code {code}"])[-1]
            raise UserError(f"{RUNNER} does not run on {self.phone.serial}: {why}")
        return said


def describe(phone: Phone, threads: int) -> dict[str, str | int]:
    """The phone, by the names of `prge.bench.machine.describe`; one that the runner is not for is a UserError."""
    names = ("product.cpu.abi", "product.manufacturer", "product.model", "build.version.release", "soc.model")
    abi, maker, model, release, soc = (phone.ask(f"getprop ro.{name}") for name in names)
    if abi != "arm64-v8a":
        raise UserError(f"{phone.serial} is {abi or 'of an unknown kind'}; the runner is for arm64-v8a")
    memory = re.search(r"MemTotal: *(\d+) kB", phone.ask("cat /proc/meminfo"))
    return {
        "cpu": soc or phone.ask("getprop ro.hardware") or abi,
        "cores": int(phone.ask("nproc")),
        "threads": threads,
        "megabytes": int(memory[1]) * 1024 // 10**6 if memory else 0,
        "system": f"Android {release} {abi}",
        "phone": f"{maker} {model}",
        **{name: importlib.metadata.version(name) for name in ("executorch", "prge")},
    }


def needed(runner: Path) -> list[Path]:
    """The runner and all that it loads: the wheel's libraries beside it, and the C library of the compiler."""
    compiler = CROSS[_TARGET][0]
    found: dict[str, Path] = {}
    left = {RUNNER, _LOADER}
    while left:
        name = left.pop()
        beside = runner.parent / name
        found[name] = beside if beside.is_file() else Path(_said(compiler, f"-print-file-name={name}"))
        if not found[name].is_file():
            raise UserError(
                f"{name} is neither in {runner.parent} nor {compiler}'s; prge build-runner makes the folder"
            )
        said = _said(compiler.replace("g++", "readelf"), "-d", str(found[name]))
        left |= set(re.findall(r"\(NEEDED\).*\[(.+)\]", said)) - found.keys()
    return list(found.values())


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as e:
        raise UserError(f"{command[0]} is needed for the C library of 64-bit Arm: {CROSS[_TARGET][1]} ({e})") from e
