"""What torch and ExecuTorch do again and again in an export, done once or not at all. Programs come out the same.

An export with `quick` takes about half the time of one without.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from executorch.exir import EdgeCompileConfig
from executorch.exir.pass_base import ExportPass
from executorch.exir.passes.normalize_transpose_pass import NormalizeTransposePass
from executorch.exir.passes.remove_mixed_type_operators import RemoveMixedTypeOperators
from executorch.exir.passes.replace_aten_with_edge_pass import OpReplacePass
from executorch.exir.passes.replace_broken_ops_with_function_ops_pass import ReplaceBrokenOpsWithFunctionalOpsPass
from executorch.exir.passes.scalar_to_tensor_pass import ScalarToTensorPass
from executorch.exir.passes.sym_to_tensor_pass import SymToTensorPass
from executorch.exir.program import _program
from torch._export.utils import _collect_all_valid_cia_ops
from torch.export import exported_program
from torch.export.graph_signature import ExportGraphSignature, InputSpec
from torch.fx import GraphModule
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.passes.infra.pass_base import PassResult

from prge.quiet import quiet

_aten = torch.ops.aten


@contextmanager
def quick() -> Iterator[None]:
    """Trace, lower and emit in less time, and in silence."""
    before, after = _program._get_aten_to_edge_passes(EdgeCompileConfig())
    others = [each for each in before if not isinstance(getattr(each, "__wrapped__", each), _ALONE)]
    with ExitStack() as stack:
        stack.enter_context(quiet())
        # Nobody reads the nodes' stack traces, and ExecuTorch drops the assertions.
        stack.enter_context(torch._dynamo.config.patch(do_not_emit_runtime_asserts=True))
        for place, name, value in (
            (torch.fx.config, "do_not_emit_stack_traces", True),
            (exported_program, "_collect_all_valid_cia_ops", _composites),
            (_program, "_get_aten_to_edge_passes", lambda config: ([_Copies(), *others], after)),
            (_program, "ReplaceViewOpsWithViewCopyOpsPass", _Nothing),  # `_Copies` does it
            (_program, "OpReplacePass", _Edge),
            (GraphModule, "print_readable", lambda *a, **k: ""),  # for a log that nobody reads
            (GraphModule, "recompile", _written_when_called),
        ):
            stack.enter_context(patch.object(place, name, value))
        yield


# Each of ExecuTorch's passes runs the program on fake tensors and writes it down anew. What a pass does to an operator
# is a method that hands on to the next class, so a class of several does it all in one walk.


class _Copies(NormalizeTransposePass, ReplaceBrokenOpsWithFunctionalOpsPass, ScalarToTensorPass, SymToTensorPass):
    """Views become copies, and scalars where an operator takes tensors become tensors."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        """Write down one operator."""
        return super().call_operator(_aten.view.default if op == _aten._unsafe_view.default else op, args, kwargs, meta)


class _Edge(RemoveMixedTypeOperators, OpReplacePass):
    """Tensors of unlike types are cast, and operators become those of the edge dialect."""


class _Nothing(ExportPass):
    """Stands in for a pass that finds nothing to do, or that another does too."""

    def call(self, graph_module: GraphModule) -> PassResult:
        """Leave all as it is."""
        return PassResult(graph_module, False)


_ALONE = (*_Copies.__bases__, *_Edge.__bases__)

# All of torch's composite operators: a walk through all that it has, at every decomposition.
_composites = functools.cache(_collect_all_valid_cia_ops)


# Every pass writes its graph's Python code, and hardly any graph is called: passes go from node to node.

_write = GraphModule.recompile


def _written_when_called(module: GraphModule) -> None:
    codegen = module.graph._codegen
    if isinstance(codegen, _PyTreeCodeGen):
        module._in_spec, module._out_spec = codegen.pytree_info.in_spec, codegen.pytree_info.out_spec
    module._code = ""  # for its `str`, of which messages are made that nobody reads
    type(module).forward = _Unwritten()  # type: ignore[assignment]  # a graph module's class is its own


class _Unwritten:
    """A method that is written when somebody asks for it."""

    def __get__(self, module: GraphModule | None, owner: type) -> Any:
        if module is None:
            return self
        _write(module)
        return module.forward


# Asked of every node, in every delegate.
_OF_SIGNATURES = ("inputs_to_parameters", "inputs_to_buffers", "inputs_to_lifted_tensor_constants")


@contextmanager
def kept_signatures() -> Iterator[None]:
    """Signatures make each of `_OF_SIGNATURES` once as long as their inputs stay, and not anew whenever it is read.

    With a thousand constants that is a tenth of the time that lowering takes. For delegation alone: decomposition
    changes the inputs themselves.
    """
    with ExitStack() as stack:
        for name in _OF_SIGNATURES:
            stack.enter_context(patch.object(ExportGraphSignature, name, _kept(name)))
        yield


def _kept(name: str) -> property:
    make: Callable[[ExportGraphSignature], Mapping[str, str]] = getattr(ExportGraphSignature, name).fget
    known: dict[int, tuple[list[InputSpec], Mapping[str, str]]] = {}

    def found(signature: ExportGraphSignature) -> Mapping[str, str]:
        now = signature.input_specs
        specs, value = known.get(id(signature), ((), None))
        if value is None or len(specs) != len(now) or not all(map(operator.is_, specs, now)):
            value = make(signature)
            known[id(signature)] = list(now), value
        return value

    return property(found)
