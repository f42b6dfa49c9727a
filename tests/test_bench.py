"""`prge bench`: the rival starts from the same scores, and the report holds what was run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from prge.bench.compare import compare
from prge.bench.contenders import real_steps, synthetic
from prge.bench.convergence import Curve, table
from prge.bench.lora import LoraAdamW
from prge.bench.process import Process
from prge.bench.runners import Run
from prge.bench.step import step as bench_step
from prge.cost import (
    ends,
    frozen_multiply_adds,
    inference_multiply_adds,
    inference_tokens,
    multiply_adds,
    peak_bytes,
    positions,
    weight_bytes,
)
from prge.eager import build_again
from prge.errors import UserError
from prge.examples.rows import Example
from prge.export.plan import plan, planned
from prge.export.quantize import QuantizedLinear, quantize
from prge.manifest import QUANTIZATIONS
from prge.models.adapter import AdapterConfig
from prge.models.checkpoints import load_sizes
from prge.models.step import StepConfig
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.loop.train import TrainConfig, fold
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import summary
from prge.runtime_driver.run.journal import read_journal
from prge.runtime_driver.run.snapshots import newest


def settings(program: Path, data: Path, seed: int = 0) -> Run:
    return Run("lora-adamw", str(program), 3, 1e-3, seed, str(data), 30, str(data), 10, points=2)


def test_lora_starts_from_the_program_s_scores(program_folder: Path, demo_data: Path) -> None:
    program = StepProgram(program_folder)
    texts = Encoder(program.manifest, program_folder / "tokenizer.json", truncate=True).examples(
        demo_data / "test.tsv", 7
    )
    rival = LoraAdamW(program.manifest, rank=8, seed=0, lr=1e-3)
    expected = evaluate(program, program.initial_state(), texts)
    with torch.no_grad():
        assert expected.scores is not None
        torch.testing.assert_close(rival.losses(texts)[1], expected.scores, rtol=0, atol=1e-4)
    assert summary(rival.evaluate(texts)) == pytest.approx(summary(expected), abs=1e-4)
    before = rival.losses(texts)[1].detach()
    rival.step(texts)
    assert (rival.losses(texts)[1] - before).abs().max() > 1e-5


def test_time_to_an_accuracy_is_of_every_seed(program_folder: Path, demo_data: Path) -> None:
    points = [{"seconds": 1.0, "accuracy": 0.5}, {"seconds": 2.0, "accuracy": 0.8}]
    curves = [Curve("a", settings(program_folder, demo_data, seed), points) for seed in (0, 1)]
    assert table(curves, 0.7)[0]["seconds_to_target"] == 2.0
    curves[1].points = points[:1]
    assert table(curves, 0.7)[0]["seconds_to_target"] is None


def test_convergence_report(program_folder: Path, demo_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prge", "bench", "convergence", str(program_folder), "--json", "--seeds", "1"]
    command += ["--data", str(demo_data / "train.tsv"), "--dev", str(demo_data / "test.tsv"), "--examples", "40"]
    command += ["--steps", "6", "--lora-steps", "3", "--lora-lr", "1e-3", "--curve", "10", "--target", "0.01"]
    done = subprocess.run([*command, "-o", str(tmp_path / "out")], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["rows"]
    assert [row["method"] for row in rows] == [program_folder.name, "lora-adamw lr 0.001"]
    assert all(0 < row["seconds_to_target"] <= row["seconds"] and row["peak_megabytes"] > 1 for row in rows)
    saved = json.loads((tmp_path / "out" / "convergence.json").read_text())
    assert [c["points"][-1]["steps"] for c in saved["curves"]] == [6, 3]
    assert (tmp_path / "out" / "convergence.png").stat().st_size > 5000
    assert "| lora-adamw" in (tmp_path / "out" / "convergence.md").read_text()


def test_multiply_adds_are_those_that_torch_counts(program_folder: Path, tiny_model: Path) -> None:
    m = StepProgram(program_folder).manifest
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="eager")
    positions = inference_tokens(m, 7)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden = model.model(torch.ones(m.rows, positions, dtype=torch.int64), use_cache=False).last_hidden_state
        torch.nn.functional.linear(hidden[:, -1], model.lm_head.weight[: len(m.labels)])
    assert 2 * inference_multiply_adds(m, 7) == counter.get_total_flops()


def test_a_plan_has_the_sizes_of_the_program(prge: Callable[..., tuple[int, Any]], export: Callable[..., Path]) -> None:
    """From the model's sizes alone; and more memory is never said to hold less."""
    m = StepProgram(export(adapter=AdapterConfig(subspace="fisher"), step=StepConfig(3, 2))).manifest
    foreseen = planned(load_sizes(m.model), StepConfig(3, 2), m.max_tokens, 0)
    assert (foreseen.architecture, foreseen.adapter) == (m.architecture, replace(m.adapter, sha256=""))
    assert weight_bytes(foreseen) == weight_bytes(m) and peak_bytes(foreseen, 20) == peak_bytes(m, 20)
    largest = [plan(m, budget)[0]["largest_batch"] for budget in (1e6, 25e6, 30e6, 100e6)]
    assert largest[0] == 0 < largest[2] and largest == sorted(largest)
    code, said = prge("plan", m.model, "--memory", "2GB")
    assert code == 0 and [row["quantization"] for row in said["rows"]] == list(QUANTIZATIONS)
    code, refused = prge("plan", m.model, "--memory", "much")
    assert code == 1 and "write a number and MB or GB" in refused["error"]


def test_weights_are_the_model_s_matrices_and_the_adapter_s_factors(program_folder: Path) -> None:
    program = StepProgram(program_folder)
    model = AutoModelForCausalLM.from_pretrained(program.manifest.model)
    size = sum(p.numel() * 4 for p in model.parameters() if p.dim() > 1)  # norms are next to nothing
    assert weight_bytes(program.manifest) == size + 4 * program.frozen().numel()


def test_int4_weights_are_counted_with_their_scales(export: Callable[..., Path]) -> None:
    """The last layer is in int8, and so are keys and values, which several queries share. Two of int4 are a byte."""
    program = StepProgram(export(quantization="8da4w"))
    built = build_again(program, program.manifest.max_tokens)
    quantize(built.step, built.base_linears, "8da4w")
    linears = [m for m in built.step.modules() if isinstance(m, QuantizedLinear)]
    int4 = [m for m in linears if m.bounds == (-8, 7)]
    layers = program.manifest.architecture.layers
    assert (len(linears), len(int4)) == (7 * layers, 5 * (layers - 1))
    size = sum(m.weight.numel() + 4 * m.scale.numel() for m in linears if m not in int4)
    size += sum(m.weight.numel() // 2 + 2 * m.scale.numel() for m in int4)
    table = built.step.backbone.embedding.table
    size += table.weight.numel() + 2 * table.scale.numel()
    assert weight_bytes(program.manifest) == size + 4 * program.frozen().numel()


def test_a_step_costs_its_copies_and_adapters_more(weights_program: Path, program_folder: Path) -> None:
    """Both parts of a step are what inference is, less what the last layer leaves out, and with the adapters."""
    for path in (weights_program, program_folder):
        m = StepProgram(path).manifest
        a, every, last = m.architecture, positions(m, 9), ends(m)
        below = m.first_layer * every * (a.layer_weights + 2 * a.heads * a.head * (every // m.rows))
        assert frozen_multiply_adds(m, m.rows, every // m.rows) == below
        keys_values = 2 * a.hidden * a.kv_heads * a.head
        other = a.layer_weights - keys_values + 2 * a.heads * a.head * (every // m.rows)
        pairs = 0
        for x in m.adapter.modules:
            each = m.adapter.rank * x.in_features + x.core[0] * x.core[1]
            each += x.core[1] * x.out_features if m.adapter.subspace else 0
            pairs += each * (last if x.layer == a.layers - 1 else every)
        head = (last - m.rows) * a.hidden * len(m.labels)
        assert multiply_adds(m, 9) == inference_multiply_adds(m, 9) - below - (every - last) * other + pairs + head
    more = replace(m, queries=m.queries + 1)
    assert positions(more, 9) - positions(m, 9) == ends(more) - ends(m) == m.batch


def test_a_step_has_as_many_positions_as_its_program_runs(program_folder: Path) -> None:
    """Those at which PyTorch runs the linears of the layers, counted as it makes a step."""
    program, seen = StepProgram(program_folder), dict[str, int]()
    m, step = program.manifest, build_again(program, program.manifest.max_tokens).step
    tokens, targets = collate([Example((5, 6, 7, 8, 9), 0, 1)] * m.rows, m)

    def watch(name: str) -> Any:
        def note(_: nn.Module, x: tuple[torch.Tensor], y: torch.Tensor) -> None:
            seen[name] = x[0].numel() // x[0].shape[-1]

        return note

    linears = {name: layer for name, layer in step.backbone.layers.named_modules() if isinstance(layer, nn.Linear)}
    handles = [linear.register_forward_hook(watch(name)) for name, linear in linears.items()]
    hidden = step.backbone.frozen(tokens)
    for name, linear in linears.items():
        assert (name in seen) == (int(name.split(".")[0]) < m.first_layer), linear
    step(program.initial_state(), hidden, tokens, targets, torch.tensor([0]), torch.tensor([0.1]), torch.tensor([0.1]))
    for name in linears:
        layer = int(name.split(".")[0])
        # Queries, keys and values run together here; those that nothing reads are not in the program.
        if layer >= m.first_layer and "projections" not in name:
            assert seen[name] == (positions(m, 5) if layer < m.architecture.layers - 1 else ends(m)), name
    for handle in handles:
        handle.remove()


KINDS = {"program": 1, "frozen": 1, "inference": 1, "eager": 1, "lora": 1, "lora-checkpointed": 1, "training": 1}


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's limits, of products that are exported in a second."""
    chains = {"f32": (64, 256, 4, False), "int8": (64, 256, 4, True), "bandwidth": (1, 1024, 2, False)}
    monkeypatch.setattr("prge.bench.step._CHAINS", chains)


def test_every_contender_steps(
    prge: Callable[..., tuple[int, Any]], export: Callable[..., Path], make_model: Callable[..., Path],
    small_limits: None, tmp_path: Path,
) -> None:  # fmt: skip
    """Each in its own process, on a model of one layer, which PyTorch exports in half the time."""
    program, out = export(model=make_model(tiny_config(num_hidden_layers=1))), tmp_path / "out"
    code, report = prge("bench", "step", program, "--tokens", 9, "--rounds", 2, "--threads", 1, "-o", out)
    assert code == 0 and report["machine"]["threads"] == 1
    assert Counter(row["kind"] for row in report["rows"]) == KINDS
    assert all(0 < row["least"] <= row["seconds"] <= row["most"] for row in report["rows"])
    assert all(row["peak_megabytes"] > 0 for row in report["rows"])
    assert all(report["limits"][name] > 1 for name in ("f32", "int8", "bandwidth"))
    (driven,) = (row for row in report["rows"] if row["driver_seconds"] is not None)
    assert driven["kind"] == "program" and driven["driver_seconds"] > 0
    assert (out / "step.png").stat().st_size > 5000 and "checkpointed" in (out / "step.md").read_text()


class Invented(Process):
    """A contender that takes as long as it is told: by round, 5, 3 and 4 ms, and as many more as its place."""

    order: list[tuple[str, int]] = []

    def start(self) -> None:
        self.start_seconds = 1.5

    def time(self, tokens: int) -> None:
        self.order.append((self.name, tokens))
        place = list(dict.fromkeys(name for name, _ in self.order)).index(self.name)
        seconds = 1e-3 * ([5.0, 3.0, 4.0][len(self.seconds.get(tokens, []))] + place)
        self.note(tokens, seconds, 1e-3 * place if self.contender.kind == "program" else None)
        self.megabytes[tokens], self.process_megabytes[tokens] = 10.0 + place, 500.0


def test_a_report_holds_medians_of_rounds_in_turn(
    program_folder: Path, weights_program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two programs and two lengths, from what their contenders said."""
    monkeypatch.setattr("prge.bench.step.Process", Invented)
    for name in ("write_products", "write_inference", "write_training"):
        monkeypatch.setattr(f"prge.bench.references.{name}", lambda *_: None)
    monkeypatch.setattr(Invented, "order", [])
    out, programs = tmp_path / "out", [program_folder, weights_program]
    report = bench_step(tuple(programs), out, (9, 5), 3)
    rows, called = report["rows"], [row["contender"] for row in report["rows"]]
    assert Counter(row["kind"] for row in rows) == {
        k: 2 * n + 2 * (k in ("program", "frozen", "inference")) for k, n in KINDS.items()
    }
    in_turn = [(name, 0) for name in ("f32", "int8", "bandwidth")]
    in_turn += [(name, tokens) for name in dict.fromkeys(called) for tokens in (5, 9)]
    assert Invented.order == 3 * in_turn
    for row in rows:
        place = 3 + list(dict.fromkeys(called)).index(row["contender"])
        times = row["least"], row["seconds"], row["most"]
        assert times == pytest.approx([1e-3 * (t + place) for t in (3, 4, 5)]) and row["peak_megabytes"] == 10 + place
        own = 1e-3 * place if row["kind"] == "program" else None
        assert row["driver_seconds"] == (None if own is None else pytest.approx(own))
    page = (out / "step.md").read_text()
    assert f"| {called[0]} | 5 | 1.50 | 0.007 | 3.00 | 500 |" in page
    first = next(line for line in page.splitlines() if line.startswith(f"| {called[2]} |"))
    assert first.split(" | ")[2] == "0.008 (0.007 to 0.009)" and first.endswith("| 14 | 1.14 |")
    assert json.loads((out / "step.json").read_text())["rows"] == rows
    compared = compare((out, out))
    assert len(compared["rows"]) == 20 and all(len(set(row["seconds"])) == 1 for row in compared["rows"])
    whole: dict[str, Any] = json.loads((out / "step.json").read_text())
    odd = tmp_path / "odd"
    odd.mkdir()
    contents: list[Any] = [None, {}, [], whole | {"rows": [{}]}, whole | {"machine": 1}]
    for content in [*contents, whole | {"rows": [rows[0] | {"seconds": 0}]}]:
        if content is not None:
            (odd / "step.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="no report"):
            compare((out, odd))
    for tokens, message in ((3, "takes 4 to 40 tokens, not 3"), (41, "not 41")):
        with pytest.raises(UserError, match=message):
            bench_step(tuple(programs), tmp_path / "none", (tokens,), 1)
    with pytest.raises(UserError, match="given twice"):
        bench_step((program_folder, program_folder), tmp_path / "none", (), 1)


def test_the_bench_s_steps_are_those_of_a_run(program_folder: Path) -> None:
    """A step's journal line and snapshot are written, and what the runtime takes is within the whole."""
    program, seen = StepProgram(program_folder), []
    examples = synthetic(program.manifest, 9, program.manifest.batch)
    steps = real_steps(program, examples)
    for count in range(1, 4):
        before, began = program.execution_seconds, time.perf_counter()
        next(steps)
        assert 0 < program.execution_seconds - before < time.perf_counter() - began
        scratch = Path(steps.gi_frame.f_locals["scratch"])  # type: ignore[attr-defined]
        assert len(read_journal(scratch / "run" / "log.jsonl")[0]) == newest(scratch / "run", count).steps == count
        seen.append(newest(scratch / "run", count).state)
    steps.close()  # type: ignore[attr-defined]
    assert not scratch.exists()
    config = TrainConfig(1_000_000, program.manifest.lr, program.manifest.eps)
    expected = [state for state, _ in islice(fold(program, program.initial_state(), examples, [], config), 3)]
    assert all(map(torch.equal, seen, expected))


def test_the_step_in_pytorch_is_the_program_s(weights_program: Path) -> None:
    program = StepProgram(weights_program)
    m = program.manifest
    rows, targets = collate(synthetic(m, 9, m.batch) * m.copies, m)
    scalars = torch.tensor([5]), torch.tensor([1e-2]), torch.tensor([0.05])
    with torch.no_grad():
        step = build_again(program, m.max_tokens).step.eval()
        expected, losses, _ = step(program.initial_state(), step.backbone.frozen(rows), rows, targets, *scalars)
    state, got, _ = program.execute(program.initial_state(), rows, targets, 5, 1e-2, 0.05)
    torch.testing.assert_close(got, losses, rtol=0, atol=1e-4)
    torch.testing.assert_close(state, expected, rtol=0, atol=1e-3)
