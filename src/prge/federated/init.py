"""What `prge federated init` does: it writes a Flower app for a program."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated, Any

from prge.errors import UserError
from prge.files.folders import new_folder, refuse_used
from prge.options import AnyPath, Option
from prge.runtime_driver.program.step import StepProgram
from prge.shell import word

# The app's package: its name is in the pyproject.toml.
_PACKAGE = "federation"
# Else Flower makes an environment for each run.
_NO_INSTALL = "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"


def init(
    program: Annotated[AnyPath, Option("A program (program.pte or its folder).", argument=True)],
    output: Annotated[AnyPath, Option("New folder for the app.", ("--output", "-o"))],
    data: Annotated[AnyPath | None, Option("Examples for a simulation, shared out among the devices.")] = None,
    dev: Annotated[AnyPath | None, Option("The server's examples to evaluate on; default: none.")] = None,
    devices: Annotated[int, Option("How many devices there are.", least=1)] = 20,
    rounds: Annotated[int, Option("Rounds.", least=1)] = 15,
    steps: Annotated[int, Option("Steps of a device in a round.", least=1)] = 10,
    lr: Annotated[float | None, Option("Learning rate of the first step; default: by the program.")] = None,
) -> dict[str, Any]:
    """Write a Flower app in which many devices teach a program's adapter. Their examples stay where they are.

    `flwr run` in its folder simulates the devices, or runs it on those that are connected. The federation's results
    are beside it, in a folder of its name and ``-out``.

    Returns:
        the ``app``'s folder, the ``bytes`` of a device's answer in a round, and the command that runs a simulation.

    Raises:
        UserError: the program cannot be read, a file is not there, or the folder is in use.
    """
    folder, found = Path(output), StepProgram(Path(program))
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,38}", folder.name):
        raise UserError(f"--output {folder}: Flower's apps have names of letters, digits and hyphens")
    for name, path in (("--data", data), ("--dev", dev)):
        if path is not None and not Path(path).exists():
            raise UserError(f"{name} {path} does not exist")
    refuse_used(folder)
    m = found.manifest
    rate = _lr(m.gradient, m.lr) if lr is None else lr
    told = {
        "name": folder.name, "program": _text(found.path.parent), "data": _text(data), "dev": _text(dev),
        "output": _text(folder.resolve().parent / f"{folder.name}-out"), "rounds": rounds, "steps": steps,
        "devices": devices, "lr": float(rate), "server_lr": rate * steps / 2,
    }  # fmt: skip
    source = resources.files("prge.federated.app")
    with new_folder(folder) as scratch:
        text = (source / "pyproject.template").read_text(encoding="utf-8")
        (scratch / "pyproject.toml").write_text(Template(text).substitute(told), encoding="utf-8")
        (scratch / _PACKAGE).mkdir()
        for name in ("__init__.py", "server_app.py", "client_app.py"):
            (scratch / _PACKAGE / name).write_bytes((source / name).read_bytes())
    numbers = steps * m.queries if m.gradient == "weights" else m.parameters
    travels = "slopes" if m.gradient == "weights" else "parameters"
    run = f"flwr run {word(folder)} --stream --federation-config 'num-supernodes={devices}'"
    return {"app": str(folder), "travels": travels, "bytes": 4 * numbers, "simulate": f"{_NO_INSTALL}=1 {run}"}


def _lr(gradient: str, lr: float) -> float:
    """What `prge train` tries first where the gradient is exact; else the program's."""
    return lr / 4 if gradient in ("exact", "full") else lr


def _text(path: AnyPath | None) -> str:
    """A path as TOML has it."""
    return json.dumps(str(Path(path).resolve()) if path else "")
