"""Calibration: closed forms of its fits, and its proposals on a program."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from prge.errors import UserError
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.calibrate import calibrate, fit_reliability, noise_shares, propose_shape
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.loop.train import Guard, TrainConfig, fold
from prge.runtime_driver.program.step import StepProgram


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


def test_a_program_s_calibration(program_folder: Path, demo_data: Path) -> None:
    program = StepProgram(program_folder)
    encoder = Encoder(program.manifest, program_folder / "tokenizer.json", truncate=True)
    examples = encoder.examples(demo_data / "train.tsv", 4) * 16  # so few that every batch tells of the others
    found = calibrate(program, examples)
    assert found.correlation > 0.98 and len(found.by_eps) == 7  # float32: nearly exact somewhere
    assert found.signal + found.directions + found.examples == pytest.approx(1, abs=0.25)
    losses = dict(found.along)
    assert min(losses.values()) < losses[0.0] and found.lr > 0
    assert found.seconds_per_step > 0 and calibrate(program, examples).lr == found.lr


def test_the_guard_knows_divergence() -> None:
    guard, states = Guard(), [torch.full((2,), float(i)) for i in range(40)]
    for i in range(10):
        assert guard.watch(states[i], 0.7 - 0.01 * i, states[i + 1]) == (states[i + 1], False)
    assert guard.good is states[9]
    assert not guard.watch(states[10], 3.0, states[11])[1]  # one bad batch is none
    gone = next(at for at in range(11, 30) if guard.watch(states[at], 3.0, states[at + 1])[1])
    assert gone > 11 and guard.good is states[9] and guard.scale == 0.5
    with pytest.raises(UserError, match="first loss is not finite"):
        Guard().watch(states[0], math.nan, states[1])
    for loss, state in ((math.nan, states[9]), (0.6, states[9] / 0)):
        assert guard.watch(states[9], loss, state) == (states[9], True)
    assert guard.scale == 0.125


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
