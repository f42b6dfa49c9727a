"""What an export made: what runs inside the delegates and what does not, sizes and times."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from torch.fx import Graph, Node

_MATMULS = ("linear", "mm", "bmm", "addmm", "matmul")


@dataclass(frozen=True)
class Written:
    """A ``.pte`` that was written.

    Attributes:
        delegate_calls: how often one execution enters a delegate.
        outside: operators outside the delegates, with the number of each.
        inside_share: the share of all multiply-adds that is inside the delegates, 0 to 1.
        program_bytes: the file's size.
        sha256: the digest that the file is sealed with, in hex.
    """

    delegate_calls: int
    outside: dict[str, int]
    inside_share: float
    program_bytes: int
    sha256: str


@dataclass(frozen=True)
class ExportReport(Written):
    """The step's program, and what else `prge export` tells of it.

    Attributes:
        weight_bytes: bytes of the checkpoint's tensors in float32, each counted once.
        seconds: wall-clock time of each phase.
        peak_megabytes: the process's greatest memory so far, at the end of each phase.
        frozen: the program of the frozen part.
        generator: the program that continues text; None where none was asked for.
        request: hex digest of all that the program was made of.
    """

    weight_bytes: int
    seconds: dict[str, float]
    peak_megabytes: dict[str, float]
    frozen: Written
    generator: Written | None = None
    request: str = ""


def multiply_adds(graph: Graph) -> int:
    """Multiply-adds in all matrix products of a graph, at the traced T."""
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
    """Of a lowered graph: how many delegate calls it has, and how many of each operator outside the delegates."""
    names = Counter(_name(node) for node in graph.nodes if node.op == "call_function")
    calls = names.pop("executorch_call_delegate", 0)
    names.pop("getitem", None)
    return calls, dict(names.most_common())
