"""What an export itself takes of memory, disk and time, from the model's sizes alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil

from prge.cost import DELEGATES, frozen_factor_bytes, head_bytes, ways, weight_bytes
from prge.errors import UserError
from prge.manifest import Manifest

# Bytes, measured on Linux (docs/export.md): Python with torch, transformers and ExecuTorch; the graph of a layer; a
# quantized weight with its scales, unpacked as torchao has it.
_LIBRARIES, _GRAPH, _UNPACKED = 8e8, 2.5e7, 1.16
# Seconds on two cores of a server: of a layer's graph, each way, and of a weight.
_GRAPH_SECONDS, _WEIGHT_SECONDS = 1.2, 6e-8


def export_peak_bytes(m: Manifest) -> float:
    """An estimate of an export's peak memory.

    The weights are on disk but for those of one delegate, which are packed at once; in float32 they all are in memory.
    """
    a = m.architecture
    if m.quantization == "f32":
        weights = (1 + 2 / DELEGATES) * weight_bytes(m)
    else:
        weights = _UNPACKED * a.layers * a.layer_weights / DELEGATES + 2 * head_bytes(m)
    return _LIBRARIES + _GRAPH * a.layers + weights + 4 * frozen_factor_bytes(m)


def export_disk_bytes(m: Manifest) -> float:
    """What the new folder takes, and what is kept of the quantized weights for the model's other programs."""
    a = m.architecture
    kept = 0.0 if m.quantization == "f32" else _UNPACKED * a.layers * a.layer_weights * ways(m)
    return weight_bytes(m) + kept


def export_seconds(m: Manifest) -> float:
    """An estimate of an export's time, where no quantized weights are kept from another."""
    a = m.architecture
    return ways(m) * (_GRAPH_SECONDS * a.layers + _WEIGHT_SECONDS * a.layers * a.layer_weights)


def refuse_too_large(m: Manifest, folder: Path) -> None:
    """Refuse what the machine has no memory for, or no room on the disk.

    Args:
        folder: the new one.

    Raises:
        UserError: says how much there is, and what takes less.
    """
    needed = export_peak_bytes(m) - psutil.Process().memory_info().rss
    free = psutil.virtual_memory().available + psutil.swap_memory().free
    less = "take fewer layers (--layers -8:)" if m.quantization != "f32" else "quantize (--quantization 8da8w)"
    if needed > free:
        raise UserError(
            f"this export takes about {needed / 1e9:.1f} GB of memory more, and {free / 1e9:.1f} GB are free: "
            f"close other programs, or {less}; `prge plan` says what each choice takes"
        )
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    room = shutil.disk_usage(place).free
    if weight_bytes(m) > room:
        raise UserError(
            f"the program takes about {weight_bytes(m) / 1e9:.1f} GB, and {place} has room for {room / 1e9:.1f} GB: "
            "choose another --output"
        )
