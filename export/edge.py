"""From a traced program to ExecuTorch's edge dialect, as `executorch.exir.to_edge` does it but in fewer walks.

Each of ExecuTorch's passes runs the program on fake tensors and writes it down anew, and there are seven of them. What
they do to an operator is a method that hands on to the next class, so a class of several does it all in one walk.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from executorch.exir import EdgeCompileConfig, EdgeProgramManager, to_edge
from executorch.exir.passes.normalize_transpose_pass import NormalizeTransposePass
from executorch.exir.passes.remove_mixed_type_operators import RemoveMixedTypeOperators
from executorch.exir.passes.replace_aten_with_edge_pass import OpReplacePass
from executorch.exir.passes.replace_broken_ops_with_function_ops_pass import ReplaceBrokenOpsWithFunctionalOpsPass
from executorch.exir.passes.scalar_to_tensor_pass import ScalarToTensorPass
from executorch.exir.passes.sym_to_tensor_pass import SymToTensorPass
from executorch.exir.program import _program
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

_aten = torch.ops.aten


class _Copies(NormalizeTransposePass, ReplaceBrokenOpsWithFunctionalOpsPass, ScalarToTensorPass, SymToTensorPass):
    """Views become copies, and scalars where an operator takes tensors become tensors."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        """Write down one operator."""
        return super().call_operator(_aten.view.default if op == _aten._unsafe_view.default else op, args, kwargs, meta)


class _Edge(RemoveMixedTypeOperators, OpReplacePass):
    """Tensors of unlike types are cast, and operators become those of the edge dialect."""


class _Nothing(PassBase):
    def call(self, graph_module: GraphModule) -> PassResult:
        """Leave all as it is."""
        return PassResult(graph_module, False)


_ALONE = (*_Copies.__bases__, *_Edge.__bases__)


def lowered_to_edge(
    program: ExportedProgram, constants: dict[str, Any], config: EdgeCompileConfig
) -> EdgeProgramManager:
    """The program in the edge dialect.

    Args:
        constants: values by the names of the constant methods that give them.
    """
    with _fewer_walks():
        return to_edge(program, constants, config)


@contextmanager
def _fewer_walks() -> Iterator[None]:
    before, after = _program._get_aten_to_edge_passes(EdgeCompileConfig())
    others = [each for each in before if not isinstance(getattr(each, "__wrapped__", each), _ALONE)]
    with (
        patch.object(_program, "_get_aten_to_edge_passes", lambda config: ([_Copies(), *others], after)),
        patch.object(_program, "ReplaceViewOpsWithViewCopyOpsPass", _Nothing),  # `_Copies` does it
        patch.object(_program, "OpReplacePass", _Edge),
    ):
        yield
