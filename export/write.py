"""From a module to a ``.pte`` on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from prge.export.lower import Backend, delegated, emit, into_edge, trace
from prge.export.report import Written, multiply_adds, outside_ops
from prge.export.spill import spilled
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
    """Trace, lower, serialize and seal a module; returns what came of it.

    Args:
        file: the ``.pte`` to write.
        inputs: makes the module's arguments for rows of T tokens.
        lengths: the least and the greatest T.
        layers: the model's layers that are in the module.
        constants: values by the names of the constant methods that give them.
        listener: hears the name of each phase as it begins.

    Raises:
        RuntimeError: as `trace`.
        OSError: the file cannot be written.
    """
    listener("trace")
    traced = trace(module.eval(), inputs, *lengths, backend)
    listener("lower")
    with spilled(file.parent):
        edge = into_edge(traced, constants)
        del traced  # a large graph
        total = multiply_adds(edge.exported_program().graph)
        if backend == "xnnpack":
            edge = delegated(edge, layers)
        graph = edge.exported_program().graph
        calls, outside = outside_ops(graph)  # counted here, as emitting adds nodes of memory planning
        left = multiply_adds(graph)
        listener("emit")
        emitted = emit(edge, inputs(lengths[1]))
        listener("write")
        with file.open("wb") as f:
            emitted.write_to_file(f)
    digest = seal(file)
    # An embedding alone has no matrix product.
    return Written(calls, outside, 1.0 - left / max(1, total), file.stat().st_size, digest)
