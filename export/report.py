"""What an export made: what runs inside the delegates and what does not, sizes, times."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from torch.fx import Graph, Node

_MATMULS = ("linear", "mm", "bmm", "addmm", "matmul")


@dataclass(frozen=True)
class Written:
    """One ``.pte``.

    Attributes:
        delegate_calls: how often one execution enters a delegate.
        outside: operators that stay outside, with how many of each.
        inside_share: share of the multiply-adds inside the delegates, 0 to 1.
        program_bytes: size of the file.
        sha256: the digest that it is sealed with, in hex.
    """

    delegate_calls: int
    outside: dict[str, int]
    inside_share: float
    program_bytes: int
    sha256: str


@dataclass(frozen=True)
class ExportReport(Written):
    """What `prge export` prints: of the step's program, and beside it

    Attributes:
        weight_bytes: of the float32 checkpoint's tensors, each counted once.
        seconds: wall-clock by phase.
        frozen: of the program of the frozen part.
        generator: of the program that continues text, if one was asked for.
    """

    weight_bytes: int
    seconds: dict[str, float]
    frozen: Written
    generator: Written | None = None


def multiply_adds(graph: Graph) -> int:
    """Multiply-adds of a graph's matrix products, at the traced T."""
    return sum(_node_multiply_adds(node) for node in graph.nodes if node.op == "call_function")


def _node_multiply_adds(node: Node) -> int:
    name = _name(node)
    if name not in _MATMULS:
        return 0
    left = node.args[1] if name == "addmm" else node.args[0]
    assert isinstance(left, Node)
    inner = left.meta["val"].shape[-1]
    return math.prod(node.meta["val"].shape) * inner


def _name(node: Node) -> str:
    target = node.target
    return str(getattr(target, "_opname", None) or getattr(target, "__name__", target)).split(".")[0].split("::")[-1]


def outside_ops(graph: Graph) -> tuple[int, dict[str, int]]:
    """(delegate calls, operators outside the delegates) of a lowered graph."""
    names = Counter(_name(node) for node in graph.nodes if node.op == "call_function")
    calls = names.pop("executorch_call_delegate", 0)
    names.pop("getitem", None)
    return calls, dict(names.most_common())
