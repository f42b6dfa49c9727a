"""The folder of `prge bench tasks`: its settings and its runs, which a later call goes on with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prge.bench.convergence import Curve
from prge.bench.runners import Run
from prge.errors import UserError
from prge.files.bounded import SETTINGS, read_bounded
from prge.files.checked import replace
from prge.files.folders import refuse_used
from prge.files.typed import parse_json, to_json


@dataclass(frozen=True)
class Settings:
    """What all runs in a folder have in common."""

    model: str
    data: str
    examples: int
    dev_examples: int
    max_tokens: int
    steps: int
    lora_steps: int
    curve: int


def settle(folder: Path, settings: Settings, variants: dict[str, str]) -> None:
    """Keep the settings in the folder, or compare them with those that are kept there.

    Raises:
        UserError: the folder was made with others, or is in use for something else.
    """
    file, content = folder / "settings.json", asdict(settings)
    known: dict[str, str] = {}
    if file.is_file():
        try:
            kept = parse_json(read_bounded(file, SETTINGS))
            known, before = dict(kept["variants"]), dict(kept["settings"])
        except (KeyError, TypeError, ValueError) as e:
            raise UserError(f"{file} cannot be read ({e}); choose another --output") from e
        # Options of which no program was made are as good as never given.
        known = {name: options for name, options in known.items() if any((folder / "programs").glob(f"*-{name}"))}
        pairs = [(name, before.get(name), value) for name, value in content.items()]
        pairs += [(f"variant {name}", known.get(name, options), options) for name, options in variants.items()]
        for name, old, new in pairs:
            if old != new:
                name = name.replace("_", " ")
                raise UserError(f"{folder} was made with {name} {old!r}, not {new!r}; choose another --output")
    else:
        refuse_used(folder)
    for name in ("programs", "runs", "curves"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_json(file, {"settings": content, "variants": known | variants})


def read_curve(path: Path) -> Curve:
    """A run that was made before.

    Raises:
        UserError: its file is damaged.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Curve(**kept | {"run": Run(**kept["run"])})
    except (ValueError, TypeError, KeyError) as e:
        raise UserError(f"{path} cannot be read ({e}); remove it, and the run is made again") from e


def write_json(path: Path, content: Any) -> None:
    """Write JSON. A call that is stopped meanwhile leaves no half of it."""
    replace(path, (to_json(content, indent=1) + "\n").encode())
