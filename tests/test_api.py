"""The public names: what they do, that each is lazy, and that the command line's options are their parameters."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from conftest import LABELS, TEMPLATE
from typer.main import get_command

import prge
from prge.cli.app import app
from prge.commands.open import read_state
from prge.commands.train import resume
from prge.commands.train import train as train_command
from prge.runtime_driver.loop.train import fold


def test_a_user_s_program(program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    """README's: load, train, evaluate, save; what was saved is the state again."""
    program = prge.load(program_folder, truncate=True)
    examples, dev = program.examples(demo_data / "train.tsv"), program.examples(str(demo_data / "test.tsv"), 20)
    steps = list(prge.train(program, examples, dev, steps=5, lr=0.01, eval_every=0))
    state, record = steps[-1]
    assert len(steps) == 5 and record.evaluation
    # The run kept the hidden states, each from rows of its own length; how sums are rounded may depend on the length.
    assert prge.evaluate(program, state, dev).loss == pytest.approx(record.evaluation.loss, rel=1e-6)
    program.save_state(tmp_path / "state.safetensors", state)
    program.save_adapter(tmp_path / "adapter", state)
    parameters = program.manifest.parameters
    for saved in ("state.safetensors", "adapter"):
        read = read_state(program, tmp_path / saved)
        torch.testing.assert_close(read[:parameters], state[:parameters], rtol=1e-4, atol=1e-6)


def test_train_is_the_fold_with_what_is_left_out_filled_in(program_folder: Path, demo_data: Path) -> None:
    program = prge.load(program_folder, truncate=True)
    examples, m = program.examples(demo_data / "train.tsv"), program.manifest
    ours = list(prge.train(program, examples, steps=4, seed=7))
    lr = ours[0][1].lr  # that of the first step, which for Adam carries a correction
    config = prge.TrainConfig(4, 1.0, m.eps, 7)
    config = prge.TrainConfig(4, lr / config.lr_at(0, m), m.eps, 7)
    with program.kept(examples):
        theirs = list(fold(program, program.initial_state(), examples, [], config))
    assert torch.equal(ours[-1][0], theirs[-1][0]) and ours[-1][1].losses == theirs[-1][1].losses


def test_export_and_its_folder_bear_one_name(tiny_model: Path, demo_data: Path, tmp_path: Path) -> None:
    """`prge.export` is the function, also after the exporter was imported."""
    form = prge.FormOptions(template=TEMPLATE, label=tuple(f"{name}={word}" for name, word in LABELS), max_tokens=16)
    for name in ("one", "two"):
        made = prge.export(str(tiny_model), tmp_path / name, form, quantization="f32", batch=2, rank=4)
        assert Path(made["program"]).is_file()
    assert (tmp_path / "one" / "program.pte").read_bytes() == (tmp_path / "two" / "program.pte").read_bytes()


@pytest.mark.parametrize("name", [name for name in prge.__all__ if name not in ("export", "__version__")])
def test_a_device_imports_nothing_of_the_server_s_side(name: str) -> None:
    code = f"""
import sys, prge
assert not any(m.startswith(("prge.", "torch", "executorch")) for m in sys.modules), "prge alone imports more"
prge.{name}
names = ("transformers", "torchao", "peft", "prge.models", "prge.export", "prge.cli", "typer")
heavy = [m for m in sys.modules if m.startswith(names)]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_says_what_it_is() -> None:
    assert set(prge.__all__) <= set(dir(prge))
    for name in prge.__all__:
        assert name == "__version__" or (getattr(prge, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no attribute 'sing'"):
        getattr(prge, "sing")  # noqa: B009, mypy knows that there is none


def test_no_option_is_unexplained() -> None:
    """All of them come from the functions' signatures, each with a sentence."""

    def commands(group: Any) -> Any:
        for command in group.commands.values():
            yield from commands(command) if hasattr(command, "commands") else [command]

    for command in commands(get_command(app)):
        assert command.help, command.name
        for option in command.params:
            assert getattr(option, "help", None) or option.name == "help", f"{command.name} {option.name}"


def test_resume_takes_the_run_s_own_settings() -> None:
    """What `prge train --resume` may be told is what `resume` takes."""
    taken = set(inspect.signature(resume).parameters)
    assert taken - {"run", "data"} <= set(inspect.signature(train_command).parameters) | {"dev"}
    assert get_args(inspect.signature(resume, eval_str=True).parameters["run"].annotation)
