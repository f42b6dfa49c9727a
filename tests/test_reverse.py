"""The rules of reverse mode against autograd, one by one and as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_config
from torch import Tensor
from torch.nn import functional as F

from prge.errors import UserError
from prge.models.engine import LayerNorm, RMSNorm, TanhGelu
from prge.models.families import UnsupportedModel
from prge.models.reverse import Traced, gradients, linear, turned
from prge.models.step import StepConfig

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
W = torch.randn(5, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def norm(kind: type[RMSNorm] | type[LayerNorm]) -> Callable[[Any], Any]:
    plain: Any = torch.nn.LayerNorm(8).double()
    with torch.no_grad():
        plain.weight.copy_(W[0])
        plain.bias.copy_(W[1])
    plain.variance_epsilon = plain.eps
    return kind(plain).double()


RULES: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: x + Y + x,
    "sub": lambda x: x - Y * x,
    "mul": lambda x: x * x * 3.0,
    "div": lambda x: x / 7.0,
    "neg": lambda x: -x,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "tanh_gelu": TanhGelu(),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "reshape": lambda x: x.reshape(6, 8) * Y.view(6, 8),
    "permute": lambda x: x.permute(2, 0, 1).contiguous() * Y.permute(2, 0, 1),
    "bmm": lambda x: torch.bmm(x, turned(Y)) * 2.0,
    "bmm of both": lambda x: torch.bmm(x, x.permute(0, 2, 1)),
    "linear": lambda x: linear(x, W, W.T.contiguous()),
    "rms norm": norm(RMSNorm),
    "layer norm": norm(LayerNorm),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_autograd_s(name: str) -> None:
    function = RULES[name]
    leaf = X.clone().requires_grad_()
    expected = function(leaf)
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (wanted,) = torch.autograd.grad(expected, leaf, slope)
    own = Traced(X)
    with torch.no_grad():
        result = function(own)
        (got,) = gradients(result, slope, [own])
    torch.testing.assert_close(result.value, expected.detach())
    torch.testing.assert_close(got, wanted)


def test_a_tensor_that_is_used_twice_adds_its_gradients() -> None:
    def function(x: Any, y: Any) -> Any:
        z = x * y
        return torch.tanh(z) * F.silu(x) + z

    leaves = [X.clone().requires_grad_(), Y.clone().requires_grad_()]
    wanted = torch.autograd.grad(function(*leaves), leaves, torch.ones_like(X))
    own = [Traced(X), Traced(Y)]
    for got, expected in zip(gradients(function(*own), torch.ones_like(X), own), wanted, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("function", "what"), [(torch.erfinv, "erfinv"), (lambda x: x.cumsum(0), "cumsum")])
def test_an_operator_without_a_rule_is_named(function: Callable[[Any], Any], what: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"no rule for '{what}'; use --gradient activations"):
        function(Traced(X))


def test_a_broadcast_source_is_refused() -> None:
    scale: Tensor = X[:, :, :1].contiguous()
    with pytest.raises(UnsupportedModel, match="broadcasting"):
        Traced(scale) * X


def test_export_refuses_an_operator_without_a_way_back(
    export: Callable[..., Path], make_model: Callable[..., Path]
) -> None:
    model = make_model(tiny_config(hidden_act="mish"))
    with pytest.raises(UserError, match=r"model\d*: .*no rule for 'mish'; use --gradient activations"):
        export(model=model, step=StepConfig(1, 2, "exact"))
