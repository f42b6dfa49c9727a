"""What the commands of the device's side do; `cli.py` holds their options, `exporting.py` the server's side."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from prge.errors import UserError
from prge.lora import CONFIG_FILE, read_lora
from prge.manifest import TOKENIZER_FILE
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.program.state import fit_lora, load_state
from prge.runtime_driver.program.step import Program, StepProgram
from prge.runtime_driver.run.snapshots import STATE_FILE


def open_program(
    program: Path, tokenizer: Path | None, truncate: bool, runtime: str = "executorch", device: str = "cpu"
) -> tuple[StepProgram, Encoder]:
    """Load a program and the encoder that fits it."""
    if runtime == "torch":
        from prge.eager import TorchProgram

        loaded: StepProgram = TorchProgram(program, device)
    elif device != "cpu":
        raise UserError(f"--device {device}: the ExecuTorch runtime runs on the CPU; give --runtime torch too")
    else:
        loaded = StepProgram(program)
    beside = loaded.path.parent / TOKENIZER_FILE
    return loaded, Encoder(loaded.manifest, tokenizer or beside, truncate=truncate)


def read_state(program: Program, state: Path | None) -> Tensor:
    """The state of a run folder, a file or a PEFT adapter folder; without one, the initial state."""
    if state is None:
        return program.initial_state()
    if (state / CONFIG_FILE).is_file():
        return fit_lora(read_lora(state), program.manifest, program.frozen())
    return load_state(state_file(state), program.manifest)


def state_file(path: Path) -> Path:
    return path / STATE_FILE if path.is_dir() else path
