"""Weights that stay in their checkpoint's file, in its own dtype, until something asks for them in float32.

A model of 7 billion weights takes 27 GB in float32, and next to nothing in this form: transformers maps the files into
memory, and the system reads a page when it is looked at.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from prge.memory import forget


class StoredLinear(nn.Linear):
    """A linear that computes in float32, whatever dtype its weights have."""

    def forward(self, input: Tensor) -> Tensor:
        """f32[..., in] -> f32[..., out]."""
        out: Tensor = _Product.apply(input, self.weight, self.bias)
        return out


class _Product(torch.autograd.Function):
    """``x W^T + b`` in float32. For the way back it keeps W where it is, and no float32 copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, _lent(weight), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] @ _lent(ctx.saved_tensors[0]), None, None


# Where weights of up to so many numbers are in float32 while a product reads them. A place of its own for each would
# leave a hole in the heap, and the next result would be put into it: that took as much memory as all weights.
_LENT = 1 << 23
_place = torch.empty(0)


def _lent(weight: Tensor) -> Tensor:
    """A stored weight in float32, contiguous, until the next one is asked for."""
    global _place
    if weight.numel() > _LENT:
        return read(weight)
    if weight.numel() > _place.numel():
        _place = torch.empty(weight.numel())
    return _into(_place[: weight.numel()].view(weight.shape), weight)


class StoredEmbedding(nn.Embedding):
    """An embedding that gives float32, whatever dtype its table has; Gemma's too, which multiplies what it finds."""

    def forward(self, input: Tensor) -> Tensor:
        """i64[R, T] -> f32[R, T, H]."""
        return super().forward(input).float() * getattr(self, _SCALE, 1.0)


_SCALE = "scalar_embed_scale"


def leave_stored(model: nn.Module) -> None:
    """Let a model compute in float32 from the weights of its checkpoint, of which only the small ones are converted."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = StoredLinear
        elif type(module) is nn.Embedding or hasattr(module, _SCALE):
            module.__class__ = StoredEmbedding
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias" or not isinstance(module, StoredLinear | StoredEmbedding):
                parameter.data = parameter.data.float()


def read_linears(module: nn.Module) -> None:
    """Give the stored linears of a module, which is to be traced, their weights in float32."""
    for linear in module.modules():
        if isinstance(linear, StoredLinear):
            linear.weight = nn.Parameter(read(linear.weight), requires_grad=False)
            linear.__class__ = nn.Linear  # type: ignore[assignment]


class Dtypes(NamedTuple):
    """The dtypes of a checkpoint's weights.

    Attributes:
        most: that of the most numbers.
        others: the files of weights whose numbers it does not hold, by the weights' names.
    """

    most: torch.dtype
    others: dict[str, str]


def stored_dtypes(name: str, **kwargs: Any) -> Dtypes | None:
    """Those of a checkpoint; None where one is not among bfloat16, float16 and float32, or there are no safetensors.

    A configuration names one too, which its weights need not have.

    Args:
        name: a folder, or a hub id.
        kwargs: how to fetch it, as transformers takes them.
    """
    found = dict[str, tuple[str, str]]()
    numbers = Counter[str]()
    for file in _weight_files(name, **kwargs):
        with safe_open(file, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118, no mapping
                held = weights.get_slice(key)
                found[key] = held.get_dtype(), file
                numbers[held.get_dtype()] += math.prod(held.get_shape())
    for masks in _MASKS:
        del numbers[masks]
    if not numbers or not numbers.keys() <= _DTYPES.keys():
        return None
    most = numbers.most_common(1)[0][0]
    held_by = {most, *_MASKS, *(_DTYPES if most == "F32" else ())}
    return Dtypes(_DTYPES[most], {key: file for key, (dtype, file) in found.items() if dtype not in held_by})


_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
# Masks and positions, which old checkpoints hold too.
_MASKS = ("BOOL", "U8", "I64")


def put_others(model: Any, others: Mapping[str, str], unexpected: Container[str]) -> bool:
    """Give the weights of other dtypes than most to a model that was loaded in that of most.

    Args:
        model: of transformers.
        others: as `Dtypes` has them.
        unexpected: names for which the model has no weight.

    Returns:
        False where the model has one of them under another name or in another shape.
    """
    prefix, held = f"{model.base_model_prefix}.", dict(model.named_parameters(remove_duplicate=False))
    for key, file in others.items():
        if key in unexpected:
            continue
        parameter = held.get(key, held.get(prefix + key, held.get(key.removeprefix(prefix))))
        with safe_open(file, "pt") as weights:
            weight = weights.get_tensor(key)
        if parameter is None or parameter.shape != weight.shape:
            return False
        parameter.data = weight
    return True


def _weight_files(name: str, **kwargs: Any) -> list[str]:
    kwargs["_raise_exceptions_for_missing_entries"] = False
    if whole := cached_file(name, SAFE_WEIGHTS_NAME, **kwargs):
        return [whole]
    index = cached_file(name, SAFE_WEIGHTS_INDEX_NAME, **kwargs)
    kwargs.pop("_raise_exceptions_for_missing_entries")
    return get_checkpoint_shard_files(name, index, **kwargs)[0] if index else []


def read(weight: Tensor) -> Tensor:
    """A copy of a stored weight in float32, contiguous. The pages of the file that were looked at are given back."""
    return _into(torch.empty(weight.shape), weight)


def _into(place: Tensor, weight: Tensor) -> Tensor:
    place.copy_(weight.detach())
    reach = 1 + sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    forget(weight.data_ptr(), reach * weight.element_size(), weight.detach())
    return place


def pieces(weight: Tensor) -> tuple[Tensor, ...]:
    """A stored weight in pieces of some rows, each of which may be read whole."""
    return weight.detach().split(max(1, _PIECE // weight[0].numel()))


# Numbers of a piece: 64 MB in float32.
_PIECE = 1 << 24
