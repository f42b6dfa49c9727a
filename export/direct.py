"""A trace in core ATen at once. torch.export's own has other operators, and is run and written twice more for these."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from executorch.exir.tracer import _default_decomposition_table
from torch import Tensor
from torch._export.utils import _special_op_to_preserve_cia
from torch._ops import OpOverload
from torch._subclasses import FakeTensorMode, fake_impls
from torch.export import ExportedProgram, _trace, exported_program
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx

from prge.export.known_calls import known_calls


@contextmanager
def core_operators(preserve: Collection[OpOverload]) -> Iterator[None]:
    """Let torch.export decompose each operator as it meets it, but for ``preserve``.

    The model's parameters must be plain tensors: subclasses are taken apart by the way that this leaves out.
    """
    table = _default_decomposition_table()
    for op in preserve:
        table.pop(op, None)
    # As `ExportedProgram.run_decompositions` does it: composite operators through their own kernels, others by table.
    composite, others = exported_program._split_decomp_table_to_cia_and_python_decomp(table)

    def make(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
        kwargs |= {"pre_dispatch": False, "decomposition_table": others, "_disable_torch_fn_metadata_mode": True}
        traced = make_fx(function, **kwargs)

        def run(*args: Any) -> Any:
            with (
                whole_operators(),
                exported_program._override_composite_implicit_decomp(composite),
                patch.object(proxy_tensor, "proxy_call", known_calls()),
            ):
                return traced(*args)

        return run

    # It looks through all results for sizes that depend on numbers, and here every size is known.
    with patch.object(_trace, "make_fx", make), patch.object(_trace, "_replace_unbacked_bindings", lambda module: None):
        yield


@contextmanager
def decomposed() -> Iterator[None]:
    """Take programs as they are: traced with `core_operators`."""
    with patch.object(ExportedProgram, "run_decompositions", lambda program, table: program):
        yield


# torch knows these operators by what they are made of: a dozen others of torchao's, and of linears a matrix product
# with its views. A trace would look at each to learn a shape.


def _given(op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name."""
    return {**dict(zip((a.name for a in op._schema.arguments), args, strict=False)), **kwargs}


def _same_size(mode: FakeTensorMode, op: OpOverload, *args: Any, **kwargs: Any) -> Tensor:
    """A quantized or dequantized tensor."""
    given = _given(op, args, kwargs)
    with mode:
        out: Tensor = given["input"].new_empty(given["input"].shape, dtype=given.get("output_dtype", torch.float32))
        return out


def _of_rows(mode: FakeTensorMode, op: OpOverload, *args: Any, **kwargs: Any) -> Any:
    """The scales and zero points of a tensor's rows."""
    given = _given(op, args, kwargs)
    rows, names = given["input"].shape[:-1], ("scale_dtype", "zero_point_dtype")
    if list(given["block_size"]) != [*[1] * len(rows), given["input"].shape[-1]] or given.get("keepdim"):
        return NotImplemented
    with mode:
        return tuple(given["input"].new_empty(rows, dtype=given.get(name) or torch.float32) for name in names)


def _product(mode: FakeTensorMode, op: OpOverload, input: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    """A linear's result."""
    with mode:
        out: Tensor = input.new_empty((*input.shape[:-1], weight.shape[0]))
        return out


_torchao = torch.ops.torchao
_SIZES = {
    torch.ops.aten.linear.default: _product,
    _torchao.choose_qparams_affine.default: _of_rows,
    _torchao.quantize_affine.default: _same_size,
    _torchao.dequantize_affine.default: _same_size,
}


@contextmanager
def whole_operators() -> Iterator[None]:
    """Linears and torchao's operators are one operator each, of known sizes, to whatever runs a graph."""
    whole = dict.fromkeys(_SIZES, _special_op_to_preserve_cia)
    with (
        exported_program._override_composite_implicit_decomp(whole),
        patch.dict(fake_impls.op_implementations_dict, _SIZES),
    ):
        yield
