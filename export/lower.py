"""From a module to an ExecuTorch program: traced, cut into delegates, lowered, and its memory planned."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal
from unittest.mock import patch

import torch
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import CatConfig
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir import (
    EdgeCompileConfig,
    EdgeProgramManager,
    ExecutorchBackendConfig,
    ExecutorchProgramManager,
    lowered_backend_module,
    to_edge,
)
from executorch.exir.backend import backend_api
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec
from executorch.exir.dialects._ops import ops as exir_ops
from executorch.exir.lowered_backend_module import LoweredBackendModule
from executorch.exir.passes import MemoryPlanningPass
from executorch.exir.schema import TensorShapeDynamism
from executorch.exir.tensor import TensorSpec
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.partitioner import Partition
from torch.fx.passes.infra.pass_base import PassBase, PassResult
from torch.fx.passes.tools_common import stable_topological_sort

from prge.cost import DELEGATES
from prge.export.direct import core_operators, decomposed
from prge.export.let_go import let_go
from prge.export.quick import kept_signatures, quick
from prge.models.objective import LabelWords
from prge.models.step import Step

Backend = Literal["xnnpack", "portable"]

_aten = torch.ops.aten
_RESHAPES = (
    _aten.view.default,
    _aten.reshape.default,
    _aten._unsafe_view.default,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
)
# XNNPACK would fix the traced sizes of these, for the float tensors that it takes.
_STATIC = (_aten.slice.Tensor, _aten.unsqueeze.default, _aten.squeeze.dim)


def example_tokens(rows: int, tokens: int) -> tuple[Tensor]:
    """Inputs of `FrozenPart.forward`: rows of T = ``tokens`` tokens."""
    return (torch.randint(0, 100, (rows, tokens), generator=torch.Generator().manual_seed(0)),)


def example_inputs(step: Step, tokens: int, seed: int = 0) -> tuple[Any, ...]:
    """Inputs for `Step.forward` of the right shapes, for rows of T = ``tokens``."""
    rows = step.config.rows
    generator = torch.Generator().manual_seed(seed)
    targets: tuple[Tensor, ...]
    if isinstance(step.objective, LabelWords):
        labels = step.objective.head.shape[0]
        targets = (torch.full((rows, 1), tokens - 1), torch.randint(0, labels, (rows,), generator=generator))
    else:
        shape = (rows, step.objective.max_targets)
        targets = (torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64), torch.ones(shape))
    return (
        torch.zeros(step.state_size),
        torch.zeros(rows, tokens, step.backbone.width),
        torch.randint(0, 100, (rows, tokens), generator=generator),
        targets,
        torch.tensor([seed]),
        torch.tensor([1e-2]),
        torch.tensor([1e-2]),
    )


def trace(
    module: nn.Module, inputs: Callable[[int], tuple[Any, ...]], min_tokens: int, max_tokens: int, backend: Backend
) -> ExportedProgram:
    """Trace a module with torch.export, for rows of any length between the bounds.

    It is traced at the shortest length. The delegates make their buffers for that first, and grow them when longer rows
    come.

    Args:
        inputs: makes the module's arguments for rows of T tokens.

    Raises:
        RuntimeError: the bounds differ, and an operator's result depends on the length beyond its inputs.
    """

    def export(tokens: int) -> ExportedProgram:
        return torch.export.export(module, inputs(tokens), strict=False)

    preserve = LayeredPartitioner(range(0)).ops_to_not_decompose(None)[0] if backend == "xnnpack" else []
    with torch.no_grad(), core_operators(preserve), quick():
        program = export(min_tokens)
        if min_tokens < max_tokens:
            _follow_length(program, export(min_tokens + 1))
        program.graph.eliminate_dead_code()
        program.graph_module.recompile()
        return program


def _follow_length(program: ExportedProgram, other: ExportedProgram) -> None:
    """Take the length out of a program, by comparing it with one that was traced at another length.

    Sizes that differ depend on the length. In a reshape one such size becomes -1, which the kernels infer. Every other
    operator must take all sizes from its inputs. Symbolic shapes would say the same, but every later pass would take
    several times as long.
    """
    for node, twin in zip(program.graph.nodes, other.graph.nodes, strict=True):
        if node.op != "call_function":
            continue
        shape, longer = _shape(node), _shape(twin)
        grown = [i for i, (a, b) in enumerate(zip(shape, longer, strict=True)) if a != b]
        if node.target in _RESHAPES and len(grown) == 1:
            source = node.args[0]
            while source.target in _RESHAPES:
                source = source.args[0]
            node.target = _aten.view.default
            node.args = (source, [-1 if i in grown else size for i, size in enumerate(shape)])
        elif _numbers(node) != _numbers(twin) or (grown and node.target in _STATIC and _is_float(node)):
            raise RuntimeError(f"{node.target} depends on the length beyond its inputs: {node.format_node()}")


def _shape(node: Node) -> list[int]:
    """The sizes of a node's result; none where it is no tensor."""
    value = node.meta.get("val")
    return list(value.shape) if isinstance(value, Tensor) else []


def _is_float(node: Node) -> bool:
    return bool(node.meta["val"].is_floating_point())


def _numbers(node: Node) -> list[Any]:
    """The constants among a node's arguments."""
    return [x for x in torch.utils._pytree.tree_leaves((node.args, node.kwargs)) if not isinstance(x, Node)]


class ShortCatConfig(CatConfig):
    """Takes concatenations of up to five tensors: XNNPACK runs no longer ones, and its own rule does not count."""

    def check_constraints(self, node: Node, ep: ExportedProgram) -> bool:
        tensors = node.args[0]
        assert isinstance(tensors, list | tuple)
        return len(tensors) <= 5 and super().check_constraints(node, ep)


class LayeredPartitioner(XnnpackPartitioner):
    """XNNPACK's partitioner, with the layers cut into `DELEGATES` groups that follow each other.

    While a delegate packs its weights it holds them twice, as they are in the file and packed. One delegate for all
    layers would need twice the model's memory at load.
    """

    def __init__(self, layers: range):
        """``layers`` are the model's layers that are in the program."""
        super().__init__([ShortCatConfig if config is CatConfig else config for config in ALL_PARTITIONER_CONFIGS])
        self.layers = layers
        # With this spec the backend runs one graph pass per delegate instead of seventeen. Each would retrace the
        # delegate, and the others find nothing in our graphs.
        spec = CompileSpec("dqlinear_partitioner", b"")
        self.delegation_spec = DelegationSpec(XnnpackBackend.__name__, [spec])

    def _run(self, node: Node) -> int:
        """The run of layers that a node belongs to. On the way back through the layers, runs are counted on."""
        run = max(0, _layer(node) - self.layers.start) * DELEGATES // max(1, len(self.layers))
        back = any(path.endswith(".transposed") for path, _ in node.meta.get("nn_module_stack", {}).values())
        return 2 * DELEGATES - 1 - run if back else run

    def generate_partitions(self, ep: ExportedProgram) -> list[Partition]:
        """The groups of nodes that become delegates: by stage, and within it by run of layers.

        A node's stage is how many times what it reads went out of the delegates and back. So it is in the earliest
        delegate that it can be in: what is sliced from a long result is sliced where it is made.
        """
        order = {node: i for i, node in enumerate(ep.graph.nodes)}
        taken = {node for group in self.get_matched_nodes_from_configs(ep) for node in group}
        place: dict[Node, tuple[int, int]] = {}
        stages = dict[Node, int]()  # of what a node outside gives
        reads = {n for n in taken if any(x.op == "call_function" for x in n.all_input_nodes)}
        for node in ep.graph.nodes:
            own = [place[n] for n in node.all_input_nodes if n in place]
            outside = max((stages.get(n, 0) for n in node.all_input_nodes), default=0)
            if node in reads:
                stage = max([outside, *(stage for stage, _ in own)])
                # Never in an earlier group than what it needs, so that no delegate waits for a later one.
                place[node] = stage, max([self._run(node), *(run for at, run in own if at == stage)])
            elif node not in taken:
                stages[node] = max([outside, *(stage + 1 for stage, _ in own)])
        # Weights, and what dequantizes them, go where they are used.
        for node in sorted(taken - reads, key=order.__getitem__, reverse=True):
            used = [place[user] for user in node.users if user in place]
            if used:
                place[node] = min(used)
        groups: dict[tuple[int, int], list[Node]] = {}
        for node in sorted(place, key=order.__getitem__):
            groups.setdefault(place[node], []).append(node)
        return [Partition(id=i, nodes=groups[key]) for i, key in enumerate(sorted(groups))]


def _layer(node: Node) -> int:
    """The index of the layer that a node was traced in; 0 for nodes outside the layers."""
    for path, _ in node.meta.get("nn_module_stack", {}).values():
        found = re.search(r"(?:^|\.)layers\.(\d+)", path)
        if found:
            return int(found[1])
    return 0


_CONFIG = EdgeCompileConfig(_skip_dim_order=True, _check_ir_validity=False)


def into_edge(program: ExportedProgram, constants: dict[str, Any]) -> EdgeProgramManager:
    """A traced program in ExecuTorch's edge dialect.

    Args:
        constants: values by the names of the constant methods that give them.
    """
    with quick(), decomposed():
        _share_equal(program)
        edge = to_edge(program, constants, _CONFIG)
    _remove_clones(edge.exported_program().graph_module)
    return edge


def delegated(edge: EdgeProgramManager, layers: range) -> EdgeProgramManager:
    """The same, with what XNNPACK takes in its delegates.

    Args:
        edge: it is consumed, and so is the traced program that it was made of.
        layers: the model's layers that are in the program.
    """
    let_go()
    # Its own sort runs the graph breadth first, where every result is held for long, and has left the caches when it
    # is read: a quarter more memory for results.
    with (
        quick(),
        patch.object(lowered_backend_module, "legalize_graph", stable_topological_sort),
        # The partitioner is given a copy of the graph to mark, lest it change it. Ours marks nodes and no more.
        patch.object(backend_api, "get_fake_program", lambda program: program),
        kept_signatures(),
    ):
        edge = edge.to_backend(LayeredPartitioner(layers))
    edge.compile_config = _CONFIG  # of which it made one anew, so that a pass would look for what is not there
    _drop_unused(edge.exported_program())
    return edge


# Numbers of a constant. Adapters' factors have fewer, weights have more.
_SMALL = 1 << 17


def _share_equal(program: ExportedProgram) -> None:
    """Let what is computed twice be computed once.

    Torchao quantizes a tensor for each of the linears that read it, and their adapters may have the same factor A.
    """
    signature = program.graph_signature
    places = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    known: dict[str, Node] = {}
    for node in list(program.graph.nodes):
        if node.op == "call_function":
            what = repr((node.target, node.args, node.kwargs))
        elif node.name in places and _is_small(value := program.state_dict[places[node.name]]):
            what = f"{value.dtype} {tuple(value.shape)} {hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()}"
        else:
            continue
        first = known.setdefault(what, node)
        if first is not node:
            node.replace_all_uses_with(first)
            if node.op == "call_function":
                program.graph.erase_node(node)
    program.graph_module.recompile()


def _is_small(tensor: Tensor) -> bool:
    """Whether a constant is compared with others. Adapters' factors are smaller than weights; quantized ones differ."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.numel() < _SMALL


def _remove_clones(module: GraphModule) -> None:
    """Remove copies that make a tensor contiguous: every operator of the edge dialect writes contiguous results."""
    for node in module.graph.nodes:
        if node.target is exir_ops.edge.aten.clone.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()


def _drop_unused(program: ExportedProgram) -> None:
    """Drop the constants that only delegates read, as delegates hold copies of their own."""
    unused = {node.name: node for node in program.graph.nodes if node.op == "placeholder" and not node.users}
    specs = program.graph_signature.input_specs
    for spec in [s for s in specs if s.kind is not InputKind.USER_INPUT and s.arg.name in unused]:
        program.graph.erase_node(unused[spec.arg.name])
        specs.remove(spec)
    program.graph_module.recompile()


class _DynamicBound(PassBase):
    """Makes the planned sizes of all results, and of the inputs that grow, upper bounds."""

    def __init__(self, growing: Sequence[Node]):
        super().__init__()
        self.growing = {node.name for node in growing}

    def call(self, graph_module: GraphModule) -> PassResult:
        """Mark the tensors."""
        for node in graph_module.graph.nodes:
            if node.op == "call_function" or node.name in self.growing:
                for spec in torch.utils._pytree.tree_leaves(node.meta.get("spec")):
                    if isinstance(spec, TensorSpec):
                        spec.shape_dynamism = TensorShapeDynamism.DYNAMIC_BOUND
        return PassResult(graph_module, True)


def emit(edge: EdgeProgramManager, largest: tuple[Any, ...]) -> ExecutorchProgramManager:
    """Plan memory for inputs of up to the sizes of the arguments ``largest``, and serialize the program."""
    program = edge.exported_program()
    module, growing = program.graph_module, []
    places = {node.name: node for node in module.graph.find_nodes(op="placeholder")}
    for name, tensor in zip(program.graph_signature.user_inputs, torch.utils._pytree.tree_leaves(largest), strict=True):
        node = places[str(name)]
        traced = node.meta["val"]
        if traced.shape != tensor.shape:  # the sizes of all results are worked out anew from this one
            growing.append(node)
            with traced.fake_mode:
                node.meta["val"] = torch.empty(tensor.shape, dtype=traced.dtype)
    for lowered in (m for m in module.children() if isinstance(m, LoweredBackendModule)):
        for node in lowered.original_module.graph.find_nodes(op="placeholder"):
            node.meta["val"] = None  # with it, the delegate would accept the traced sizes only
    config = ExecutorchBackendConfig(
        sym_shape_eval_pass=_DynamicBound(growing),
        remove_view_copy=False,  # a view that shares its source's memory has a fixed size
        memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False),  # inputs are read where the caller has them
    )
    with quick():
        return edge.to_executorch(config)
