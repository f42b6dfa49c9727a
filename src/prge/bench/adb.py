"""A phone behind adb: a folder of ours on it, and commands in its shell."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prge.errors import UserError

# The one place where a phone lets adb write files that it will then run.
_PLACE = "/data/local/tmp"


@dataclass(frozen=True)
class Phone:
    """A phone that lets adb in; ``serial`` is its name there."""

    serial: str

    def shell(self, command: str) -> tuple[int, str]:
        """What a command printed there, and its exit code. A phone that goes away is a UserError."""
        # Old phones tell adb no exit code, and without the last line the command did not come to its end.
        done = _adb("-s", self.serial, "shell", f"{command}; code=$?; echo; echo $code")
        said, _, code = done.stdout.rstrip().rpartition("\n")
        if done.returncode or not code.isdigit():
            raise self._lost(done)
        return int(code), said.strip()

    def ask(self, command: str) -> str:
        """What a command printed there. That it fails is a UserError."""
        code, said = self.shell(f"{command} 2>&1")
        if code:
            raise UserError(f"{self.serial}: {command} failed: {_last(said) or code}")
        return said

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Copy files into a folder there."""
        done = _adb("-s", self.serial, "push", *map(str, files), f"{folder}/")
        if "No space left on device" in done.stdout + done.stderr:
            size = sum(file.stat().st_size for file in files) / 1e6
            raise UserError(f"{self.serial} has no room for {size:,.0f} MB in {_PLACE}; free some there and try again")
        if done.returncode:
            raise self._lost(done)

    @contextmanager
    def folder(self, keep: bool) -> Iterator[str]:
        """Yield a new folder there, which is removed at the end unless it is to be kept."""
        path = f"{_PLACE}/prge-{secrets.token_hex(4)}"
        try:
            self.ask(f"mkdir {path}")
            yield path
        finally:
            if not keep:
                try:
                    self.ask(f"rm -rf {path}")
                except UserError as e:
                    left = f"`adb -s {self.serial} shell rm -rf {path}` removes what is left there"
                    raise UserError(f"{e}; {left}") from e

    def _lost(self, done: subprocess.CompletedProcess[str]) -> UserError:
        said = _last(done.stderr) or f"adb ended with {done.returncode}"
        return UserError(f"{self.serial} did not answer to the end ({said}); look at the cable, and try again")


def find_phone(serial: str) -> Phone:
    """The phone of that name; without one, the only one that is there.

    Raises:
        UserError: adb is missing, or there is not one phone that lets it in.
    """
    if not shutil.which("adb"):
        raise UserError("adb is not found; it is one of Android's platform tools: apt install adb")
    done = _adb("devices")
    if done.returncode:
        raise UserError(f"`adb devices` failed: {_last(done.stderr) or done.returncode}")
    _, _, listed = done.stdout.partition("List of devices attached")
    found = dict(line.split("\t", 1) for line in listed.splitlines() if "\t" in line)
    if not found:
        raise UserError("adb sees no phone; connect one, and allow USB debugging in its developer options")
    if not serial and len(found) > 1:
        raise UserError(f"adb sees several phones; choose one with --serial: {', '.join(found)}")
    serial = serial or next(iter(found))
    if serial not in found:
        raise UserError(f"adb sees no phone --serial {serial}, but {', '.join(found)}")
    if found[serial] == "unauthorized":
        raise UserError(f"{serial} does not let adb in yet; unlock it, allow USB debugging there, and try again")
    if found[serial] != "device":
        raise UserError(f"adb says of {serial}: {found[serial]}; connect it again, or try `adb kill-server`")
    return Phone(serial)


def _adb(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["adb", *words], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)


def _last(said: str) -> str:
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "")
