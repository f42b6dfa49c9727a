"""Reverse mode written into the forward graph: tensors that know how the loss's gradient gets back to their sources.

A model's layers run as they are, on a `Traced` in place of a tensor, and leave a record of what was computed from what.
`gradients` then walks it backwards. All of it happens while the program is traced: the program itself has the
operations alone, forward and backward, and the runtime sees nothing but forward operators.

An operation on all numbers of a tensor has its rule here. Modules of prge's own that have a shorter one (norms,
attention, linears) give it themselves, to `traced`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from prge.models.families import UnsupportedModel

# From the gradient at a result to the gradient at one of its sources.
Pull = Callable[[Tensor], Tensor]

_numbers = itertools.count()


class Traced:
    """A tensor whose gradient is wanted, or that was made of such.

    Attributes:
        value: the tensor.
        pulls: the sources, each with the way of the gradient to it.
        number: grows with every new one, so that a source has a smaller one than its results.
    """

    def __init__(self, value: Tensor, pulls: Sequence[tuple[Traced, Pull]] = ()):
        self.value, self.pulls, self.number = value, pulls, next(_numbers)

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch calls in place of ``function``; an `UnsupportedModel` for one without a rule."""
        return _apply(function.__name__.strip("_"), *args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        of_tensors = getattr(Tensor, name)
        if name in ("dim", "size") or not callable(of_tensors):
            return getattr(self.value, name)
        return lambda *args, **kwargs: _apply(name, self, *args, **kwargs)

    def __add__(self, other: Any) -> Any:
        return _apply("add", self, other)

    def __mul__(self, other: Any) -> Any:
        return _apply("mul", self, other)

    def __sub__(self, other: Any) -> Any:
        return _apply("sub", self, other)

    def __truediv__(self, other: Any) -> Any:
        return _apply("div", self, other)

    def __neg__(self) -> Any:
        return _apply("neg", self)

    __radd__, __rmul__ = __add__, __mul__


def value_of(x: Any) -> Any:
    """The tensor of a `Traced`; anything else as it is."""
    return x.value if isinstance(x, Traced) else x


def traced(value: Tensor, *pulls: tuple[Any, Pull]) -> Any:
    """A result, with the way of its gradient to each of its sources; the tensor alone where no source is a `Traced`."""
    wanted = [(source, pull) for source, pull in pulls if isinstance(source, Traced)]
    return Traced(value, wanted) if wanted else value


def gradients(result: Traced, slope: Tensor, leaves: Sequence[Traced]) -> list[Tensor]:
    """The gradients at the ``leaves``, shaped like them, from the gradient ``slope`` at the result."""
    slopes, reached, ahead = {result: slope}, set[Traced](), [result]
    while ahead:
        node = ahead.pop()
        if node not in reached:
            reached.add(node)
            ahead += [source for source, _ in node.pulls]
    for node in sorted(reached, key=lambda n: n.number, reverse=True):
        for source, pull in node.pulls:
            part = pull(slopes[node])
            slopes[source] = slopes[source] + part if source in slopes else part
    return [slopes[leaf] for leaf in leaves]


def _no_rule(what: str) -> UnsupportedModel:
    return UnsupportedModel(f"the exact gradient has no rule for {what!r}; use --gradient activations")


def _apply(name: str, *args: Any, **kwargs: Any) -> Any:
    if name not in _RULES:
        raise _no_rule(name)
    return _RULES[name](*args, **kwargs)


def _alike(value: Tensor, *sources: Any) -> None:
    """Refuse a source that was broadcast, for its gradient would have to be summed."""
    for source in sources:
        if isinstance(source, Traced) and source.value.shape != value.shape:
            raise _no_rule("broadcasting")


def _add(a: Any, b: Any) -> Any:
    value = value_of(a) + value_of(b)
    _alike(value, a, b)
    return traced(value, (a, lambda g: g), (b, lambda g: g))


def _sub(a: Any, b: Any) -> Any:
    value = value_of(a) - value_of(b)
    _alike(value, a, b)
    return traced(value, (a, lambda g: g), (b, lambda g: -g))


def _mul(a: Any, b: Any) -> Any:
    x, y = value_of(a), value_of(b)
    value = x * y
    _alike(value, a, b)
    return traced(value, (a, lambda g: g * y), (b, lambda g: g * x))


def _div(a: Traced, b: Any) -> Any:
    if isinstance(b, Traced):
        raise _no_rule("dividing")
    return _mul(a, 1.0 / b)


def linear(x: Any, weight: Tensor, back: Tensor) -> Any:
    """``x W^T`` with frozen weights: f32[..., in] and f32[out, in] -> f32[..., out].

    Args:
        back: the transposed weights, f32[in, out]. They are a constant of their own, as the delegate takes no products
            with transposed constants.
    """
    return traced(F.linear(value_of(x), weight), (x, lambda g: F.linear(g, back)))


def _bmm(a: Any, b: Any) -> Any:
    x, y = value_of(a), value_of(b)
    return traced(torch.bmm(x, y), (a, lambda g: torch.bmm(g, turned(y))), (b, lambda g: torch.bmm(turned(x), g)))


def turned(x: Tensor) -> Tensor:
    """The transposed matrices of a batch, f32[n, a, b] -> f32[n, b, a]."""
    return x.permute(0, 2, 1).contiguous()


def _reshape(x: Traced, *shape: Any) -> Any:
    return traced(x.value.reshape(*shape), (x, lambda g: g.reshape(x.value.shape)))


def _permute(x: Traced, *dims: int) -> Any:
    order = [dim % len(dims) for dim in dims]
    back = [order.index(i) for i in range(len(dims))]
    return traced(x.value.permute(*dims), (x, lambda g: g.permute(*back).contiguous()))


def _contiguous(x: Traced) -> Any:
    return traced(x.value.contiguous(), (x, lambda g: g))


def _same(x: Traced, *_: Any, **__: Any) -> Any:
    """Copies, conversions between what is float32 anyway, and what does nothing outside of training."""
    return x


def _tanh(x: Traced) -> Any:
    y = torch.tanh(x.value)
    return traced(y, (x, lambda g: g * (1.0 - y * y)))


def _sigmoid(x: Traced) -> Any:
    y = torch.sigmoid(x.value)
    return traced(y, (x, lambda g: g * (y * (1.0 - y))))


def _silu(x: Traced, inplace: bool = False) -> Any:
    gate = torch.sigmoid(x.value)
    y = x.value * gate
    return traced(y, (x, lambda g: g * (gate + y * (1.0 - gate))))


def _relu(x: Traced, inplace: bool = False) -> Any:
    return traced(F.relu(x.value), (x, lambda g: g * (x.value > 0).to(torch.float32)))


def _gelu(x: Traced, approximate: str = "none") -> Any:
    v = x.value
    if approximate == "tanh":
        root = math.sqrt(2.0 / math.pi)
        return 0.5 * x * (1.0 + _tanh(root * (x + 0.044715 * (x * x * x))))

    def back(g: Tensor) -> Tensor:
        density = torch.exp(v * v * -0.5) * (1.0 / math.sqrt(2.0 * math.pi))
        return g * (0.5 * (1.0 + torch.erf(v * math.sqrt(0.5))) + v * density)

    return traced(F.gelu(v), (x, back))


_RULES: dict[str, Callable[..., Any]] = {
    "add": _add, "radd": _add, "sub": _sub, "mul": _mul, "rmul": _mul, "div": _div, "truediv": _div,
    "neg": lambda x: _mul(x, -1.0), "bmm": _bmm, "reshape": _reshape, "view": _reshape,
    "permute": _permute, "contiguous": _contiguous, "float": _same, "to": _same, "dropout": _same,
    "tanh": _tanh, "sigmoid": _sigmoid, "silu": _silu, "relu": _relu, "gelu": _gelu,
    "square": lambda x: _mul(x, x),
}  # fmt: skip
