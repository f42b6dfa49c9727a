"""The step module, traced and lowered to an ExecuTorch program."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
import torch.fx.experimental._config
from executorch.backends.transforms.remove_clone_ops import RemoveCloneOpsTransform
from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.generic_node_configs import CatConfig, SliceCopyConfig
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir import (
    EdgeCompileConfig,
    EdgeProgramManager,
    ExecutorchProgramManager,
    to_edge_transform_and_lower,
)
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.backend.partitioner import DelegationSpec
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import Node
from torch.fx.passes.infra.partitioner import Partition

from prge.models.objective import LabelWords
from prge.models.step import Step
from prge.quiet import quiet

Backend = Literal["xnnpack", "portable"]

_aten = torch.ops.aten
_VIEWS = (_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default)


def example_inputs(step: Step, tokens: int, seed: int = 0) -> tuple[Any, ...]:
    """Inputs of `Step.forward` of the right shapes for T = ``tokens``."""
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
        torch.randint(0, 100, (rows, tokens), generator=generator),
        targets,
        torch.tensor([seed]),
        torch.tensor([1e-2]),
        torch.tensor([1e-2]),
    )


def _oblivious() -> AbstractContextManager[None]:
    """Symbolic reshapes are taken at their word: comparing strides would add guards that sympy cannot prove."""
    return torch.fx.experimental._config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]


def trace(step: Step, min_tokens: int, max_tokens: int) -> ExportedProgram:
    """torch.export the step, with T dynamic when the bounds differ."""
    dynamic = None
    length = max_tokens
    if min_tokens < max_tokens:
        tokens = Dim("T", min=min_tokens, max=max_tokens)
        dynamic = (None, {1: tokens}, (None,) * len(step.objective.inputs), None, None, None)
        length = max_tokens - 1
    with torch.no_grad(), quiet(), _oblivious():
        program = torch.export.export(step, example_inputs(step, length), dynamic_shapes=dynamic, strict=False)
        _infer_dynamic_dims(program)
    return program


def _infer_dynamic_dims(program: ExportedProgram) -> None:
    """Write every reshape's one symbolic size as -1, and make one of two reshapes in a row.

    XNNPACK takes a reshape with one inferred size, but none with a symbolic one.
    """
    for node in program.graph.nodes:
        if node.target not in _VIEWS:
            continue
        shape = list(node.meta["val"].shape)
        symbolic = [i for i, size in enumerate(shape) if not isinstance(size, int)]
        if len(symbolic) > 1:
            continue
        source = node.args[0]
        while source.target in _VIEWS:
            source = source.args[0]
        node.args = (source, [-1 if i in symbolic else size for i, size in enumerate(shape)])
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


class StaticSliceConfig(SliceCopyConfig):
    """Slices of static size, out of inputs of dynamic size too, which XNNPACK's own rule leaves outside."""

    def check_constraints(self, node: Node, ep: ExportedProgram) -> bool:
        stride = node.args[4] if len(node.args) > 4 else 1
        static = all(isinstance(size, int) for size in node.meta["val"].shape)
        return bool(self.check_common_constraints(node, ep) and stride == 1 and static)


class ShortCatConfig(CatConfig):
    """Concatenations of as many tensors as XNNPACK takes, which XNNPACK's own rule does not count."""

    def check_constraints(self, node: Node, ep: ExportedProgram) -> bool:
        tensors = node.args[0]
        assert isinstance(tensors, list | tuple)
        return len(tensors) <= 5 and super().check_constraints(node, ep)


_RULES: dict[Any, Any] = {SliceCopyConfig: StaticSliceConfig, CatConfig: ShortCatConfig}


class LayeredPartitioner(XnnpackPartitioner):
    """XNNPACK's partitioner, with the decoder cut into DELEGATES runs of layers.

    A delegate holds its weights twice while it packs them, once as in the file and once packed,
    so one delegate for all would need twice the model's memory at load.
    """

    DELEGATES = 4

    def __init__(self, depth: int):
        super().__init__([_RULES.get(config, config) for config in ALL_PARTITIONER_CONFIGS])
        self.depth = depth
        # With this spec the backend runs one graph pass per delegate instead of seventeen, none
        # of which finds anything in our graphs; each costs a retrace of the delegate.
        spec = CompileSpec("dqlinear_partitioner", b"")
        self.delegation_spec = DelegationSpec(XnnpackBackend.__name__, [spec])

    def generate_partitions(self, ep: ExportedProgram) -> list[Partition]:
        order = {node: i for i, node in enumerate(ep.graph.nodes)}
        partitions: list[Partition] = []
        for whole in _with_tails([set(p.nodes) for p in super().generate_partitions(ep)]):
            chunks: dict[int, list[Node]] = {}
            place: dict[Node, int] = {}
            for node in sorted((n for n in whole if n.op == "call_function"), key=order.__getitem__):
                # Never before what it needs, so that no delegate waits for a later one.
                needed = [place[n] for n in node.all_input_nodes if n in place]
                place[node] = max([_layer(node) * self.DELEGATES // self.depth, *needed])
                chunks.setdefault(place[node], []).append(node)
            for node in whole:
                if node.op != "call_function":
                    chunks[next(place[user] for user in node.users if user in place)].append(node)
            partitions += [Partition(id=len(partitions) + i, nodes=nodes) for i, nodes in enumerate(chunks.values())]
        return partitions


def _with_tails(partitions: list[set[Node]]) -> list[set[Node]]:
    """Nodes that only read another partition and serve none of their own, as slices of results, moved there."""
    owner = {node: nodes for nodes in partitions for node in nodes}
    moved = [set(nodes) for nodes in partitions]
    for mine, nodes in zip(moved, partitions, strict=True):
        for node in nodes:
            sources = [owner.get(x) for x in node.all_input_nodes if x.op == "call_function"]
            if len(sources) == 1 and sources[0] not in (None, nodes) and not nodes.intersection(node.users):
                mine.remove(node)
                moved[partitions.index(sources[0])].add(node)
    return [nodes for nodes in moved if nodes]


def _layer(node: Node) -> int:
    """Index of the decoder layer that a node was traced in; 0 for nodes outside."""
    for path, _ in node.meta.get("nn_module_stack", {}).values():
        parts = path.split(".")
        if len(parts) > 1 and parts[0] == "layers":
            return int(parts[1])
    return 0


def lower(program: ExportedProgram, depth: int, backend: Backend, constants: dict[str, Any]) -> EdgeProgramManager:
    """Delegate what the backend takes, of a decoder of ``depth`` layers; ``constants`` become constant methods."""
    with quiet(), _oblivious():
        return to_edge_transform_and_lower(
            program,
            transform_passes=[RemoveCloneOpsTransform()],
            partitioner=[LayeredPartitioner(depth)] if backend == "xnnpack" else None,
            compile_config=EdgeCompileConfig(_skip_dim_order=True, _check_ir_validity=False),
            constant_methods=constants,
        )


def emit(edge: EdgeProgramManager) -> ExecutorchProgramManager:
    """Plan memory and serialize."""
    with quiet():
        return edge.to_executorch()
