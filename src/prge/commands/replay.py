"""What `prge replay` does: it makes a run's state again from the journal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from prge.commands.hooks import Hooks
from prge.commands.open import state_file
from prge.commands.train import reopen
from prge.errors import UserError
from prge.examples.rows import Example
from prge.files.folders import new_folder
from prge.lora import ADAPTER_FOLDER
from prge.manifest import Manifest
from prge.options import AnyPath, Option
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.hidden import HIDDEN_FILE, HiddenStates, kept_in
from prge.runtime_driver.loop.best import best_of
from prge.runtime_driver.loop.train import Guard
from prge.runtime_driver.program.state import save_peft, save_state
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import LOG_FILE, START_FILE, check_program, read_config, read_log, read_start
from prge.runtime_driver.run.journal import number
from prge.runtime_driver.run.snapshots import BEST_FILE, STATE_FILE


def replay_run(
    run: Annotated[AnyPath, Option("A run folder; its config.json and log.jsonl are enough.", argument=True)],
    output: Annotated[AnyPath, Option("New folder for state and adapter.", ("--output", "-o"))],
    program: Annotated[AnyPath | None, Option("The run's program, if it has moved.")] = None,
    steps: Annotated[int | None, Option("Replay only the first N steps, to undo the later ones.", least=0)] = None,
    data: Annotated[AnyPath | None, Option("The run's examples, if they have moved.")] = None,
    dev: Annotated[AnyPath | None, Option("The run's dev file, if it has moved.")] = None,
    hooks: Hooks = Hooks(),
) -> dict[str, Any]:
    """Make a run's state again from its journal.

    The adapter is that of its best state on the dev set, which the folder has beside the last one.

    With perturbed weights, seeds and losses are enough. Perturbed activations need the data, and each step's passes
    again.
    """
    folder, output = Path(run), Path(output)
    described, rows = read_config(folder), read_log(folder)
    if steps is not None and steps > len(rows):
        raise UserError(f"{folder / LOG_FILE} has {len(rows)} steps, not {steps}")
    rows = rows[:steps]
    reads = described["exported"].get("gradient") != "weights"
    command = f"prge replay {folder} --program PROGRAM{' --data FILE' if reads else ''} -o {output}"
    source, config, loaded = reopen(folder, described, program, data, dev, command, hooks, reads)
    check_program(folder, described, loaded)
    start, m = read_start(folder, described), loaded.manifest
    state = loaded.initial_state() if start is None else start
    if len(state) != m.state_size:
        raise UserError(f"{folder / START_FILE} holds {len(state):,} numbers, and the program's state {m.state_size:,}")
    sizes = 2 * m.queries if m.gradient == "weights" else m.batch, m.batch
    if any((len(row["losses"]), len(row["examples"])) != sizes for row in rows):
        raise UserError(f"{folder} is a run of another program: its steps have other batches or queries")
    began = time.perf_counter()
    with new_folder(output) as scratch:
        if m.gradient == "weights":
            states = replay(m, state, rows)
        else:
            examples, dev_examples, _ = source.read(loaded.encoder())
            kept = kept_in(folder, described)
            if kept:
                try:
                    loaded.hidden = HiddenStates(kept, m, [*examples, *dev_examples])
                except UserError:  # a replay changes nothing in the run's folder
                    loaded.keep(scratch / HIDDEN_FILE, [*examples, *dev_examples])
            states = again(loaded, state, examples, rows)
        best, kept_state = best_of(rows), state
        for done, reached in enumerate(states, 1):
            state = reached
            kept_state = state if done == best else kept_state
            hooks.show("replaying", done, len(rows), "")
        save_state(scratch / STATE_FILE, state, m, config.after + len(rows))
        if best is not None:
            save_state(scratch / BEST_FILE, kept_state, m, config.after + best)
        save_peft(scratch / ADAPTER_FOLDER, m, loaded.frozen(), state if best is None else kept_state)
        (scratch / HIDDEN_FILE).unlink(missing_ok=True)
    passes = 0 if m.gradient == "weights" else len(rows) * m.executions
    result = {"steps": len(rows), "forward_passes": passes, "seconds": time.perf_counter() - began}
    return result | {"state": str(state_file(output)), "adapter": str(output / ADAPTER_FOLDER)}


def replay(manifest: Manifest, state: Tensor, rows: Sequence[dict[str, Any]]) -> Iterator[Tensor]:
    """The state f32[state_size] after each step of a run with perturbed weights, without a forward pass.

    The estimate is ``mean_i (L+_i - L-_i) / 2 eps * z_i`` (arXiv 2409.15520, eq. 2). Seeds give the directions z_i, and
    the journal has the losses.

    Args:
        state: where the run began.
        rows: the journal's, from the first on.
    """
    from prge.models.slopes import along

    guard = Guard(manifest.batch, len(manifest.labels))
    for row in rows:
        plus, minus = _losses(row).reshape(2, manifest.queries)
        new_state = along(manifest, state, (plus - minus) / (2.0 * row["eps"]), row["seed"], row["lr"])
        state = _guarded(guard, state, row, new_state)
        yield state


def again(
    program: StepProgram, state: Tensor, examples: Sequence[Example], rows: Sequence[dict[str, Any]]
) -> Iterator[Tensor]:
    """As `replay`, by running the program again: with perturbed activations an update also needs the layers' inputs.

    Raises:
        UserError: a loss differs from the journal's by more than 1 %: examples or program are not the run's.
    """
    guard = Guard(program.manifest.batch, len(program.manifest.labels))
    for row in rows:
        try:
            batch = [examples[i] for i in row["examples"]]
        except IndexError as e:
            raise UserError("the journal names examples that the data does not have: is it the run's?") from e
        new_state, losses = program.step(state, *collate(batch, program.manifest), row["seed"], row["lr"], row["eps"])
        if not torch.allclose(losses, _losses(row), rtol=1e-2, atol=1e-2, equal_nan=True):
            raise UserError(f"step {row['step'] + 1}: the losses are not the journal's: is it the run's data?")
        state = _guarded(guard, state, row, new_state)
        yield state


def _losses(row: dict[str, Any]) -> Tensor:
    return torch.tensor([number(loss) for loss in row["losses"]])


def _guarded(guard: Guard, state: Tensor, row: dict[str, Any], new_state: Tensor) -> Tensor:
    return guard.watch(state, number(row["loss"]), new_state)[0]
