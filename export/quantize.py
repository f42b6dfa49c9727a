"""Weights in int8 or int4: the frozen linears by torchao, the embedding by `quantized_embedding`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig
from torchao.quantization.quant_primitives import (
    _DTYPE_TO_QVALUE_BOUNDS,
    MappingType,
    choose_qparams_affine,
    dequantize_affine,
    quantize_affine,
)

from prge.errors import UserError
from prge.export.kept_weights import drop_partial, quantized
from prge.export.quantized_embedding import GROUP, Int4Embedding, Int8Embedding
from prge.manifest import Quantization
from prge.models.attention import Attention
from prge.models.generation import Generator
from prge.models.objective import LanguageModel
from prge.models.step import Step


class QuantizedLinear(nn.Linear):
    """A linear with quantized weights, whose inputs are quantized token by token as it runs.

    It computes what torchao's tensor does. But its weights are plain tensors, as `core_operators` needs.

    Attributes:
        weight: i8[out, in].
        scale: of the weights, [out, groups].
        zero_point: i8[out, groups].
        block: numbers of the weight, by dimension, that share a scale.
        bounds: least and greatest quantized number.
    """

    weight: Tensor
    scale: Tensor
    zero_point: Tensor
    block: list[int]
    bounds: tuple[int, int]

    @classmethod
    def of(cls, linear: Any, weight: Any) -> None:
        """Make ``linear`` one of torchao's ``weight``, in place: others hold it."""
        del linear.weight
        linear.__class__ = cls
        for name, value in (("weight", weight.qdata), ("scale", weight.scale), ("zero_point", weight.zero_point)):
            linear.register_buffer(name, value)
        linear.block, linear.bounds = list(weight.block_size), _DTYPE_TO_QVALUE_BOUNDS[weight.target_dtype]

    def forward(self, input: Tensor) -> Tensor:
        """f32[..., in] -> f32[..., out]."""
        token = [*[1] * (input.dim() - 1), input.shape[-1]]
        scale, zero = choose_qparams_affine(
            input, MappingType.ASYMMETRIC, token, torch.int8, -128, 127, zero_point_dtype=torch.int8
        )
        rounded = quantize_affine(input, token, scale, zero, torch.int8, -128, 127)
        x = dequantize_affine(rounded, token, scale, zero, torch.int8, -128, 127, output_dtype=input.dtype)
        low, high = self.bounds
        weight = dequantize_affine(
            self.weight, self.block, self.scale, self.zero_point, torch.int8, low, high, output_dtype=input.dtype
        )
        return nn.functional.linear(x, weight, self.bias)


class QuantizedInParts(QuantizedLinear):
    """One whose inputs are quantized in three parts, the large and the small ones, each with a scale of its own.

    What goes back through the head is the gradient at the logits of a whole vocabulary: minus nearly one for the right
    token, and next to nothing for each of the thousands of others, which together count as much. In one int8 range
    those are all zero. None of the others is negative, so a range of them begins at zero.

    Each part is made of the input anew. XNNPACK computes nothing in place, and would hold one more tensor of the
    vocabulary's size for a part that is made of what the one before left.
    """

    def forward(self, input: Tensor) -> Tensor:
        """f32[..., in] -> f32[..., out]."""
        large = super().forward(input - input.clamp(0.0, _SMALL))
        small = super().forward(input.clamp(_TINY, _SMALL) - _TINY)
        return large + small + super().forward(input.clamp(0.0, _TINY))


# Up to where numbers are small, and tiny: each about the step between two int8 numbers of the range above.
_SMALL, _TINY = 2**-7, 2**-15


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
    ``8da4w``: int4 weights with a scale per 32 inputs, or 64 or 128, and the same activations. The embedding is in int4
    too, in groups of 32. What costs most for its size stays int8 (docs/export.md): the head that predicts tokens, the
    last layer, and what makes keys and values that several queries share.
    The adapters stay in float32.

    Args:
        told: hears how many of how many linears are done.

    Raises:
        UserError: as `refuse_odd`.
    """
    if quantization == "f32":
        return
    backbone = module.backbone
    int8 = set(module.head.modules() if isinstance(module, Generator) else module.objective.modules())
    int8.update(backbone.layers[-1].modules())
    for attention in backbone.modules():
        if isinstance(attention, Attention):
            int8.update(attention.shared_linears())
    refuse_odd([linear for linear in linears if linear not in int8], quantization)
    drop_partial()
    embedding = backbone.embedding
    if isinstance(embedding.table, nn.Embedding):
        fits = _group(quantization) and embedding.table.embedding_dim % GROUP == 0
        embedding.table = Int4Embedding(embedding.table) if fits else Int8Embedding(embedding.table)
    config, finer = linear_config(quantization), linear_config("8da8w")
    head_back = _head_back(module)
    for done, linear in enumerate(linears, 1):
        kind = QuantizedInParts if linear is head_back else QuantizedLinear
        kind.of(linear, quantized(linear.weight, finer if linear in int8 else config))
        told(done, len(linears))


def _head_back(module: Step | Generator) -> nn.Module | None:
    """The head's transposed weights, where a gradient at a vocabulary's logits goes back through them."""
    if isinstance(module, Step) and isinstance(module.objective, LanguageModel):
        return getattr(module.objective.head, "transposed", None)
    return None
