"""LoRA pairs of a PEFT adapter folder, as plain tensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    "use_dora", "modules_to_save", "lora_bias", "use_qalora", "layer_replication",
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

    A pair that adds to single rows of a head (`head_rows`) may be of another rank and scale than the others. Its B is
    given so that it has ``scale`` too.

    Attributes:
        path: the adapter's folder.
        base: name of the model that it was trained on.
        base_sha256: the model's digest, where prge wrote the adapter; else None.
        rank: r, the rank of every other pair.
        scale: ``alpha / r``, or ``alpha / sqrt(r)`` where the adapter says so.
        pairs: (A [r, in], B [out, r]) in float32, by the module's name in the base model.
    """

    path: Path
    base: str
    base_sha256: str | None
    rank: int
    scale: float
    pairs: dict[str, tuple[Tensor, Tensor]]

    @property
    def heads(self) -> set[str]:
        """The modules that are heads, of which the adapter changes single rows."""
        return {name for name, (_, b) in self.pairs.items() if head_rows(b) is not None}


def read_lora(folder: Path) -> Lora:
    """Read a PEFT adapter folder, whoever trained it.

    Raises:
        UserError: no adapter there, damaged, or not plain LoRA pairs of one rank. The message names the field.
    """
    config, data = folder / CONFIG_FILE, read_config(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise UserError(f"{folder} holds no {WEIGHTS_FILE}; save the adapter with save_pretrained, as safetensors")
    patterns = {pattern: _own(data, pattern, usual) for pattern, usual in _PATTERNS.items()}
    odd = [(name, data[name]) for name in _BEYOND_PAIRS if data.get(name)]
    odd += [(name, data[name]) for name, plain in (("peft_type", "LORA"), ("bias", "none")) if data[name] != plain]
    if str(data.get("init_lora_weights")).startswith(_CHANGES_BASE):
        odd.append(("init_lora_weights", data["init_lora_weights"]))
    _refuse(config, odd)
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

    def scale_of(rank: float, alpha: float) -> float:
        return alpha / (rank**0.5 if data.get("use_rslora") else rank)

    pairs, scale = _pairs(weights, tensors), scale_of(rank, alpha)
    lora = Lora(folder, str(data.get("base_model_name_or_path")), base_sha256, rank, scale, pairs)
    heads = lora.heads
    _refuse(config, [(pattern, own) for pattern, own in patterns.items() if own.keys() - heads])
    for name, (a, b) in pairs.items():
        own_rank, own_alpha = (patterns[p].get(name, usual) for p, usual in zip(_PATTERNS, (rank, alpha), strict=True))
        if not a.shape[0] == b.shape[1] == own_rank:
            raise UserError(f"{weights}: {name} {tuple(b.shape)} is no half of a LoRA pair of rank {own_rank}")
        if name in heads:
            pairs[name] = a, b * (scale_of(own_rank, own_alpha) / scale)
    return lora


def _own(data: dict[str, Any], pattern: str, usual: str) -> dict[str, Any]:
    """The settings of single modules that differ from those of all; PEFT writes others too."""
    given = data.get(pattern) or {}
    return {name: value for name, value in given.items() if value != data.get(usual)}


def _refuse(config: Path, odd: list[tuple[str, Any]]) -> None:
    if odd:
        name, value = odd[0]
        shown = repr(value) if len(repr(value)) < 100 else f"{repr(value)[:97]}..."
        raise UserError(f"{config}: {name} is {shown}; prge takes plain LoRA: pairs of one rank beside frozen weights")


def head_rows(b: Tensor) -> Tensor | None:
    """The rows i64[r] to which B [out, r] adds one vector of A each, as in a trained head; None of another B."""
    nonzero = b != 0
    if not bool((nonzero.sum(0) == 1).all()):
        return None
    rows = nonzero.to(torch.uint8).argmax(0)
    return rows if len(rows.unique()) == len(rows) else None


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


def added_rows(lora: Lora, name: str, tokens: Sequence[int]) -> Tensor | None:
    """What an adapter adds to the rows ``tokens`` of the head ``name``, f32[K, H]; None if it adds to other rows."""
    a, b = lora.pairs[name]
    rows = head_rows(b)
    if rows is None or sorted(rows.tolist()) != sorted(tokens):
        return None
    return (b.sum(0).unsqueeze(1) * a * lora.scale)[[rows.tolist().index(token) for token in tokens]]


def _pairs(weights: Path, tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", key)
        if not name or tensor.dim() != 2:
            raise UserError(f"{weights}: {key} {tuple(tensor.shape)} is no half of a LoRA pair")
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
