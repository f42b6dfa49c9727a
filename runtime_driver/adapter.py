"""A state on disk: as it is, and as a PEFT adapter folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prge.errors import UserError
from prge.manifest import Manifest


def frozen_factors(manifest: Manifest, frozen: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    """A [r, in] and, in a subspace, D [out, k] of every module, out of `StepProgram.frozen`."""
    rank, at, factors = manifest.adapter.rank, 0, {}
    for module in manifest.adapter.modules:
        a = frozen[at : at + rank * module.in_features].reshape(rank, -1)
        at += a.numel()
        d = None
        if manifest.adapter.subspace:
            d = frozen[at : at + module.out_features * module.core[1]].reshape(-1, module.core[1])
            at += d.numel()
        factors[module.name] = a, d
    return factors


def lora_pairs(manifest: Manifest, frozen: Tensor, state: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """LoRA's (A [r, in], B [out, r]) per module, to be scaled by ``alpha / rank``.

    In a subspace ``B = D R``; the state holds the transpose of R (or of B).
    """
    factors, pairs = frozen_factors(manifest, frozen), {}
    for module in manifest.adapter.modules:
        a, d = factors[module.name]
        rows, columns = module.core
        core = state[module.offset : module.offset + rows * columns].reshape(rows, columns).T
        pairs[module.name] = a.contiguous(), (core if d is None else d @ core).contiguous()
    return pairs


def save_peft(folder: Path, manifest: Manifest, frozen: Tensor, state: Tensor) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` for `PeftModel.from_pretrained`."""
    tensors = {}
    for name, (a, b) in lora_pairs(manifest, frozen, state).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    config = {
        "peft_type": "LORA",
        "task_type": manifest.adapter.task_type,
        "fan_in_fan_out": manifest.adapter.fan_in_fan_out,
        "base_model_name_or_path": manifest.model,
        "r": manifest.adapter.rank,
        "lora_alpha": manifest.adapter.alpha,
        "target_modules": [module.name for module in manifest.adapter.modules],
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        tensors, folder / "adapter_model.safetensors", metadata={"format": "pt", "base_sha256": manifest.model_sha256}
    )
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_state(path: Path, manifest: Manifest) -> Tensor:
    """Read a state that `save_state` wrote; a UserError if it is not this program's."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; `prge train` writes it into its run folder")
    try:
        state = load_file(path)["state"]
    except (SafetensorError, KeyError, OSError) as e:
        raise UserError(f"{path} is not a state of prge: {e}") from e
    if state.shape != (manifest.state_size,) or state.dtype != torch.float32:
        raise UserError(
            f"{path} holds {tuple(state.shape)} numbers of {state.dtype}; the program's state is "
            f"({manifest.state_size},) of float32: was it trained with another program?"
        )
    return state


def save_state(path: Path, state: Tensor) -> None:
    """Write a state; an interrupted write leaves the file that was there."""
    scratch = path.with_suffix(".partial")
    save_file({"state": state.contiguous()}, scratch)
    scratch.replace(path)
