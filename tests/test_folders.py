"""Output folders: whole or not there, whatever happens; and what a killed process leaves is removed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from prge.errors import UserError
from prge.files.folders import new_folder

WRITER = """
import sys
from pathlib import Path
from prge.files.folders import new_folder
with new_folder(Path(sys.argv[1])) as out:
    (out / "half").write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


def writer(folder: Path) -> subprocess.Popen[str]:
    """A process that stops in the middle of writing ``folder``."""
    command = [sys.executable, "-c", WRITER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "writing\n"
    return process


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out") as out:
        (out / "file").write_text("whole")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "file").read_text() == "whole"
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "other") as out:
        (out / "file").write_text("half")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """But only that of the same folder, and nothing that is merely called alike."""
    killed, other = writer(tmp_path / "out"), writer(tmp_path / "out-2")
    for process in (killed, other):
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = {path.name for path in tmp_path.iterdir()}
    (alike,) = (name for name in left if name.startswith(".out-2-"))
    assert len(left) == 2
    kept = [tmp_path / ".out-settings.partial", tmp_path / ".out-notes123", tmp_path / ".outer-abcdefgh.partial"]
    for path in kept:
        path.mkdir()
        (path / "mine").write_text("mine")
    (tmp_path / ".out-abcdefgh.partial").write_text("a file")
    with new_folder(tmp_path / "out") as out:
        (out / "file").write_text("whole")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out", ".out-abcdefgh.partial", *(path.name for path in kept), alike}
    assert all((path / "mine").exists() for path in kept)


def test_what_a_living_process_writes_stays(tmp_path: Path) -> None:
    living = writer(tmp_path / "out")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out"):
        raise ZeroDivisionError
    living.communicate("\n", timeout=60)
    assert living.returncode == 0 and (tmp_path / "out" / "half").read_text() == "half"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_many_at_once_do_not_remove_each_other_s(tmp_path: Path) -> None:
    """One of them gets the name; the others are refused or overtaken, and nothing else is left."""
    failures: list[BaseException] = []

    def write(number: int) -> None:
        for _ in range(20):
            try:
                with new_folder(tmp_path / "out") as out:
                    (out / "file").write_text(str(number))
                    assert (out / "file").read_text() == str(number)
                    raise InterruptedError(errno.EINTR, "on purpose", "elsewhere")
            except InterruptedError:
                pass
            except BaseException as e:
                failures.append(e)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and list(tmp_path.iterdir()) == []


def test_only_errors_of_writing_there_say_so(tmp_path: Path) -> None:
    missing = tmp_path / "input.txt"
    with pytest.raises(FileNotFoundError) as found, new_folder(tmp_path / "out"):
        missing.read_text()
    assert found.value.filename == str(missing)
    with pytest.raises(PermissionError), new_folder(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", os.fsencode(missing))
    with pytest.raises(OSError, match="hub"), new_folder(tmp_path / "out"):
        raise OSError("the hub does not answer")
    with (
        pytest.raises(UserError, match=r"out cannot be written: No space left on device"),
        new_folder(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match=r"out cannot be written: No such file"), new_folder(tmp_path / "out") as out:
        (out / "no folder" / "file").write_text("text")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"below cannot be written"), new_folder(tmp_path / "file" / "below"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
