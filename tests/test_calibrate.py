"""Calibration: closed forms of its fits, and its proposals on a program."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from prge.commands.plots import running_mean
from prge.errors import UserError
from prge.examples.rows import Example
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.calibrate import (
    Calibration,
    Estimates,
    calibrate,
    fit_reliability,
    noise_shares,
    peak_of_step,
    propose_lr,
    propose_shape,
)
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.loop.train import Guard, RunningMean, TrainConfig, fold
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import RunFolder


@pytest.mark.parametrize("order", [1, 2])
def test_reliability_is_the_correlation_with_the_exact_estimate(order: int) -> None:
    """Synthetic estimates with known curvature and rounding: the fit sees only them, not the exact one."""
    g = torch.Generator().manual_seed(0)
    exact, curvature = torch.randn(20_000, generator=g).double(), torch.randn(20_000, generator=g).double()
    eps = [0.0125 * 2**k for k in range(7)]
    noise = [0.03 / e * torch.randn(20_000, generator=g).double() for e in eps]
    estimates = torch.stack([exact + 2 * e**order * curvature + n for e, n in zip(eps, noise, strict=True)])
    true = torch.stack([torch.corrcoef(torch.stack((exact, estimate)))[0, 1] for estimate in estimates])
    fitted = torch.tensor(fit_reliability(estimates @ estimates.T, eps, order), dtype=torch.float64)
    torch.testing.assert_close(fitted, true, rtol=0, atol=0.02)
    assert 0 < int(fitted.argmax()) < 6 and int(fitted.argmax()) == int(true.argmax())


def test_noise_shares() -> None:
    """signal + noise of the examples + noise of the directions, of known lengths."""
    g = torch.Generator().manual_seed(0)
    signal = torch.randn(5000, generator=g)
    examples, directions = 2 * torch.randn(8, 1, 5000, generator=g), 3 * torch.randn(8, 2, 5000, generator=g)
    shares = noise_shares(signal + examples + directions)
    assert shares == pytest.approx((1 / 14, 9 / 14, 4 / 14), abs=0.02)


def test_more_noise_of_directions_asks_for_more_of_them(program_folder: Path, weights_program: Path) -> None:
    m = StepProgram(program_folder).manifest
    few, _ = propose_shape(m, 0.1, 0.8, 30.0)
    many, batch = propose_shape(m, 0.8, 0.1, 30.0)
    assert few < many
    # The noise for the cost is least at the proposal: its neighbours are no better.
    cost = lambda q: (0.8 * m.queries / q + 0.1) * (31 + q)  # noqa: E731
    assert cost(many) <= 1.1 * min(cost(q) for q in range(1, 65))
    assert batch == round(m.batch * (31 + m.queries) / (31 + many))
    assert propose_shape(StepProgram(weights_program).manifest, 0.8, 0.1, 30.0) == (1, 4)
    # Every query of a text of 5 targets copies 5 positions, so fewer are worth their cost.
    targets = replace(m, labels=(), objective="language-modelling", max_targets=5)
    fewer, batch = propose_shape(targets, 0.8, 0.1, 30.0)
    cost = lambda q: (0.8 * m.queries / q + 0.1) * (30 + 5 * (1 + q))  # noqa: E731
    assert fewer < many and cost(fewer) <= 1.1 * min(cost(q) for q in range(1, 65))
    assert batch == round(m.batch * (30 + 5 * (1 + m.queries)) / (30 + 5 * (1 + fewer)))


@pytest.mark.parametrize("kind", ["activations", "weights", "targets"])
def test_the_largest_batch_in_closed_form(kind: str, program_folder: Path, weights_program: Path) -> None:
    """From the positions that q and B make: B (T - 1 + (1 + q) M), or 2 q B T of perturbed weights."""
    m = StepProgram(weights_program if kind == "weights" else program_folder).manifest
    m = replace(m, batch=16)  # with fewer texts the frozen part would take more than the step
    if kind == "targets":
        m = replace(m, labels=(), objective="language-modelling", max_targets=5)
    a, longest, peak = m.architecture, 23, 700.0

    def positions(queries: int, batch: int, tokens: int) -> int:
        if kind == "weights":
            return 2 * queries * batch * tokens
        return batch * (tokens - 1 + (1 + queries) * max(1, m.max_targets))

    def bytes_of(queries: int, batch: int) -> float:
        """What grows with q and B, by prge.cost's figures: buffers of the longest row planned, and of this one held."""
        planned, held = positions(queries, batch, m.max_tokens), positions(queries, batch, longest)
        grows, layers = 11.0 * planned * a.hidden, 4.9 * held * a.layer_outputs
        if kind == "weights":
            return grows + layers + (5.0 + 7.5) * 4 * queries * m.parameters
        if kind == "activations":
            return grows + layers
        # Every row has a mask, and every copy a row of the vocabulary's size, planned and at work.
        logits = 4.0 * batch * 5 * (1 + queries) * a.vocabulary
        return grows + layers + 5.1 * planned * a.heads * (planned // batch) + 2.56 * logits

    for queries in (1, m.queries, 16):
        found = Calibration(0.1, 1.0, [], 0.1, [], 1.0, 0.0, 0.0, queries, 1, 1.0, longest, peak)
        for megabytes in (peak + 6.0, peak + 17.3):
            batch = found.largest_batch(m, megabytes)
            spare = 1e6 * (megabytes - peak) + bytes_of(m.queries, m.batch)
            assert bytes_of(queries, batch) <= spare < bytes_of(queries, batch + 1) and batch > 1
        assert found.largest_batch(m, peak - 600.0) == 0
    # At the program's own q, what was measured holds the program's own B, and a byte less does not.
    found = Calibration(0.1, 1.0, [], 0.1, [], 1.0, 0.0, 0.0, m.queries, 1, 1.0, longest, peak)
    assert found.largest_batch(m, peak) == m.batch and found.largest_batch(m, peak - 1e-3) == m.batch - 1


def test_the_peak_is_that_of_a_step_on_the_longest_texts(program_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, seen = StepProgram(program_folder), list[torch.Size]()
    execute = program.execute

    def executing(state: torch.Tensor, tokens: torch.Tensor, *given: Any) -> Any:
        seen.append(tokens.shape)
        return execute(state, tokens, *given)

    monkeypatch.setattr(program, "execute", executing)
    monkeypatch.setattr("prge.runtime_driver.loop.calibrate.peak_megabytes", lambda: 5.0 * len(seen))
    examples = [Example((1,) * n, n % 2) for n in (7, 12, 5)]
    assert peak_of_step(program, examples) == (12, 5.0) and seen == [(2, 12)]


def test_a_program_s_calibration(program_folder: Path, demo_data: Path) -> None:
    program = StepProgram(program_folder)
    encoder = Encoder(program.manifest, program_folder / "tokenizer.json", truncate=True)
    examples = encoder.examples(demo_data / "train.tsv", 4) * 16  # so few that every batch tells of the others
    found = calibrate(program, examples)
    assert found.correlation > 0.98 and len(found.by_eps) == 7  # float32: nearly exact somewhere
    assert found.signal + found.directions + found.examples == pytest.approx(1, abs=0.25)
    estimates = Estimates(program, examples)
    held = [e for batch in estimates.batches[4:] for e in batch]
    assert min(loss for _, loss in found.along) < evaluate(program, estimates.state, held).loss and found.lr > 0
    assert found.seconds_per_step > 0 and calibrate(program, examples).lr == found.lr


@pytest.mark.parametrize(("classes", "ways"), [(10, (1 / 8, 1 / 4)), (11, (1 / 2, 1.0))])
def test_many_classes_begin_at_a_larger_lr(
    program_folder: Path, monkeypatch: pytest.MonkeyPatch, classes: int, ways: tuple[float, ...]
) -> None:
    """Of the program's own lr, where the loss falls all the way."""
    m = StepProgram(program_folder).manifest
    m = replace(m, gradient="exact", queries=1, labels=m.labels[:1] * classes)
    estimates: Any = SimpleNamespace(
        program=SimpleNamespace(manifest=m), state=torch.zeros(8), batches=[[]] * 8, gradient=lambda *_: torch.ones(8)
    )
    losses = iter([1.0, 2.0])
    monkeypatch.setattr("prge.runtime_driver.loop.calibrate.evaluate", lambda *_: SimpleNamespace(loss=next(losses)))
    lr, along = propose_lr(estimates, m.eps)
    assert [way / m.lr for way, _ in along] == pytest.approx(ways) and lr == pytest.approx(m.lr * ways[-1])


def test_the_guard_knows_divergence() -> None:
    guard, states = Guard(16, 2), [torch.full((2,), float(i)) for i in range(40)]
    for i in range(10):
        assert guard.watch(states[i], 0.7 - 0.01 * i, states[i + 1]) == (states[i + 1], False)
    assert guard.good is states[9]
    assert not guard.watch(states[10], 3.0, states[11])[1]  # one bad batch is none
    gone = next(at for at in range(11, 30) if guard.watch(states[at], 3.0, states[at + 1])[1])
    assert gone > 11 and guard.good is states[9] and guard.scale == 0.5
    with pytest.raises(UserError, match="first loss is not finite"):
        Guard(16, 2).watch(states[0], math.nan, states[1])
    for loss, state in ((math.nan, states[9]), (0.6, states[9] / 0)):
        assert guard.watch(states[9], loss, state) == (states[9], True)
    assert guard.scale == 0.125


@pytest.mark.parametrize("batch", [1, 2, 4, 8, 16])
def test_the_guard_does_not_take_chance_for_divergence(batch: int) -> None:
    """The fewer examples a step has, the further its loss is from the mean, the first one too; a lost run is told."""
    chance, states = random.Random(batch), [torch.full((1,), float(i)) for i in range(600)]

    def loss(times: float = 1.0) -> float:  # of a batch; an example's is 0.75 in the mean, and up to 10 or so
        return times * sum(6 * chance.expovariate(4.0) ** 2 for _ in range(batch)) / batch

    guard = Guard(batch, 2)
    for i, each in enumerate([0.03, *(loss(1.0 - at / 800) for at in range(399))]):
        assert not guard.watch(states[i], each, states[i + 1])[1]
    assert guard.good is not states[0]
    gone = next(at for at in range(400, 599) if guard.watch(states[at], loss(8.0), states[at + 1])[1])
    assert gone < 400 + 2 * guard.span and guard.scale == 0.5


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_first_step_to_a_state_that_is_not_finite_is_thrown_away(bad: float) -> None:
    """Its loss was finite, so there is a state to go back to. The journal's rows give the same numbers."""
    guard, noted, state = Guard(16, 2), Guard(16, 2), torch.zeros(2)
    new_state = torch.tensor([0.0, bad])
    assert guard.watch(state, 0.7, new_state) == (state, True) and guard.good is state
    assert (guard.scale, guard.first, guard.mean, guard.best, guard.losses) == (0.5, 0.7, 0.7, 0.7, [])
    assert noted.note(0.7, True)
    after = torch.ones(2)
    assert guard.watch(state, 0.6, after) == (after, False) and guard.good is state
    noted.note(0.6, False)
    assert vars(noted) | {"good": state} == vars(guard)


@pytest.mark.parametrize("loss", [math.inf, -math.inf, math.nan])
def test_only_a_first_loss_that_is_not_finite_ends_a_run(loss: float) -> None:
    for new_state in (torch.ones(2), torch.full((2,), math.inf)):
        with pytest.raises(UserError, match="the first loss is not finite"):
            Guard(16, 2).watch(torch.zeros(2), loss, new_state)


def test_a_run_whose_first_step_is_thrown_away_goes_on_and_resumes(
    program_folder: Path, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = StepProgram(program_folder)
    program.truncate = True
    texts, config = program.examples(demo_data / "train.tsv", 20), TrainConfig(4, 0.01, 0.02)
    step, start, seed = program.step, program.initial_state(), config.seed_at(0, program.manifest.queries)

    def failing(state: torch.Tensor, *given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        new_state, losses = step(state, *given)
        return (new_state / 0 if given[2] == seed else new_state), losses

    monkeypatch.setattr(program, "step", failing)
    run = RunFolder.begin(tmp_path / "run", program, config, {}, start)
    steps = fold(program, start, texts, [], config, guard=run.guard)
    state, record = next(steps)
    run.log(record, state, run.guard, None)
    run.close()
    assert record.backed_off and torch.equal(state, start)
    *_, (whole, last) = steps
    assert not last.backed_off and last.lr == 0.5 * config.lr_at(3, program.manifest)
    resumed = RunFolder(tmp_path / "run", program, 0)
    *_, (again, _) = fold(program, resumed.stands.state, texts, [], config, 1, resumed.guard)
    resumed.close()
    assert torch.equal(again, whole) and resumed.guard.first == max(record.loss, math.log(2))


def test_the_mean_that_is_shown_forgets_what_is_not_finite() -> None:
    mean, losses = RunningMean(), [math.nan, 3.0, math.inf, 1.0, math.nan, -math.inf, 5.0]
    assert math.isnan(mean.value)
    shown = [mean.add(loss) for loss in losses]
    assert math.isnan(shown[0]) and shown[1:] == [3.0, 3.0, 2.0, 2.0, 2.0, 3.0]
    assert [mean.add(9.0) for _ in range(200)][-1] == pytest.approx(9.0, abs=1e-3)  # the first ones fade
    assert running_mean([None, *losses]) == pytest.approx([math.nan, *shown], nan_ok=True)


def test_a_diverging_run_comes_back(program_folder: Path, demo_data: Path) -> None:
    program = StepProgram(program_folder)
    examples = Encoder(program.manifest, program_folder / "tokenizer.json", truncate=True).examples(
        demo_data / "train.tsv", 64
    )
    records = []
    config = TrainConfig(120, 4.0, 0.05)
    for last, record in fold(program, program.initial_state(), examples, [], config):  # noqa: B007
        records.append(record)
    back = [r.step for r in records if r.backed_off]
    assert back and last.isfinite().all()
    at = records[back[0]].lr, records[back[0] + 1].lr
    assert at[1] < 0.6 * at[0]
    # Of all examples; a run's first batch may be lucky.
    before = evaluate(program, program.initial_state(), examples)
    assert evaluate(program, last, examples).loss < 1.1 * before.loss


def test_a_hopeless_run_ends_with_its_best_state(program_folder: Path, demo_data: Path) -> None:
    program = StepProgram(program_folder)
    examples = Encoder(program.manifest, program_folder / "tokenizer.json", truncate=True).examples(
        demo_data / "train.tsv", 64
    )
    last, losses = program.initial_state(), []
    with pytest.raises(UserError, match="smaller learning rates did not help"):
        for last, record in fold(program, last, examples, [], TrainConfig(400, 300.0, 0.05)):  # noqa: B007, B020
            losses.append(record.loss)
    assert last.isfinite().all() and evaluate(program, last, examples).loss < losses[0] + 1
