"""Runs: reproducible, resumable at any step, learning, and their adapters good for PEFT."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from peft import PeftModel
from transformers import AutoModelForCausalLM

from prge.commands.probe import below_probe
from prge.errors import UserError
from prge.examples.rows import Example
from prge.files.typed import to_json
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.quiet import quiet
from prge.regression import choose
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.loop.train import TrainConfig, fold
from prge.runtime_driver.program.generate import GenerateProgram
from prge.runtime_driver.program.state import load_state, save_peft, save_state
from prge.runtime_driver.program.step import StepProgram

CONFIG = TrainConfig(steps=12, lr=0.02, eps=0.02, seed=5)


def examples(program: StepProgram, folder: Path, data: Path, count: int) -> list[Example]:
    return Encoder(program.manifest, folder / "tokenizer.json", truncate=True).examples(data, count)


def run(program: StepProgram, data: list[Example], config: TrainConfig, upto: int | None = None) -> torch.Tensor:
    state = program.initial_state()
    for new_state, record in fold(program, state, data, [], config):
        state = new_state
        if record.step + 1 == upto:
            break
    return state


SECOND_PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[5])
from test_training import CONFIG, examples
from prge.runtime_driver.program.state import load_state, save_state
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.loop.train import fold
folder, data, state_file, first = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
program = StepProgram(folder)
state = load_state(state_file, program.manifest)
for state, _ in fold(program, state, examples(program, folder, data, 30), [], CONFIG, first_step=first):
    pass
save_state(state_file, state, program.manifest)
"""


def test_split_over_two_processes_is_bit_identical(program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    program, data = StepProgram(program_folder), demo_data / "train.tsv"
    texts = examples(program, program_folder, data, 30)
    whole = run(program, texts, CONFIG)
    save_state(tmp_path / "s", run(program, texts, CONFIG, upto=5), program.manifest)
    arguments = [str(program_folder), str(data), str(tmp_path / "s"), "5", str(Path(__file__).parent)]
    subprocess.run([sys.executable, "-c", SECOND_PROCESS, *arguments], check=True)
    assert torch.equal(load_state(tmp_path / "s", program.manifest), whole)


def test_training_lowers_the_loss(program_folder: Path, demo_data: Path) -> None:
    program = StepProgram(program_folder)
    texts = examples(program, program_folder, demo_data / "train.tsv", 40)
    before = evaluate(program, program.initial_state(), texts)
    after = evaluate(program, run(program, texts, TrainConfig(400, lr=0.01, eps=0.02)), texts)
    assert after.loss < 0.9 * before.loss


@pytest.mark.parametrize("subspace", ["fisher", "svd", None])
def test_peft_gives_the_program_s_logits(
    export: Callable[..., Path], tiny_model: Path, demo_data: Path, tmp_path: Path, subspace: str | None
) -> None:
    adapter = AdapterConfig(rank=4, alpha=8.0, subspace=subspace)  # type: ignore[arg-type]
    folder = export(adapter=adapter, step=StepConfig(2, 2, "activations" if subspace else "weights", "sgd"))
    program = StepProgram(folder)
    texts = examples(program, folder, demo_data / "test.tsv", 6)
    state = 0.2 * torch.randn(program.manifest.state_size, generator=torch.Generator().manual_seed(2))
    save_peft(tmp_path / "adapter", program.manifest, program.frozen(), state)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokens = [label.token for label in program.manifest.labels]

    def scores(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([model(torch.tensor([e.tokens])).logits[0, -1, tokens] for e in texts])

    ours = evaluate(program, state, texts).scores
    assert ours is not None
    plain = scores(base)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(ours, scores(adapted), rtol=0, atol=1e-3)
    assert (ours - plain).abs().max() > 0.05
    from prge.export.merge import merge_adapters

    with quiet():
        merge_adapters([tmp_path / "adapter"], tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    torch.testing.assert_close(ours, scores(merged), rtol=0, atol=1e-3)


def test_untied_head_with_biases(export: Callable[..., Path], make_model: Callable[..., Path], demo_data: Path) -> None:
    """Zero-shot scores equal the model's for an untied head, biased linears, and ungrouped heads."""
    config = tiny_config(tie_word_embeddings=False, attention_bias=True, mlp_bias=True, num_key_value_heads=4)
    model = make_model(config)
    folder = export(model=model)
    program = StepProgram(folder)
    texts = examples(program, folder, demo_data / "test.tsv", 4)
    hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokens = [label.token for label in program.manifest.labels]
    with torch.no_grad():
        expected = torch.stack([hf(torch.tensor([e.tokens])).logits[0, -1, tokens] for e in texts])
    ours = evaluate(program, program.initial_state(), texts).scores
    assert ours is not None
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_json_has_null_for_what_is_not_finite(
    prge: Callable[..., tuple[int, Any]], program_folder: Path, demo_data: Path, tmp_path: Path
) -> None:
    """`prge` here refuses NaN and Infinity, which Python's own parser takes."""
    m = StepProgram(program_folder).manifest
    save_state(tmp_path / "state", torch.full((m.state_size,), 3e38), m)
    given = [program_folder, "--data", demo_data / "test.tsv", "--truncate", "--state", tmp_path / "state"]
    code, found = prge("eval", *given)
    assert code == 0 and found["loss"] is None and 0 <= found["accuracy"] <= 1
    code, found = prge("predict", *given)
    assert code == 0 and {p["probability"] for p in found["predictions"]} == {None}
    nested = {"a": [1.5, math.nan, (math.inf, {"b": -math.inf})], "c": True, "d": None, "e": "NaN"}
    plain = {"a": [1.5, None, [None, {"b": None}]], "c": True, "d": None, "e": "NaN"}
    assert json.loads(to_json(nested)) == plain and to_json(plain) == json.dumps(plain)


def test_executing_leaves_stderr_alone(
    program_folder: Path, export: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only loading swaps it: that is done for the whole process, and takes longer than a small step."""
    program, generator = StepProgram(program_folder), GenerateProgram(export(context=64))
    state, rows = program.initial_state(), collate([Example((5, 6, 7, 8), 0)] * 2, program.manifest)
    for loaded in (program, program.frozen_part(), generator):
        loaded.load()
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup2", lambda *_: pytest.fail("stderr was swapped"))
        for seed in range(3):
            state, _ = program.step(state, *rows, seed, 0.01, 0.01)
        assert list(generator.generate((5, 6, 7), state, 20))


def test_what_the_runtime_cannot_run_is_one_sentence(program_folder: Path) -> None:
    program = StepProgram(program_folder)
    fine, targets = collate([Example((5, 6, 7, 8), 0)] * 2, program.manifest)
    for odd in (torch.full((2, 9), 10**6), torch.zeros(2, 99, dtype=torch.int64), torch.zeros(2, 9)):
        with pytest.raises(
            UserError, match=r"(frozen|program).pte: the ExecuTorch runtime could not run 'forward'"
        ) as error:
            program.execute(program.initial_state(), odd, targets, 1, 0.1, 0.1)
        assert "\n" not in str(error.value)
    assert program.execute(program.initial_state(), fine, targets, 1, 0.1, 0.1)[1].isfinite().all()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_there_is(number: int, program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-c", "from prge.cli.app import main; main()", "train", str(program_folder)]
    command += ["--data", str(demo_data / "train.tsv"), "--output", str(out), "--steps", "1000000", "--truncate"]
    # A shell that starts the tests in the background has SIGINT ignored; the command is to hear it.
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, heard)
    log = out / "log.jsonl"
    for _ in range(600):
        if log.exists() and log.read_text().count("\n") > 3:
            break
        time.sleep(0.1)
    process.send_signal(number)
    try:
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    result = json.loads(printed)
    assert process.returncode == 0 and result["completed"] is False and result["steps"] >= 3
    assert (out / "state.safetensors").exists() and (out / "curves.png").stat().st_size > 5000
    assert (out / "adapter" / "adapter_model.safetensors").exists()
    assert log.read_text().count("\n") == result["steps"]


def test_a_run_that_gets_no_better_stops(
    program_folder: Path, demo_data: Path, tmp_path: Path, prge: Callable[..., tuple[int, Any]]
) -> None:
    out, data = tmp_path / "run", ("--data", demo_data / "train.tsv", "--dev", demo_data / "test.tsv", "--truncate")
    settings = ("--steps", 8, "--eval-every", 1, "--lr", 1e-20, "--patience", 2)  # too small to change anything
    code, result = prge("train", program_folder, *data, *settings, "-o", out)
    assert code == 0 and result["steps"] == 2 and not result["completed"]
    assert result["stopped"] == "2 evaluations in a row were no better than the best one before them"
    code, result = prge("train", "--resume", out)  # four by default; two were before
    assert code == 0 and result["steps"] == 4 and "4 evaluations" in result["stopped"]
    code, result = prge("train", "--resume", out, "--patience", 0)
    assert code == 0 and result["completed"] and result["steps"] == 8


def test_a_run_below_a_linear_probe_is_told_so(program_folder: Path, demo_data: Path) -> None:
    program = StepProgram(program_folder)
    train, dev = (examples(program, program_folder, demo_data / f"{part}.tsv", 60) for part in ("train", "test"))
    assert below_probe(program, train, dev, 0.0) is None  # without hidden states it would cost a pass of the model
    with program.kept([*train, *dev]):
        said = below_probe(program, train, dev, 0.0)
        assert below_probe(program, train, dev, 1.0) is below_probe(program, train, dev[:49], 0.0) is None

    def features(some: list[Example]) -> torch.Tensor:
        below = program.frozen_part()
        rows = [below.states(torch.tensor([e.tokens]))[0] for e in some]
        return torch.stack([torch.cat([row[-1], row.mean(0)]) for row in rows])

    regression, _ = choose(features(train), torch.tensor([e.label for e in train]), 2, seed=0)
    right = (regression.scores(features(dev)).argmax(1) == torch.tensor([e.label for e in dev])).double().mean()
    assert said and f"a linear probe on what is frozen has {right:.3f}" in said
