"""Output folders that hold all of a result or do not exist."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from prge.errors import UserError
from prge.files.bounded import SETTINGS, read_bounded
from prge.files.system import lock, open_folder
from prge.files.typed import parse_json
from prge.shell import word

# Where a run that began with a model keeps the program that was made of it.
PROGRAM_FOLDER = "program"

_SUFFIX = ".partial"
# Where in the scratch folder the result is written.
_OUT = "out"


def refuse_run(folder: Path, expected: str) -> None:
    """Raise a UserError, which names the run's program, when ``folder`` is a run and not what was ``expected``.

    Checkpoints have a ``config.json`` too.
    """
    try:
        config = parse_json(read_bounded(folder / "config.json", SETTINGS))
    except (UserError, ValueError):
        return
    if isinstance(config, dict) and "model_type" not in config and {"program", "train", "data"} <= config.keys():
        program = folder / PROGRAM_FOLDER if (folder / PROGRAM_FOLDER).is_dir() else config["program"]
        raise UserError(
            f"{folder} is a run of `prge train`, not {expected}; its program is {program}, and "
            f"`prge train --resume {word(folder)}` goes on with the run"
        )


def refuse_used(folder: Path, but: Container[str] = ()) -> None:
    """Raise a UserError when ``folder`` is a file, or holds anything but files of the names in ``but``."""
    if folder.exists() and (not folder.is_dir() or any(file.name not in but for file in folder.iterdir())):
        run = (folder / "log.jsonl").exists()
        help = f", or go on with the run by `prge train --resume {word(folder)}`" if run else ""
        held = "another run" if run else "something else"
        raise UserError(
            f"{folder} exists and is not empty (it holds {held}); choose another --output or remove it{help}"
        )


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder, which becomes ``folder`` when the block ends well.

    The scratch folder is hidden, stands beside ``folder``, and is locked while it is written. When a killed process
    left one, the next call for the same ``folder`` removes it.

    Raises:
        UserError: ``folder`` is in use, or it cannot be written. Nothing is left behind then.
        OSError: from the block, about any file outside the scratch folder.
    """
    refuse_used(folder)
    scratch = held = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        scratch, held = _locked_scratch(folder)
        try:
            out = scratch / _OUT
            out.mkdir()
            yield out
            if folder.exists():
                folder.rmdir()
            out.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            if held is not None:
                os.close(held)
    except OSError as e:
        if scratch and not _is_about(e, folder, scratch):
            raise
        raise UserError(f"{folder} cannot be written: {e.strerror or e}; nothing was left there") from e


def _is_about(error: OSError, folder: Path, scratch: Path) -> bool:
    """Whether an error came of writing: it names the folder or a file inside the scratch folder.

    A full disk names no file. Errors that libraries make of other reasons have no number.
    """
    if error.filename is None:
        return error.errno is not None
    named = Path(os.fsdecode(error.filename))
    return named == folder or named.is_relative_to(scratch)


def _locked_scratch(folder: Path) -> tuple[Path, int | None]:
    """A new scratch folder, and the descriptor that holds its lock until it is closed; None where folders have none."""
    while True:
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-", suffix=_SUFFIX))
        held = None
        with contextlib.suppress(FileNotFoundError):
            try:
                held = open_folder(scratch)
            except PermissionError:  # Windows opens no folders: abandoned ones are never removed there
                return scratch, None
            with contextlib.suppress(OSError):  # nor on a file system without locks
                lock(held)
            if scratch.stat().st_ino == os.fstat(held).st_ino:
                return scratch, held
        # Before it was locked, another process took it for abandoned and removed it.
        if held is not None:
            os.close(held)


def _remove_abandoned(folder: Path) -> None:
    """Remove scratch folders for ``folder`` that no living process holds a lock of."""
    name = re.compile(re.escape(f".{folder.name}-") + "[a-z0-9_]{8}" + re.escape(_SUFFIX))
    for path in [path for path in folder.parent.iterdir() if name.fullmatch(path.name)]:
        with contextlib.suppress(OSError):  # another process holds the lock, or it is no folder of ours
            held = open_folder(path)
            try:
                lock(held, wait=False)
                if (path / _OUT).is_dir() or not any(path.iterdir()):  # as `new_folder` makes them
                    shutil.rmtree(path)
            finally:
                os.close(held)
