"""What torch and ExecuTorch do again and again in an export, done once or not at all. Programs come out the same."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, get_type_hints
from unittest.mock import patch

import torch
from executorch.backends.transforms.addmm_mm_to_linear import apply_addmm_mm_to_linear_transform
from executorch.backends.xnnpack._passes.convert_to_linear import ConvertToLinearPass
from executorch.exir import EdgeCompileConfig
from executorch.exir._serialize import _dataclass
from executorch.exir.pass_base import ExportPass
from executorch.exir.passes.normalize_transpose_pass import NormalizeTransposePass
from executorch.exir.passes.remove_mixed_type_operators import RemoveMixedTypeOperators
from executorch.exir.passes.replace_aten_with_edge_pass import OpReplacePass
from executorch.exir.passes.replace_broken_ops_with_function_ops_pass import ReplaceBrokenOpsWithFunctionalOpsPass
from executorch.exir.passes.scalar_to_tensor_pass import ScalarToTensorPass
from executorch.exir.passes.sym_to_tensor_pass import SymToTensorPass
from executorch.exir.program import _program
from torch._C import _AutoDispatchBelowAutograd
from torch._export.utils import _collect_all_valid_cia_ops
from torch.export import ExportedProgram, exported_program
from torch.export.graph_signature import ExportGraphSignature, InputSpec
from torch.fx import GraphModule, traceback
from torch.fx.graph import _PyTreeCodeGen
from torch.fx.passes.infra.pass_base import PassResult

from prge.export.direct import whole_operators
from prge.export.known_calls import KnownSizes
from prge.quiet import quiet

_aten = torch.ops.aten


@contextmanager
def quick() -> Iterator[None]:
    """Trace, lower and emit in less time, and in silence."""
    before, after = _program._get_aten_to_edge_passes(EdgeCompileConfig())
    others = [each for each in before if not isinstance(getattr(each, "__wrapped__", each), _ALONE)]
    with ExitStack() as stack:
        stack.enter_context(quiet())
        stack.enter_context(whole_operators())
        # Operators reach the trace whole, and not as what they are made of: nothing here has a gradient of autograd's.
        stack.enter_context(_AutoDispatchBelowAutograd())
        # Nobody reads the nodes' stack traces, and ExecuTorch drops the assertions.
        stack.enter_context(torch._dynamo.config.patch(do_not_emit_runtime_asserts=True))
        for place, name, value in (
            (torch.fx.config, "do_not_emit_stack_traces", True),
            (exported_program, "_collect_all_valid_cia_ops", _composites),
            (ExportedProgram, "_validate", lambda program: None),  # of each delegate, and of all behind each of them
            (_program, "_get_aten_to_edge_passes", lambda config: (others, after)),
            (_program, "ReplaceViewOpsWithViewCopyOpsPass", _SlicesCopied),
            (_program, "OpReplacePass", _ToEdge),
            (GraphModule, "print_readable", lambda *a, **k: ""),  # for a log that nobody reads
            (GraphModule, "recompile", _written_when_called),
            (traceback, "copy", _Shared),  # for where nodes came from, which nobody changes
            (_dataclass, "get_type_hints", functools.cache(get_type_hints)),
            (ConvertToLinearPass, "call", _to_linear),
        ):
            stack.enter_context(patch.object(place, name, value))
        yield


# Each of ExecuTorch's passes runs the program on fake tensors and writes it down anew. What a pass does to an operator
# is a method that hands on to the next class, so a class of several does it all in one walk.


class _ToEdge(
    NormalizeTransposePass, ReplaceBrokenOpsWithFunctionalOpsPass, ScalarToTensorPass, SymToTensorPass,
    RemoveMixedTypeOperators, OpReplacePass,
):  # fmt: skip
    """Views become copies, scalars tensors where an operator takes those, tensors of unlike types are cast, and then
    operators become those of the edge dialect."""

    def __init__(self) -> None:
        super().__init__()
        self.interpreter = KnownSizes()

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        """Write down one operator."""
        return super().call_operator(_aten.view.default if op == _aten._unsafe_view.default else op, args, kwargs, meta)


class _Shared:
    """Stands in for the module ``copy``."""

    copy = staticmethod(copy.copy)

    @staticmethod
    def deepcopy(value: Any) -> Any:
        """No copy."""
        return value


def _to_linear(self: ConvertToLinearPass, module: GraphModule) -> PassResult:
    """XNNPACK's pass, which would run and write the delegate again behind itself."""
    module.graph = apply_addmm_mm_to_linear_transform(module.graph)
    return PassResult(module, True)


class _SlicesCopied(ExportPass):
    """The part of a pass that a later one looks for: it drops slices of all that there is. `_ToEdge` does the rest."""

    def call(self, graph_module: GraphModule) -> PassResult:
        """Rename the slices."""
        for node in graph_module.graph.find_nodes(op="call_function", target=_aten.slice.Tensor):
            node.target = _aten.slice_copy.Tensor
        return PassResult(graph_module, True)


_ALONE = _ToEdge.__bases__

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
