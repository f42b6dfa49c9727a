"""What `prge forget` does: it removes what a run wrote, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from prge.commands.tensorboard import TENSORBOARD_FOLDER, events
from prge.errors import UserError
from prge.files.checked import scratch_of
from prge.files.folders import PROGRAM_FOLDER
from prge.lora import ADAPTER_FOLDER, WEIGHTS_FILE
from prge.lora import CONFIG_FILE as ADAPTER_CONFIG
from prge.manifest import CHAT_FILE, FROZEN_FILE, GENERATE_FILE, INITIAL_FILE, PROGRAM_FILE, TOKENIZER_FILE
from prge.options import AnyPath, Option
from prge.runtime_driver.data.hidden import HIDDEN_FILE, HIDDEN_FILES
from prge.runtime_driver.program.card import CARD_FILE
from prge.runtime_driver.run.folder import CONFIG_FILE, LOG_FILE, PICTURE_FILE, SCRATCH, START_FILE, read_config
from prge.runtime_driver.run.journal import take
from prge.runtime_driver.run.snapshots import BEST_FILE, EARLIER_FILE, STATE_FILE

_ADAPTER_FILES = (WEIGHTS_FILE, ADAPTER_CONFIG, CARD_FILE)
# What runs write, by folder. The run's description goes last, so that a removal that was cut off can be repeated.
_WRITTEN = {
    ADAPTER_FOLDER: (*_ADAPTER_FILES, *(scratch_of(Path(f)).name for f in _ADAPTER_FILES)),
    PROGRAM_FOLDER: (PROGRAM_FILE, FROZEN_FILE, GENERATE_FILE, TOKENIZER_FILE, INITIAL_FILE, CHAT_FILE, "export.json"),
    ".": (
        *(*HIDDEN_FILES, STATE_FILE, EARLIER_FILE, BEST_FILE, START_FILE, PICTURE_FILE),
        *(*SCRATCH, LOG_FILE, CONFIG_FILE),
    ),
}


def written(folder: Path) -> list[Path]:
    """The files that a run wrote, in the order in which to remove them. Links to other folders are not followed.

    Raises:
        UserError: ``folder`` is not a run folder.
    """
    cache = read_config(folder)["data"]["cache"]
    found = []
    for name, files in _WRITTEN.items():
        if not (folder / name).is_symlink():
            found += [folder / name / file for file in files if (folder / name / file).is_file()]
    if not (folder / TENSORBOARD_FOLDER).is_symlink():
        found = events(folder) + found
    if cache and cache != HIDDEN_FILE:
        found = [file for file in (Path(cache), scratch_of(Path(cache))) if file.is_file()] + found
    return found


def forget(run: Annotated[AnyPath, Option("A run folder.", argument=True)]) -> dict[str, Any]:
    """Remove a run: journal, snapshots, hidden states, adapter, picture, events and description, and its program.

    Returns:
        ``files`` and ``bytes`` that were removed, and what is ``left`` in the folder, which prge did not write.

    Raises:
        UserError: it is not a run folder, a process is working on it, or a file cannot be removed.
    """
    folder = Path(run)
    files = written(folder)
    result: dict[str, Any] = {"files": len(files), "bytes": sum(file.lstat().st_size for file in files)}
    try:
        with take(folder / LOG_FILE):
            for file in [*files, folder / LOG_FILE]:
                file.unlink(missing_ok=True)
        for name in (*_WRITTEN, TENSORBOARD_FOLDER):
            inner = folder / name
            if inner.is_dir() and not inner.is_symlink() and not any(inner.iterdir()):
                inner.rmdir()
    except OSError as e:
        raise UserError(f"{e.filename or folder} cannot be removed: {e.strerror}") from e
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return result | ({"left": left} if left else {})
