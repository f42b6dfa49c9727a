"""The fisher subspace: its directions are those of autograd's gradients at the outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from prge.models.subspace import Row, apart, leading, principal_factors

WORDS = (5, 9)
ROWS = [Row((3, 1, 4, 1, 5, 9), (5,)), Row((2, 7, 1), (2,))]


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def output_gradient(model: Any, name: str, row: Row, objective: Any) -> Tensor:
    """d objective(logits at the row's positions) / d (a shift of the layer's output there), [positions, out]."""
    linear = model.get_submodule(name)
    shift = torch.zeros(len(row.tokens), linear.out_features, requires_grad=True)
    handle = linear.register_forward_hook(lambda m, x, y: y + shift)
    logits = model(torch.tensor([row.tokens])).logits[0, list(row.positions)]
    handle.remove()
    (gradient,) = torch.autograd.grad(objective(logits), shift)
    return gradient[list(row.positions)]


def test_two_answers_have_one_direction_per_text(tiny_model: Path) -> None:
    """With two label words every drawn answer pushes along the logits' difference: two texts span two directions."""
    model = load(tiny_model)
    names = [f"model.layers.{i}.{m}" for i in (0, 1) for m in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj")]
    found = principal_factors(model, {n: model.get_submodule(n) for n in names}, ROWS, WORDS, 3, 2)
    for name in names:
        expected = torch.cat(
            [output_gradient(model, name, row, lambda x: (x[:, WORDS[0]] - x[:, WORDS[1]]).sum()) for row in ROWS]
        )
        d = found[name].outputs
        torch.testing.assert_close(d.T @ d, torch.eye(2), rtol=0, atol=1e-5)
        torch.testing.assert_close(expected @ d @ d.T, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_inputs_are_those_of_the_answering_positions(tiny_model: Path) -> None:
    """A keeps two texts' inputs in two directions, at a mean square of one, and has less of the other positions'."""
    model, name = load(tiny_model), "model.layers.0.mlp.down_proj"
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda m, x, y: seen.append(x[0][0].detach().double()))
    for row in ROWS:
        model(torch.tensor([row.tokens]))
    handle.remove()
    own = torch.stack([x[row.positions[0]] for x, row in zip(seen, ROWS, strict=True)])
    # Of the five other positions of the first text every second is taken, and both of the second text.
    others = torch.cat([seen[0][[0, 2, 4]], seen[1][[0, 1]]])
    a = principal_factors(model, {name: model.get_submodule(name)}, ROWS, WORDS, 2, 2, set_apart=True)[
        name
    ].inputs.double()
    torch.testing.assert_close((own @ a.T).square().mean(), torch.tensor(1.0, dtype=torch.float64))
    # Two leading directions of two whitened vectors span both: A's rows span C^-1 of them.
    c = others.T @ others / 5 + 0.1 * own.square().mean() * torch.eye(own.shape[1], dtype=torch.float64)
    expected = torch.linalg.qr(torch.linalg.solve(c, own.T))[0]
    found = torch.linalg.qr(a.T)[0]
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=0, atol=1e-5)


def test_directions_apart_are_those_of_the_generalized_eigenproblem() -> None:
    generator = torch.Generator().manual_seed(0)
    own, others = torch.randn(40, 24, generator=generator), torch.randn(9, 24, generator=generator)
    c = others.double().T @ others.double() / 9 + 0.1 * own.double().square().mean() * torch.eye(24)
    lower = torch.linalg.cholesky(c)
    whitened = torch.linalg.solve_triangular(lower, own.double().T, upper=False)
    _, vectors = torch.linalg.eigh(whitened @ whitened.T)
    expected = torch.linalg.qr(torch.linalg.solve_triangular(lower.T, vectors[:, -5:], upper=True))[0]
    found = torch.linalg.qr(apart(own, others, 5).double())[0]
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=0, atol=1e-5)
    alone = torch.linalg.qr(apart(own, others[:0], 5))[0]
    principal = leading(own, 5)
    torch.testing.assert_close(alone @ alone.T, principal @ principal.T, rtol=0, atol=1e-5)


def test_more_directions_than_texts(tiny_model: Path) -> None:
    model = load(tiny_model)
    linear = {"model.layers.1.mlp.up_proj": model.model.layers[1].mlp.up_proj}
    factors = principal_factors(model, linear, ROWS, WORDS, 6, 5)["model.layers.1.mlp.up_proj"]
    d, a = factors.outputs, factors.inputs
    assert a.shape == (6, 32) and a.isfinite().all()
    torch.testing.assert_close(d.T @ d, torch.eye(5), rtol=0, atol=1e-5)


def test_drawn_answers_find_the_fisher_information_s_directions(tiny_model: Path) -> None:
    """Over the vocabulary, for several targets: the energy of the top of F = sum_t J_t^T (diag p - p p^T) J_t."""
    model = load(tiny_model)
    name, row = "model.layers.1.mlp.down_proj", Row((3, 1, 4, 1, 5, 9), (3, 4, 5))
    d = principal_factors(model, {name: model.get_submodule(name)}, [row] * 200, None, 2, 3)[name].outputs
    fisher = torch.zeros(32, 32)
    for position in row.positions:
        at = Row(row.tokens, (position,))
        rows = [output_gradient(model, name, at, lambda x, w=w: x[0, w]) for w in range(600)]
        p = model(torch.tensor([row.tokens])).logits[0, position].detach().softmax(-1)
        jacobian = torch.cat(rows)
        fisher += jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    best = torch.linalg.eigvalsh(fisher)[-3:].sum()
    assert torch.trace(d.T @ fisher @ d) > 0.9 * best


def test_the_leading_directions_of_many_vectors_are_those_of_the_full_decomposition() -> None:
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(700, 300, generator=generator) * torch.logspace(0, -2, 300)
    _, _, exact = torch.linalg.svd(vectors.double(), full_matrices=False)
    found = leading(vectors, 8).double()
    torch.testing.assert_close(found.T @ found, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close((exact[:8] @ found).abs(), torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-3)
    assert torch.equal(leading(vectors, 8), leading(vectors, 8))
