"""Before anything is exported: which quantization, q and B fit a memory budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prge.cost import (
    cache_bytes,
    frozen_multiply_adds,
    frozen_peak_bytes,
    largest_batch,
    multiply_adds,
    step_peak_bytes,
    weight_bytes,
)
from prge.export.config import ExportConfig, default_adapter
from prge.export.describe import describe
from prge.export.need import export_disk_bytes, export_peak_bytes, export_seconds
from prge.manifest import QUANTIZATIONS, Label, Manifest
from prge.models.families import UnsupportedModel
from prge.models.parts import Parts
from prge.models.step import StepConfig

# Texts whose hidden states are planned for.
TEXTS = 1000


def planned(model: Any, step: StepConfig, tokens: int, max_targets: int) -> Manifest:
    """The manifest of a program with the default adapter, as far as its sizes go, in float32.

    Args:
        model: of transformers; its weights are not needed.
        tokens: the longest row.
        max_targets: most target tokens of an example; 0 for classification by two label words.

    Raises:
        UnsupportedModel: there is no such program.
    """
    parts = Parts(model)
    if max_targets and not parts.family.causal:
        raise UnsupportedModel("encoders do not model language; leave --max-targets out")
    labels = () if max_targets else (Label("0", "", 0), Label("1", "", 1))
    adapter = default_adapter(step.gradient)
    config = ExportConfig(adapter, step, "", min_tokens=min(4, tokens), max_tokens=tokens, max_targets=max_targets)
    return describe(parts, config, labels)


def plan(manifest: Manifest, budget: float) -> list[dict[str, Any]]:
    """What each quantization of a program takes, for rows of its most tokens.

    Args:
        budget: bytes above the driver's imports.

    Returns:
        for each quantization ``program_bytes``, of both files; ``frozen_peak_bytes`` and ``step_peak_bytes`` above the
        driver's imports at the manifest's q and B; ``fits``, whether both are within the budget; ``largest_batch``, the
        largest B within it, 0 where the weights alone do not fit; ``multiply_adds`` of a step; what `TEXTS` texts take
        once: ``frozen_multiply_adds`` and ``cache_bytes``; and what the export itself takes: ``export_peak_bytes``,
        ``export_disk_bytes`` and ``export_seconds``.
    """
    found = []
    for quantization in QUANTIZATIONS:
        m = replace(manifest, quantization=quantization)
        largest = largest_batch(m, m.max_tokens, budget)
        found.append(
            {
                "quantization": quantization,
                "program_bytes": weight_bytes(m),
                "frozen_peak_bytes": round(frozen_peak_bytes(m, m.max_tokens)),
                "step_peak_bytes": round(step_peak_bytes(m, m.max_tokens)),
                "fits": largest >= m.batch,
                "largest_batch": largest,
                "multiply_adds": multiply_adds(m, m.max_tokens),
                "frozen_multiply_adds": frozen_multiply_adds(m, TEXTS, m.max_tokens),
                "cache_bytes": cache_bytes(m, TEXTS * m.max_tokens),
                "export_peak_bytes": round(export_peak_bytes(m)),
                "export_disk_bytes": round(export_disk_bytes(m)),
                "export_seconds": round(export_seconds(m)),
            }
        )
    return found
