"""Weights to int8 or int4: the frozen linears by torchao, the embedding by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torchao.quantization import quantize_
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig

from prge.errors import UserError
from prge.models.generation import Generator
from prge.models.step import Step

Quantization = Literal["f32", "8da8w", "8da4w"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)

_GROUP = 32


class QuantizedEmbedding(nn.Module):
    """An embedding in int8 with one float32 scale per row.

    Looks both up by the plain embedding operator, so it runs wherever the portable kernels do.
    """

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        weight = embedding.weight.detach()
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127.0
        self.weight = nn.Buffer(torch.round(weight / scale).to(torch.int8))
        self.scale = nn.Buffer(scale)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = nn.functional.embedding(tokens, self.weight).to(torch.float32)
        return rows * nn.functional.embedding(tokens, self.scale)


def linear_config(quantization: Quantization) -> Int8DynamicActivationIntxWeightConfig:
    """torchao's config for linears in 8da8w or 8da4w."""
    if quantization == "8da8w":
        return Int8DynamicActivationIntxWeightConfig(torch.int8, PerAxis(0))
    return Int8DynamicActivationIntxWeightConfig(
        torch.int4,  # type: ignore[attr-defined]
        PerGroup(_GROUP),
    )


def quantize(module: Step | Generator, linears: Sequence[nn.Linear], quantization: Quantization) -> None:
    """Quantize those linears of ``module``, and its embedding if it is not yet, in place; adapters stay float32.

    ``8da8w``: int8 activations per token at run time, int8 weights per output channel.
    ``8da4w``: the same activations, int4 weights in groups of 32 inputs.

    Raises:
        UserError: for 8da4w when a layer's inputs are no multiple of 32.
    """
    if quantization == "f32":
        return
    if quantization == "8da4w":
        odd = {m.in_features for m in linears if m.in_features % _GROUP}
        if odd:
            raise UserError(
                f"8da4w needs layers whose inputs are multiples of {_GROUP}; the model has {sorted(odd)}; use 8da8w"
            )
    # A tied head shares its tensor with the embedding: give it its own before it changes.
    for linear in linears:
        linear.weight = nn.Parameter(linear.weight.detach(), requires_grad=False)
    embedding = module.backbone.embedding
    if isinstance(embedding.table, nn.Embedding):
        embedding.table = QuantizedEmbedding(embedding.table)
    chosen = {id(linear) for linear in linears}
    quantize_(module, linear_config(quantization), filter_fn=lambda child, _: id(child) in chosen)
