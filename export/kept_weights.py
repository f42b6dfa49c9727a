"""The quantized weights of a model: each made once, kept on disk for its other programs, and mapped into memory."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import psutil
import torch
import torchao
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchao.quantization import quantize_
from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig
from torchao.quantization.quantize_.workflows import IntxUnpackedToInt8Tensor

from prge.errors import UserError
from prge.files.cache import cache_folder
from prge.files.digest import file_sha256
from prge.memory import forget, return_freed
from prge.models.stored import pieces, read

# Numbers of a weight; smaller ones stay in memory.
_LARGE = 1 << 18
_PARTIAL, _SUFFIX = ".partial", ".safetensors"


def quantized(weight: Tensor, config: Int8DynamicActivationIntxWeightConfig) -> nn.Parameter:
    """A weight [out, in] as torchao quantizes it. A large one is a file's, mapped into memory.

    The file's name is of what it was made of, so whoever has the same weight finds it.
    """
    parts = _kept(weight, config) if weight.numel() >= _LARGE else None
    parts = parts or _made(weight, config)
    like = _of_torchao(torch.zeros(1, weight.shape[1]), config)  # has what is said beside the numbers
    said = {name: getattr(like, name) for name in IntxUnpackedToInt8Tensor.tensor_attribute_names}
    return nn.Parameter(IntxUnpackedToInt8Tensor(**parts, **said), requires_grad=False)


def _made(weight: Tensor, config: Int8DynamicActivationIntxWeightConfig) -> dict[str, Tensor]:
    """The tensors of a quantized weight, by name. Rows are quantized each for itself, and so by pieces."""
    made = [_of_torchao(read(piece), config) for piece in pieces(weight)]
    return {
        name: torch.cat([getattr(piece, name) for piece in made]) for name in IntxUnpackedToInt8Tensor.tensor_data_names
    }


def _of_torchao(weight: Tensor, config: Int8DynamicActivationIntxWeightConfig) -> Any:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    quantize_(linear, config)
    del linear.extra_repr  # a method of its own that torchao gives it, so that it would wait for the garbage collector
    return linear.weight


def _kept(weight: Tensor, config: Int8DynamicActivationIntxWeightConfig) -> dict[str, Tensor] | None:
    """As `_made`, from the cache, where they are put if they are not there; None if there is none, or a full disk."""
    key = _digest(weight, config)
    try:
        file = _found(key)
        if file is None:
            file = _keep(_made(weight, config), key)
            return_freed()  # between weights of many sizes, glibc's heap would grow by gigabytes
        return load_file(file)
    except (OSError, SafetensorError, UserError):
        return None


def drop_partial() -> None:
    """Remove what killed processes left of weights."""
    with contextlib.suppress(OSError, UserError):
        for left in _folder().glob(f"*{_PARTIAL}"):
            process = left.stem.rpartition("-")[2]
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                left.unlink(missing_ok=True)


def _folder() -> Path:
    return cache_folder() / "quantized"


def _found(key: str) -> Path | None:
    """The file of a weight, if it is there and whole: its own digest is in its name, too."""
    files = _folder().glob(f"{key}-*{_SUFFIX}")
    return next((file for file in files if file.stem == f"{key}-{file_sha256(file)}"), None)


def _digest(weight: Tensor, config: Int8DynamicActivationIntxWeightConfig) -> str:
    """Of a weight's bytes as they are stored, and of all else that decides what it becomes."""
    straight = weight.is_contiguous()
    held = (weight if straight else weight.T).detach().contiguous()
    sha = hashlib.sha256(held.view(torch.uint8).numpy().data)
    forget(weight.data_ptr(), weight.nbytes, weight.detach())
    sha.update(repr((straight, weight.dtype, tuple(weight.shape), config, torchao.__version__)).encode())
    return sha.hexdigest()


def _keep(parts: dict[str, Tensor], key: str) -> Path:
    """Write a file whole or not at all."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{key}-{os.getpid()}{_PARTIAL}"
    try:
        save_file(parts, partial)
        return partial.replace(folder / f"{key}-{file_sha256(partial)}{_SUFFIX}")
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
