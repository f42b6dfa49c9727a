"""LoRA pairs of a PEFT adapter folder, as plain tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prge.errors import UserError
from prge.files.bounded import SETTINGS, TENSORS, check_size, read_bounded
from prge.files.typed import parse, parse_json

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# Its name in a run folder.
ADAPTER_FOLDER = "adapter"

# PEFT settings that make an adapter something else than pairs of one rank on an unchanged base.
_BEYOND_PAIRS = (
    "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias", "use_qalora", "layer_replication",
    "trainable_token_indices", "target_parameters", "alora_invocation_tokens", "use_bdlora", "arrow_config",
    "kasa_config", "monteclora_config",
)  # fmt: skip
# Settings of single modules, by the one that holds for all others.
_PATTERNS = {"rank_pattern": "r", "alpha_pattern": "lora_alpha"}
# Initializations that change the base's own weights.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True)
class Lora:
    """An adapter that adds ``scale * B A`` to the weights of some linear modules.

    Attributes:
        path: the adapter's folder.
        base: name of the model that it was trained on.
        base_sha256: the model's digest, where prge wrote the adapter; else None.
        rank: r, the rank of every pair.
        scale: ``alpha / r``, or ``alpha / sqrt(r)`` where the adapter says so.
        pairs: (A [r, in], B [out, r]) in float32, by the module's name in the base model.
    """

    path: Path
    base: str
    base_sha256: str | None
    rank: int
    scale: float
    pairs: dict[str, tuple[Tensor, Tensor]]


def read_lora(folder: Path) -> Lora:
    """Read a PEFT adapter folder, whoever trained it.

    Raises:
        UserError: no adapter there, damaged, or not plain LoRA pairs of one rank. The message names the field.
    """
    config, data = folder / CONFIG_FILE, read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise UserError(f"{folder} holds no {WEIGHTS_FILE}; save the adapter with save_pretrained, as safetensors")
    for pattern, usual in _PATTERNS.items():  # PEFT writes them where they change nothing, too
        if isinstance(data.get(pattern), dict):
            data[pattern] = {name: value for name, value in data[pattern].items() if value != data.get(usual)}
    odd = [(name, data[name]) for name in _BEYOND_PAIRS if data.get(name)]
    odd += [(name, data[name]) for name, plain in (("peft_type", "LORA"), ("bias", "none")) if data[name] != plain]
    if str(data.get("init_lora_weights")).startswith(_CHANGES_BASE):
        odd.append(("init_lora_weights", data["init_lora_weights"]))
    if odd:
        name, value = odd[0]
        shown = repr(value) if len(repr(value)) < 100 else f"{repr(value)[:97]}..."
        raise UserError(f"{config}: {name} is {shown}; prge takes plain LoRA: pairs of one rank beside frozen weights")
    try:
        rank, alpha = parse(int, data["r"]), parse(float, data["lora_alpha"])
        check_size(weights, TENSORS)
        with safe_open(weights, "pt") as f:
            tensors = {name: f.get_tensor(name).float() for name in f.keys()}  # noqa: SIM118
            base_sha256 = (f.metadata() or {}).get("base_sha256")
    except (KeyError, TypeError, ValueError) as e:
        raise UserError(f"{config} cannot be read: {e!r}") from e
    except (OSError, SafetensorError, RuntimeError) as e:
        raise UserError(f"{weights} cannot be read: {e}") from e
    if rank < 1:
        raise UserError(f"{config}: r is {rank}; a rank is at least 1")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise UserError(f"{weights} holds numbers that are not finite")
    scale = alpha / (rank**0.5 if data.get("use_rslora") else rank)
    return Lora(
        folder, str(data.get("base_model_name_or_path")), base_sha256, rank, scale, _pairs(weights, tensors, rank)
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of ``adapter_config.json``; a UserError if it is missing or cannot be read."""
    config = folder / CONFIG_FILE
    if not config.is_file():
        raise UserError(f"{folder} is not a PEFT adapter folder (no {CONFIG_FILE})")
    try:
        data = parse_json(read_bounded(config, SETTINGS))
        return {"peft_type": "LORA", "bias": "none", **data}
    except (ValueError, TypeError) as e:
        raise UserError(f"{config} cannot be read: {e}") from e


def check_base(path: Path, base: str, sha256: str | None, here: str, expected: str) -> None:
    """Raise a UserError if ``path`` was trained on another base than the one here.

    Args:
        base: name of the base that ``path`` was trained on.
        sha256: that base's digest; None if it is not known, and then nothing is raised.
        here: name of the base here.
        expected: its digest.
    """
    if sha256 not in (None, expected):
        raise UserError(
            f"{path} was trained on {base} (sha256 {str(sha256)[:12]}), but the base here is {here} "
            f"(sha256 {expected[:12]})"
        )


def _pairs(weights: Path, tensors: dict[str, Tensor], rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", key)
        if not name or tensor.dim() != 2 or tensor.shape[name[2] == "B"] != rank:
            raise UserError(f"{weights}: {key} {tuple(tensor.shape)} is no half of a LoRA pair of rank {rank}")
        found.setdefault(name[1], {})[name[2]] = tensor
    half = [name for name, pair in found.items() if len(pair) < 2]
    if half or not found:
        raise UserError(f"{weights} holds {'half a pair of ' + half[0] if half else 'no LoRA pair'}")
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def core_between(b: Tensor, d: Tensor) -> Tensor:
    """The core R [k, r] for which ``D R`` is nearest to B. B is [out, r]; D is [out, k], of full column rank."""
    solution: Tensor = torch.linalg.lstsq(d.double(), b.double()).solution
    return solution.float()


def adapter_folder(path: Path) -> Path:
    """The adapter folder in a run folder; any other ``path`` itself."""
    return path / ADAPTER_FOLDER if (path / ADAPTER_FOLDER).is_dir() else path
