"""Output folders that hold all of a result or do not exist."""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from prge.errors import UserError

# Where a run that began with a model keeps the program that was made of it.
PROGRAM_FOLDER = "program"


def refuse_used(folder: Path, but: Container[str] = ()) -> None:
    """Raise a UserError when ``folder`` exists and is no folder, or holds anything but files of these names."""
    if folder.exists() and (not folder.is_dir() or any(file.name not in but for file in folder.iterdir())):
        held = "another run" if (folder / "log.jsonl").exists() else "something else"
        raise UserError(f"{folder} exists and is not empty (it holds {held}); choose another --output or remove it")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder that becomes ``folder`` when the block ends well.

    Raises:
        UserError: ``folder`` is in use, or writing fails, with nothing left behind.
    """
    refuse_used(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            out = Path(scratch) / "out"
            out.mkdir()
            yield out
            if folder.exists():
                folder.rmdir()
            out.rename(folder)
    except OSError as e:
        raise UserError(f"{folder} cannot be written: {e.strerror or e}; nothing was left there") from e
