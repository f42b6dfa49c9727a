"""From a module to a ``.pte`` on disk, and what of it was delegated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from prge.export.lower import Backend, emit, lower, trace
from prge.export.report import Written, multiply_adds, outside_ops
from prge.files.seal import seal


def write_program(
    file: Path,
    module: nn.Module,
    inputs: Callable[[int], tuple[Any, ...]],
    lengths: tuple[int, int],
    layers: range,
    backend: Backend,
    constants: dict[str, Any],
    listener: Callable[[str], None] = lambda phase: None,
) -> Written:
    """Trace, lower, serialize and seal ``module``.

    Args:
        inputs: makes the arguments for T tokens; the largest are those of the greatest T.
        lengths: bounds of T.
        layers: those of the model that are in the program.
        constants: what becomes constant methods.
        listener: hears the name of each phase as it begins.

    Raises:
        OSError: the disk is full.
    """
    listener("trace")
    traced = trace(module.eval(), inputs, *lengths)
    listener("lower")
    edge = lower(traced, layers, backend, constants)
    graph = edge.exported_program().graph
    calls, outside = outside_ops(graph)  # now: emitting adds memory planning to the graph
    total, left = multiply_adds(traced.graph), multiply_adds(graph)
    listener("emit")
    emitted = emit(edge, inputs(lengths[1]))
    listener("write")
    with file.open("wb") as f:
        emitted.write_to_file(f)
    digest = seal(file)
    # An embedding alone has no matrix product.
    return Written(calls, outside, 1.0 - left / max(1, total), file.stat().st_size, digest)
