"""Reads and writes states: as safetensors files, and as PEFT adapter folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prge.errors import UserError
from prge.files.checked import load_checked, replace, save_checked
from prge.lora import ADAPTER_FOLDER, CONFIG_FILE, WEIGHTS_FILE, Lora, added_rows, check_base, core_between
from prge.manifest import Manifest, TrainedHead
from prge.runtime_driver.program.card import CARD_FILE, card

# How far a PEFT adapter may be from the program's factors, as a share of its length: they are rounded.
_ROUNDING = 1e-3


def frozen_factors(manifest: Manifest, frozen: Tensor) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The frozen factors of every module by name: A [r, in] and, in a subspace, D [out, k]; else None.

    Args:
        frozen: what `StepProgram.frozen` gives.
    """
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
    """What a state has trained, as LoRA's (A [r, in], B [out, r]) of every module, to be scaled by ``alpha / rank``.

    In a subspace ``B = D R``. The state holds the transpose of R, or else of B. A trained head's pair has a rank of its
    own, and is not to be scaled (`TrainedHead`).
    """
    factors, pairs = frozen_factors(manifest, frozen), {}
    for module in manifest.adapter.modules:
        a, d = factors[module.name]
        rows, columns = module.core
        core = state[module.offset : module.offset + rows * columns].reshape(rows, columns).T
        pairs[module.name] = a.contiguous(), (core if d is None else _product(d, core)).contiguous()
    if head := manifest.adapter.head:
        core = state[head.offset : head.offset + head.size].reshape(head.core).T
        pairs[head.name] = core.contiguous(), _head_up(manifest, head)
    return pairs


def _head_up(manifest: Manifest, head: TrainedHead) -> Tensor:
    """B of a trained head's LoRA pair, f32[V, K]: ``gain`` where a word's row and column meet, else zero."""
    up = torch.zeros(head.out_features, len(manifest.words))
    up[manifest.words, torch.arange(len(manifest.words))] = head.gain
    return up


def _product(d: Tensor, core: Tensor) -> Tensor:
    """D R, summed in doubles and in order, so that all drivers have the same bits.

    A product of two float32 is exact there. How a matrix product sums is up to the library.
    """
    total = torch.zeros(d.shape[0], core.shape[1], dtype=torch.float64)
    for k in range(len(core)):
        total += d[:, k : k + 1].double() * core[k].double()
    return total.float()


def save_peft(folder: Path, manifest: Manifest, frozen: Tensor, state: Tensor) -> None:
    """Write a state as a folder that `PeftModel.from_pretrained` reads, with a model card.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {}
    for name, (a, b) in lora_pairs(manifest, frozen, state).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": manifest.adapter.task_type,
        "fan_in_fan_out": manifest.adapter.fan_in_fan_out,
        "base_model_name_or_path": manifest.model,
        "r": manifest.adapter.rank,
        "lora_alpha": manifest.adapter.alpha,
        "target_modules": [core.name for core in manifest.adapter.cores],
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }
    if head := manifest.adapter.head:
        config["rank_pattern"] = config["alpha_pattern"] = {head.name: head.core[1]}
    folder.mkdir(parents=True, exist_ok=True)
    save_checked(folder / WEIGHTS_FILE, tensors, {"format": "pt", **manifest.identity})
    replace(folder / CONFIG_FILE, (json.dumps(config, indent=2) + "\n").encode())
    replace(folder / CARD_FILE, card(manifest).encode())


def fit_lora(lora: Lora, manifest: Manifest, frozen: Tensor) -> Tensor:
    """The state f32[state_size] whose update of the weights is a PEFT adapter's. The optimizer's slots are zero.

    Raises:
        UserError: the adapter has another base, or does not fit between the program's frozen factors.
    """
    check_base(lora.path, lora.base, lora.base_sha256, manifest.model, manifest.model_sha256)
    factors, cores, head = frozen_factors(manifest, frozen), list[Tensor | None](), manifest.adapter.head
    if lora.pairs.keys() == {core.name for core in manifest.adapter.cores}:
        scale = lora.scale * manifest.adapter.rank / manifest.adapter.alpha
        cores = [_core(lora.pairs[name], factors[name], scale) for name in factors]
        if head:
            added = added_rows(lora, head.name, manifest.words)
            cores.append(None if added is None else added / head.gain)
    if not cores or any(core is None for core in cores):
        raise UserError(
            f"{lora.path} does not fit the program, which trains other directions; "
            f"`prge export {manifest.model} --adapter {lora.path}` makes a program that continues it"
        )
    flat = torch.cat([core.T.reshape(-1) for core in cores if core is not None])
    return torch.cat((flat, torch.zeros(manifest.state_size - len(flat))))


def _core(pair: tuple[Tensor, Tensor], factors: tuple[Tensor, Tensor | None], scale: float) -> Tensor | None:
    """The core between a module's frozen factors that makes ``scale * B A`` of a LoRA pair; None if there is none.

    Args:
        pair: A [r, in] and B [out, r].
        factors: A [r, in], and D [out, k] or None.
    """
    (a, b), (down, d) = (pair[0], pair[1] * scale), factors
    if a.shape != down.shape or (a - down).norm() > _ROUNDING * down.norm():
        return None
    if d is None:
        return b
    core = core_between(b, d)
    return core if (d @ core - b).norm() <= _ROUNDING * b.norm() else None


def load_state(path: Path, manifest: Manifest) -> Tensor:
    """Read a state, f32[state_size], from a file that `save_state` wrote.

    If another optimizer made it, only its parameters are taken, and this optimizer's slots are zero.

    Raises:
        UserError: the file is missing, damaged, no state, or of another base or other frozen factors.
    """
    state, metadata = open_state(path)
    check_base(path, str(metadata.get("base")), metadata.get("base_sha256"), manifest.model, manifest.model_sha256)
    size = manifest.parameters
    whole = state.shape == (manifest.state_size,)
    if state.dtype != torch.float32 or not (whole or state.shape in [(size * (1 + slots),) for slots in range(3)]):
        raise UserError(
            f"{path} holds {tuple(state.shape)} numbers of {state.dtype}; the program's state is "
            f"({manifest.state_size},) of float32: was it trained with another program?"
        )
    if not state.isfinite().all():
        raise UserError(f"{path} holds numbers that are not finite: it is damaged")
    if metadata.get("adapter_sha256") != manifest.adapter.sha256:
        raise UserError(
            f"{path} was trained with other frozen factors than the program's; `prge export {manifest.model} "
            f"--adapter {path.parent / ADAPTER_FOLDER}` makes a program that continues its run's adapter"
        )
    return state if whole else torch.cat((state[:size], torch.zeros(manifest.state_size - size)))


def steps_behind(path: Path, manifest: Manifest) -> int:
    """How many steps made a state that this program's optimizer can continue; else 0, also without a file.

    It can where the state has all of the optimizer's slots.

    Raises:
        UserError: the file is damaged, or no state.
    """
    if not path.is_file():
        return 0
    state, metadata = open_state(path)
    steps = steps_said(path, metadata)
    return steps if state.shape == (manifest.state_size,) else 0


def steps_said(path: Path, metadata: dict[str, str]) -> int:
    """How many steps made a state, as its file's metadata says; 0 where it says nothing.

    Raises:
        UserError: it says something else than a number.
    """
    steps = metadata.get("steps", "0")
    if not (steps.isascii() and steps.isdecimal() and len(steps) < 10):
        raise UserError(f"{path} is not a state of prge: it says of its steps {steps[:20]!r}")
    return int(steps)


def save_state(path: Path, state: Tensor, manifest: Manifest, steps: int = 0) -> None:
    """Write a state f32[state_size] and, as metadata, which base and which frozen factors it belongs to.

    An interrupted write leaves the file that was there.

    Args:
        steps: how many made it, those of earlier runs included.

    Raises:
        OSError: it cannot be written.
    """
    save_checked(path, {"state": state}, {**manifest.identity, "steps": str(steps)})


def open_state(path: Path) -> tuple[Tensor, dict[str, str]]:
    """A state of any program, and its metadata. A checksum is compared if there is one; other tools write none.

    Raises:
        UserError: the file is missing, damaged, or no state.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; `prge train` writes it into its run folder")
    tensors, metadata = load_checked(path, "a state of prge")
    if "state" not in tensors:
        raise UserError(f"{path} is not a state of prge: it has no tensor 'state'")
    return tensors["state"], metadata
