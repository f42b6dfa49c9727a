"""Opens what the commands work on: a program, and a state for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from torch import Tensor

from prge.commands.first_run import try_first
from prge.commands.hooks import Hooks
from prge.errors import UserError
from prge.lora import CONFIG_FILE, read_lora
from prge.manifest import TOKENIZER_FILE
from prge.options import AnyPath, Option
from prge.runtime_driver.program.base import Program
from prge.runtime_driver.program.state import fit_lora, load_state
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.snapshots import BEST_FILE, STATE_FILE

# Parameters of several commands.
ProgramPath = Annotated[AnyPath, Option("A program.pte, or the folder that holds it.", argument=True)]
StatePath = Annotated[
    AnyPath | None, Option("A run folder, a state.safetensors, or a PEFT adapter folder; default: none.")
]
DataPath = Annotated[
    AnyPath | None,
    Option("Examples: .jsonl, .csv, .tsv, .txt ..., or a folder; default: the hub's, for a named task."),
]
Truncate = Annotated[bool, Option("Cut long texts from the left instead of refusing them.")]
Tokenizer = Annotated[AnyPath | None, Option(f"The {TOKENIZER_FILE}; default: beside the program.")]
Runtime = Annotated[
    Literal["executorch", "torch"], Option("What runs the step; torch: eager PyTorch, from the base model.")
]
Device = Annotated[str, Option("Device for --runtime torch: cpu, cuda, cuda:1.")]


def load(
    path: AnyPath, *, tokenizer: AnyPath | None = None, truncate: bool = False,
    runtime: Literal["executorch", "torch"] = "executorch", device: str = "cpu", first_run: bool = False,
    hooks: Hooks = Hooks(),
) -> StepProgram:  # fmt: skip
    """A fine-tuning program, ready to step.

    Its weights are packed at the first step, which takes a moment.

    Args:
        path: a ``program.pte``, or the folder that holds it.
        tokenizer: its ``tokenizer.json``; None for the one beside the program.
        truncate: cut texts that are longer than the program's bound from the left, instead of refusing them.
        runtime: ``"torch"`` runs the same step in eager PyTorch, made of the base model; it needs ``prge[export]``.
        device: of PyTorch: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        first_run: run a program that is new to this installation once in a process of its own before, as the commands
            do. One that was made to crash the runtime is refused then.

    Raises:
        UserError: no program there, damaged, of another format; or no such device.
    """
    if first_run:
        try_first(Path(path), hooks=hooks)
    if runtime == "torch":
        from prge.eager import TorchProgram

        program: StepProgram = TorchProgram(Path(path), device)
    elif device != "cpu":
        raise UserError(f"--device {device}: the ExecuTorch runtime runs on the CPU; give --runtime torch too")
    else:
        program = StepProgram(Path(path))
    program.tokenizer = Path(tokenizer) if tokenizer else program.tokenizer
    program.truncate = truncate
    return program


def read_state(program: Program, state: AnyPath | None) -> Tensor:
    """The state of a run folder, a file or a PEFT adapter folder, f32[state_size]; without one the initial state.

    Raises:
        UserError: as `load_state` and `fit_lora`.
    """
    if state is None:
        return program.initial_state()
    if (Path(state) / CONFIG_FILE).is_file():
        return fit_lora(read_lora(Path(state)), program.manifest, program.frozen())
    return load_state(state_file(Path(state)), program.manifest)


def state_file(path: Path) -> Path:
    """The state of a run folder that is the best on its dev set, or without one the newest; or the file itself."""
    if not path.is_dir():
        return path
    return path / BEST_FILE if (path / BEST_FILE).is_file() else path / STATE_FILE
