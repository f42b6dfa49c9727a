"""The program's step against the reference, on XNNPACK and on portable kernels."""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from conftest import tiny_config
from torchao.quantization import quantize_
from transformers import AutoModelForCausalLM

from prge.eager import build_again
from prge.examples.rows import Example
from prge.export.kept_weights import quantized
from prge.export.lower import delegated, into_edge, trace
from prge.export.quantize import QuantizedInParts, QuantizedLinear, linear_config
from prge.export.report import outside_ops
from prge.models.adapter import AdapterConfig
from prge.models.noise import noise
from prge.models.objective import LanguageModel
from prge.models.step import StepConfig
from prge.models.subspace import top_singular
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.step import StepProgram

SEED, LR, EPS = (3 << 32) + 12, 0.5, 0.05

# The step's settings, the backend, and (queries, batch, tokens). Half of all combinations have every pair of these;
# PRGE_THOROUGH=1 takes all.
STEPS = [
    ("full", "fisher", "adam"), ("exact", "fisher", "adam"), ("activations", "fisher", "adam"),
    ("weights", "svd", "sgd"), ("weights", None, "sgd"),
]  # fmt: skip
BACKENDS, SIZES = ("xnnpack", "portable"), ((2, 3, 17), (3, 1, 9))
CASES = [
    (*STEPS[i], BACKENDS[j], *SIZES[k])
    for i, j, k in itertools.product(range(5), range(2), range(2))
    if os.environ.get("PRGE_THOROUGH") or (i + j + k) % 2 == 0
]


def load(folder: Path) -> StepProgram:
    return StepProgram(folder)


def random_state(program: StepProgram) -> torch.Tensor:
    """Random parameters, the optimizer's slots at zero."""
    state = program.initial_state()
    size = program.manifest.parameters
    state[:size] = 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(1))
    return state


def random_batch(program: StepProgram, seed: int = 0) -> list[Example]:
    """B examples of different lengths up to the bound."""
    g, m = torch.Generator().manual_seed(seed), program.manifest
    examples = []
    for i in range(m.batch):
        length = m.max_tokens if i == 0 else int(torch.randint(3, m.max_tokens + 1, (1,), generator=g))
        tokens = torch.randint(1, 600, (length,), generator=g).tolist()
        examples.append(Example(tuple(tokens), i % 2, min(3, length - 1)))
    return examples


def compare(folder: Path, model: Path, tolerance: float = 1e-4) -> None:
    """One step from a random state: losses, the estimate, and the objective's own losses."""
    program = load(folder)
    hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    compare_step(program, hf, random_batch(program), tolerance)


def compare_step(program: StepProgram, hf: Any, batch: list[Example], tolerance: float = 1e-4) -> float:
    """`compare` on a batch; returns the greatest difference of the objective's losses."""
    m, frozen, state = program.manifest, program.frozen(), random_state(program)
    size = program.manifest.parameters
    if m.gradient == "full":
        expected = reference.gradient(hf, m, frozen, state[:size], batch)
        losses = torch.stack([reference.loss(hf, m, frozen, state[:size], e) for e in batch]).detach()
    elif m.gradient == "exact":
        expected, losses = reference.path_gradient(hf, m, frozen, state[:size], batch)
    else:
        estimate = reference.weight_estimate if m.gradient == "weights" else reference.activation_estimate
        with torch.no_grad():
            expected, losses = estimate(hf, m, frozen, state[:size], batch, SEED, EPS)
    with torch.no_grad():
        plain = torch.stack([reference.loss(hf, m, frozen, state[:size], e) for e in batch])
    new_state, each = program.step(state, *collate(batch, m), SEED, LR, EPS)
    loss = float(each.mean())
    assert abs(loss - losses.mean()) < tolerance
    # Adam's first mean is a tenth of the gradient; its square is checked on its own in test_optimizer.
    got = (state - new_state) / LR if m.optimizer == "sgd" else 10 * new_state[size : 2 * size]
    # An estimate divides a loss difference by eps: the losses' tolerance grows with it.
    near = tolerance / EPS if m.estimates else tolerance / 10
    assert (got[:size] - expected).abs().max() < near
    assert expected.abs().max() > 20 * near
    found = evaluate(program, state, batch).losses
    torch.testing.assert_close(found, plain, rtol=0, atol=tolerance)
    return float((found - plain).abs().max())


@pytest.mark.parametrize(("gradient", "subspace", "optimizer", "backend", "queries", "batch", "tokens"), CASES)
def test_step_equals_the_reference(
    export: Callable[..., Path], tiny_model: Path, gradient: Any, subspace: Any, optimizer: Any, backend: str,
    queries: int, batch: int, tokens: int,
) -> None:  # fmt: skip
    folder = export(
        step=StepConfig(1 if gradient in ("full", "exact") else queries, batch, gradient, optimizer),
        adapter=AdapterConfig(rank=4, alpha=8.0, subspace=subspace, directions=3),
        min_tokens=tokens,
        max_tokens=tokens,
        backend=backend,
    )
    compare(folder, tiny_model)


def test_dynamic_length_and_all_modules(export: Callable[..., Path], tiny_model: Path) -> None:
    modules = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    folder = export(adapter=AdapterConfig(rank=2, alpha=4.0, modules=modules, layers=slice(1, None)))
    compare(folder, tiny_model)


def test_an_operator_that_holds_the_length_is_refused() -> None:
    class Counting(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens + torch.arange(tokens.shape[1])

    with pytest.raises(RuntimeError, match=r"arange.*depends on the length"):
        trace(Counting(), lambda tokens: (torch.zeros(2, tokens, dtype=torch.int64),), 4, 9, "xnnpack")


@pytest.mark.parametrize("gradient", ["full", "exact"])
def test_gradients_of_language_modelling(export: Callable[..., Path], tiny_model: Path, gradient: Any) -> None:
    step = StepConfig(1, 2, gradient)
    compare(export(step=step, label_words=(), target=" {label}", max_targets=4), tiny_model)


@pytest.mark.parametrize(("gradient", "quantization"), [("full", "8da8w"), ("exact", "8da8w"), ("exact", "8da4w")])
def test_gradients_of_quantized_weights(
    export: Callable[..., Path], make_model: Callable[..., Path], gradient: Any, quantization: str
) -> None:
    """The way back has its own rounding: int8 costs hardly any of the direction, int4 some."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_hidden_layers": 4}
    model = make_model(tiny_config(initializer_range=0.1, num_key_value_heads=1, **sizes))
    plain, rounded = (
        load(export(model=model, step=StepConfig(1, 2, gradient), quantization=name)) for name in ("f32", quantization)
    )
    state, batch, size = random_state(plain), random_batch(plain), plain.manifest.parameters
    a, b = (p.step(state, *collate(batch, p.manifest), SEED, LR, EPS)[0][size : 2 * size] for p in (plain, rounded))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > (0.99 if quantization == "8da8w" else 0.7)


def test_an_exact_gradient_reads_neither_seed_nor_eps(export: Callable[..., Path]) -> None:
    program = load(export(step=StepConfig(1, 2, "exact")))
    state, rows = random_state(program), collate(random_batch(program), program.manifest)
    assert torch.equal(program.step(state, *rows, SEED, LR, EPS)[0], program.step(state, *rows, 0, LR, 1.0)[0])
    with pytest.raises(ValueError, match="no random directions; leave out the 4 queries"):
        StepConfig(4, 2, "exact")


def test_language_modelling(export: Callable[..., Path], tiny_model: Path) -> None:
    compare(export(label_words=(), target=" {label}", max_targets=4), tiny_model)


def test_language_modelling_in_int8(export: Callable[..., Path]) -> None:
    """The quantized head is packed where it is used; losses are near those in float32."""
    settings: dict[str, Any] = {"label_words": (), "target": " {label}", "max_targets": 4}
    exact, rounded = load(export(**settings)), load(export(**settings, quantization="8da8w"))
    state, batch = random_state(exact), random_batch(exact)
    difference = evaluate(exact, state, batch).losses - evaluate(rounded, state, batch).losses
    assert 0 < difference.abs().max() < 0.2


def test_language_modelling_with_perturbed_weights(export: Callable[..., Path], tiny_model: Path) -> None:
    step = StepConfig(2, 2, "weights", "sgd")
    compare(export(step=step, label_words=(), target=" {label}", max_targets=4), tiny_model)


@pytest.mark.parametrize(("outer", "inner"), [(False, True), (True, False), (False, False)])
def test_loops_on_the_host_make_the_same_step(
    export: Callable[..., Path], weights_program: Path, outer: bool, inner: bool
) -> None:
    step = StepConfig(2, 2, "weights", "sgd", outer, inner)
    whole, parts = load(weights_program), load(export(step=step))
    assert parts.manifest.rows == 2 * (1 + outer) * (1 + inner)
    state, (tokens, targets) = random_state(whole), collate(random_batch(whole), whole.manifest)
    expected, losses = whole.step(state, tokens, targets, SEED, LR, EPS)
    got, others = parts.step(state, tokens, targets, SEED, LR, EPS)
    torch.testing.assert_close(others, losses, rtol=0, atol=1e-5)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_noise_bits_are_the_same_in_the_program(export: Callable[..., Path], weights_program: Path) -> None:
    """With eps and lr such that state' shows z: every engine's z is +-1 times one number per query."""
    tokens = {"min_tokens": 9, "max_tokens": 9}
    one, two = StepConfig(1, 2, "weights", "sgd"), StepConfig(2, 2, "weights", "sgd")
    for folder in (weights_program, export(step=one, **tokens), export(step=two, backend="portable", **tokens)):
        program = load(folder)
        m = program.manifest
        state, (rows, targets) = program.initial_state(), collate(random_batch(program), m)
        z = torch.stack([reference.rademacher(SEED + i, m.state_size) for i in range(m.queries)])
        new, _ = program.step(state, rows, targets, SEED, 1.0, EPS)
        slopes = torch.linalg.lstsq(z.T, -new.unsqueeze(1)).solution.squeeze(1)
        torch.testing.assert_close(-new, slopes @ z, rtol=1e-4, atol=1e-6)


def test_gaussian_program_equals_eager_noise(export: Callable[..., Path]) -> None:
    program = load(export(step=StepConfig(1, 2, "weights", "sgd", noise="gaussian"), min_tokens=9, max_tokens=9))
    state, (rows, targets) = program.initial_state(), collate(random_batch(program), program.manifest)
    new, _ = program.step(state, rows, targets, SEED, 1.0, EPS)
    z = noise(torch.tensor([SEED]), 1, program.manifest.state_size, "gaussian")[0]
    slope = -(new @ z) / (z @ z)
    torch.testing.assert_close(-new, slope * z, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("gradient", ["activations", "weights"])
def test_slopes_are_autograd_s_directional_derivatives(
    program_folder: Path, weights_program: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, gradient: str
) -> None:
    """The step's own module in float64 at a tiny eps, where neither rounding nor curvature is left."""
    program = load(program_folder if gradient == "activations" else weights_program)
    m, batch, frozen = program.manifest, random_batch(program), program.frozen().double()
    state, size = random_state(program).double(), program.manifest.parameters
    hf = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64).eval()
    exact = reference.exact_activation_estimate if gradient == "activations" else reference.exact_weight_estimate
    expected = exact(hf, m, frozen, state[:size], batch, SEED)
    step = build_again(program, m.max_tokens).step.double()
    for module in ("activation_step", "weight_step"):
        monkeypatch.setattr(f"prge.models.{module}.noise", lambda *args: noise(*args).double())
    tokens, targets = collate(batch * m.copies, m)
    lr, eps = torch.tensor([1.0]).double(), torch.tensor([1e-7]).double()
    with torch.no_grad():
        new, _, _ = step(state, step.backbone.frozen(tokens), tokens, targets, torch.tensor([SEED]), lr, eps)
    got = state - new if m.optimizer == "sgd" else 10 * new[size : 2 * size]
    assert (got - expected).norm() < 1e-4 * expected.norm()


def test_weights_estimate_is_unbiased(weights_program: Path, tiny_model: Path) -> None:
    """Averaged over many seeds the estimate points along autograd's gradient."""
    program = load(weights_program)
    m, state, batch = program.manifest, random_state(program), random_batch(program)
    hf = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    exact = reference.gradient(hf, m, program.frozen(), state, batch)
    rows, steps = collate(batch, m), 2000
    mean = torch.zeros_like(state)
    for i in range(steps):
        new, _ = program.step(state, *rows, i * m.queries, 1.0, 1e-2)
        mean += (state - new) / steps
    total, size = steps * m.queries, m.state_size
    # g_hat = mean of z z^T g: along g it is g, across it has variance |g|^2 / q_total per number.
    along = float(mean @ exact / (exact @ exact))
    assert abs(along - 1) < 5 * (2 / total) ** 0.5
    cosine = float(mean @ exact / mean.norm() / exact.norm())
    expected = 1 / (1 + (size - 1) / total) ** 0.5
    assert abs(cosine - expected) < 0.02


def test_activations_estimate_is_unbiased(program_folder: Path, tiny_model: Path) -> None:
    """Averaged over many seeds it is autograd's gradient of what the adapters do at the target positions."""
    program = load(program_folder)
    m, state, batch = program.manifest, random_state(program), random_batch(program)
    size = m.parameters
    hf = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    exact, one = reference.target_gradient(hf, m, program.frozen(), state[:size], batch)
    rows, steps = collate(batch, m), 2000
    mean = torch.zeros(size)
    for i in range(steps):
        new, _ = program.step(state, *rows, i * m.queries, 1.0, 1e-2)
        mean += 10 * new[size : 2 * size] / steps
    along = float(mean @ exact / (exact @ exact))
    cosine = float(mean @ exact / mean.norm() / exact.norm())
    # Relative and squared; differences against the mean of all copies add one part in q^2.
    error = float(one / (steps * m.queries) / (exact @ exact)) * (1 + 1 / m.queries**2)
    assert abs(along - 1) < 3 * error**0.5 and cosine > 1 / (1 + 3 * error) ** 0.5
    assert error < 0.05


def test_svd_factors_are_the_top_of_w() -> None:
    for shape in ((12, 30), (30, 12)):
        w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        u, s, v = top_singular(w, 5)
        full_u, full_s, full_v = torch.linalg.svd(w, full_matrices=False)
        torch.testing.assert_close(s, full_s[:5])
        torch.testing.assert_close((u * s) @ v.T, (full_u[:, :5] * full_s[:5]) @ full_v[:5], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("quantization", "changes"),
    [("8da8w", {}), ("8da4w", {}), ("8da8w", {"label_words": (), "target": " {label}", "max_targets": 4})],
)
def test_quantized_program_equals_a_model_of_rounded_weights(
    export: Callable[..., Path], make_model: Callable[..., Path], quantization: str, changes: dict[str, object]
) -> None:
    """Up to the rounding of activations, losses are those of a float model with rounded weights."""
    model = make_model(tiny_config(initializer_range=0.1))
    program = load(export(model=model, quantization=quantization, **changes))
    hf = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    state, batch = random_state(program), random_batch(program)
    m, frozen = program.manifest, program.frozen()
    with torch.no_grad():
        params = state[: program.manifest.parameters]
        plain = torch.stack([reference.loss(hf, m, frozen, params, e) for e in batch])
        reference.round_weights(hf, quantization)
        expected = torch.stack([reference.loss(hf, m, frozen, params, e) for e in batch])
    losses = evaluate(program, state, batch).losses
    assert (losses - expected).abs().max() < 0.05
    if quantization == "8da4w":
        assert (losses - plain).abs().max() > 0.1
    new, _ = program.step(state, *collate(batch, m), SEED, LR, 0.1)
    assert new.isfinite().all() and not torch.equal(new, state)


def test_evaluation_does_not_depend_on_company(program_folder: Path, demo_data: Path) -> None:
    program = load(program_folder)
    encoder = Encoder(program.manifest, program_folder / "tokenizer.json", truncate=True)
    examples = encoder.examples(demo_data / "test.tsv", 11)
    together = evaluate(program, random_state(program), examples).losses
    alone = torch.cat([evaluate(program, random_state(program), [e]).losses for e in examples])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_loss_of_a_text(export: Callable[..., Path]) -> None:
    """That of PyTorch; bounded where the right token is all but excluded; no number where the logits are none."""
    objective, target = LanguageModel(torch.nn.Identity(), torch.nn.Identity(), 2, None), torch.tensor([[3, 1]])
    logits, weight = 4 * torch.randn(1, 2, 50), torch.tensor([[0.5, 0.5]])
    expected = torch.nn.functional.cross_entropy(logits[0], target[0], reduction="none")
    torch.testing.assert_close(objective(logits, target, weight)[1][0], expected, rtol=1e-5, atol=1e-6)
    logits[0, 0, 3] = -1e4
    assert 80 < objective(logits, target, weight)[1][0, 0] < 90
    folder = export(step=StepConfig(1, 2, "exact"), label_words=(), target=" {label}", max_targets=4)
    program = load(folder)
    lost = torch.full_like(program.initial_state(), torch.nan)
    batch = [Example(tuple(range(5, 15)), targets=2)] * program.manifest.rows
    assert program.execute(lost, *collate(batch, program.manifest), 0, 0.0, 0.0)[1].isnan().all()


@pytest.mark.parametrize(("kind", "least", "most"), [(QuantizedInParts, 0.0, 0.03), (QuantizedLinear, 0.5, 5.0)])
def test_a_gradient_of_a_whole_vocabulary_is_quantized_in_parts(
    kind: type[QuantizedLinear], least: float, most: float
) -> None:
    """Against float32: minus one for the right token in the same int8 range leaves nothing of the other tokens."""
    torch.manual_seed(0)
    head = torch.nn.Linear(20_000, 64, bias=False).requires_grad_(False)
    head.weight += 0.01  # as in a language model, tokens' vectors have something in common
    slope = (2 * torch.randn(1, 6, 20_000)).softmax(-1)
    slope[:, range(6), range(6)] -= 1
    expected = head(slope)
    kind.of(head, quantized(head.weight, linear_config("8da8w")))
    assert least <= (head(slope) - expected).norm() / expected.norm() <= most


def test_linears_that_read_one_tensor_quantize_it_once() -> None:
    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(64, 32), torch.nn.Linear(64, 48)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat((self.a(x), self.b(x)), dim=-1)

    torch.manual_seed(0)
    pair, x = Pair(), torch.randn(1, 5, 64)
    reference, config = copy.deepcopy(pair), linear_config("8da8w")
    quantize_(reference, config)
    for linear in (pair.a, pair.b):
        QuantizedLinear.of(linear, quantized(linear.weight, config))
    program = trace(pair, lambda tokens: (torch.zeros(1, tokens, 64),), 5, 5, "xnnpack")
    edge = into_edge(program, {})
    names = [str(node.target) for node in program.graph.nodes]
    assert torch.equal(program.module()(x), reference(x)) and torch.equal(pair(x), reference(x))
    edge = delegated(edge, range(1))
    assert sum("choose_qparams" in name for name in names) == 1
    assert outside_ops(edge.exported_program().graph) == (1, {})
