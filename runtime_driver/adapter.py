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


def lora_pairs(manifest: Manifest, frozen: Tensor, state: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """LoRA's (A [r, in], B [out, r]) per module, to be scaled by ``alpha / rank``.

    In a subspace ``B = D R``; the state holds the transpose of R (or of B).
    """
    rank = manifest.adapter.rank
    pairs, at = {}, 0
    for module in manifest.adapter.modules:
        a = frozen[at : at + rank * module.in_features].reshape(rank, -1)
        at += a.numel()
        rows, columns = module.core
        core = state[module.offset : module.offset + rows * columns].reshape(rows, columns).T
        if manifest.adapter.subspace:
            up = frozen[at : at + module.out_features * columns].reshape(-1, columns)
            at += up.numel()
            core = up @ core
        pairs[module.name] = a.contiguous(), core.contiguous()
    return pairs


def save_peft(folder: Path, manifest: Manifest, frozen: Tensor, state: Tensor) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors`` for `PeftModel.from_pretrained`."""
    tensors = {}
    for name, (a, b) in lora_pairs(manifest, frozen, state).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
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
