"""Before anything is exported: which quantization, q and B fit a memory budget."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from prge.cost import multiply_adds, peak_bytes, weight_bytes
from prge.export.quantize import QUANTIZATIONS
from prge.manifest import Adapter, Label, Manifest
from prge.models.adapter import AdapterConfig, layout
from prge.models.build import architecture
from prge.models.families import Parts, UnsupportedModel
from prge.models.optimizer import BETAS
from prge.models.step import StepConfig


def planned(model: Any, step: StepConfig, tokens: int, max_targets: int) -> Manifest:
    """What the manifest of a program of ``model`` (weights not needed) would say of its sizes, in float32.

    Raises:
        UnsupportedModel: when there is no such program.
    """
    parts = Parts(model)
    if max_targets and not parts.family.causal:
        raise UnsupportedModel("encoders do not model language; leave --max-targets out")
    adapter = AdapterConfig(subspace="fisher")
    modules = layout(parts, adapter)
    labels = () if max_targets else (Label("0", "", 0), Label("1", "", 1))
    return Manifest(
        model="", model_sha256="", quantization="f32", queries=step.queries, batch=step.batch, outer=True, inner=True,
        noise=step.noise, perturb=step.perturb, optimizer=step.optimizer, betas=BETAS, min_tokens=4, max_tokens=tokens,
        state_size=3 * sum(module.size for module in modules),
        objective="language-modelling" if max_targets else "label-words", template="",
        labels=labels, max_targets=max_targets, tokenizer_sha256="", pad_token=0, eps=0.0, lr=0.0,
        adapter=Adapter(adapter.rank, adapter.alpha, adapter.subspace, modules),
        architecture=architecture(parts),
    )  # fmt: skip


def plan(manifest: Manifest, budget: float) -> list[dict[str, Any]]:
    """Per quantization: size, peak memory of the manifest's q and B, and the largest B within ``budget`` bytes.

    All for rows of the most tokens, in bytes above the driver's imports; B is 0 where the weights alone do not fit.
    """
    found = []
    for quantization in QUANTIZATIONS:
        m = replace(manifest, quantization=quantization)
        largest = 0
        while largest < 1024 and peak_bytes(replace(m, batch=largest + 1), m.max_tokens) <= budget:
            largest += 1
        found.append(
            {
                "quantization": quantization,
                "program_bytes": weight_bytes(m),
                "peak_bytes": round(peak_bytes(m, m.max_tokens)),
                "fits": largest >= m.batch,
                "largest_batch": largest,
                "multiply_adds": multiply_adds(m, m.max_tokens),
            }
        )
    return found
