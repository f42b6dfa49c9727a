"""Weights in int8 or int4: the frozen linears by torchao, the embedding row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig

from prge.errors import UserError
from prge.export.kept_weights import quantized
from prge.manifest import Quantization
from prge.models.generation import Generator
from prge.models.step import Step
from prge.models.stored import pieces, read


class QuantizedEmbedding(nn.Module):
    """An embedding in int8 with one float32 scale per row.

    Both are looked up by the plain embedding operator, so it runs wherever the portable kernels do.

    Attributes:
        weight: i8[V, H].
        scale: f32[V, 1].
    """

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.weight = nn.Buffer(torch.empty(embedding.weight.shape, dtype=torch.int8))
        self.scale = nn.Buffer(torch.empty(embedding.num_embeddings, 1))
        first = 0
        for piece in pieces(embedding.weight):
            rows, at = read(piece), slice(first, first + len(piece))
            self.scale[at] = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127.0
            self.weight[at] = torch.round(rows / self.scale[at]).to(torch.int8)
            first += len(piece)

    def forward(self, tokens: Tensor) -> Tensor:
        """i64[R, T] -> f32[R, T, H]."""
        rows = nn.functional.embedding(tokens, self.weight).to(torch.float32)
        return rows * nn.functional.embedding(tokens, self.scale)


def linear_config(quantization: Quantization) -> Int8DynamicActivationIntxWeightConfig:
    """torchao's config of linears in 8da8w or 8da4w."""
    group = _group(quantization)
    if not group:
        return Int8DynamicActivationIntxWeightConfig(torch.int8, PerAxis(0))
    return Int8DynamicActivationIntxWeightConfig(
        torch.int4,  # type: ignore[attr-defined]
        PerGroup(group),
    )


def _group(quantization: Quantization) -> int:
    """How many inputs share a scale; 0 for all of an output's."""
    kind, _, group = quantization.partition("-")
    return int(group or 32) if kind == "8da4w" else 0


def refuse_odd(linears: Sequence[nn.Linear], quantization: Quantization, both_ways: bool = False) -> None:
    """Raise a UserError where a linear's inputs are no whole number of groups.

    Args:
        both_ways: whether the transposed weights are quantized too.
    """
    sizes = {size for m in linears for size in ((m.in_features, m.out_features) if both_ways else (m.in_features,))}
    if odd := _odd(sizes, quantization):
        finer: tuple[Quantization, ...] = ("8da4w-64", "8da4w", "8da8w")
        other = next(q for q in finer if _group(q) < _group(quantization) and not _odd(sizes, q))
        raise UserError(
            f"{quantization} needs layers whose sizes are multiples of {_group(quantization)}; the model has {odd}; "
            f"use {other}"
        )


def _odd(sizes: Iterable[int], quantization: Quantization) -> list[int]:
    """The sizes that are no whole number of groups."""
    group = _group(quantization)
    return sorted(size for size in sizes if group and size % group)


def quantize(
    module: Step | Generator,
    linears: Sequence[nn.Linear],
    quantization: Quantization,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Quantize some linears of ``module`` in place, and its embedding if it is not quantized yet.

    ``8da8w``: int8 weights with a scale per output, int8 activations with a scale per token, found at run time.
    ``8da4w``: int4 weights with a scale per 32 inputs, or 64 or 128, and the same activations. The head that predicts
    tokens stays int8: alone it would cost half of what all layers in int4 cost (docs/export.md).
    The adapters stay in float32.

    Args:
        told: hears how many of how many linears are done.

    Raises:
        UserError: as `refuse_odd`.
    """
    if quantization == "f32":
        return
    heads = set(module.head.modules() if isinstance(module, Generator) else module.objective.modules())
    refuse_odd([linear for linear in linears if linear not in heads], quantization)
    embedding = module.backbone.embedding
    if isinstance(embedding.table, nn.Embedding):
        embedding.table = QuantizedEmbedding(embedding.table)
    config, of_head = linear_config(quantization), linear_config("8da8w")
    for done, linear in enumerate(linears, 1):
        linear.__class__ = nn.Linear  # a stored one is no longer
        linear.weight = quantized(linear.weight, of_head if linear in heads else config)
        told(done, len(linears))
