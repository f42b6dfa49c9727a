"""What `prge inspect` and `prge tasks` do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prge.commands.hooks import Hooks
from prge.commands.open import ProgramPath, load
from prge.examples.tasks import TASKS
from prge.manifest import FROZEN_FILE


def inspect(program: ProgramPath, hooks: Hooks = Hooks()) -> dict[str, Any]:
    """Show what a program is."""
    loaded = load(program, first_run=True, hooks=hooks)
    m = loaded.manifest
    below = loaded.path.parent / FROZEN_FILE
    found = {"path": str(loaded.path), "bytes": loaded.path.stat().st_size}
    if below.is_file():
        found["frozen_bytes"] = below.stat().st_size
    return found | {"rows": m.rows, **asdict(m)}


def tasks() -> dict[str, Any]:
    """The tasks that export and train know by name."""
    return {name: task.described() for name, task in TASKS.items()}
