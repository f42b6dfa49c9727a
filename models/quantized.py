"""Checkpoints of quantized weights: which become float32, and what is said of the others."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from transformers import CompressedTensorsConfig, FineGrainedFP8Config

from prge.errors import UserError

# How people call what transformers calls otherwise; other kinds have their own names.
_NAMES = {
    "gptq": "GPTQ", "awq": "AWQ", "hqq": "HQQ", "fp8": "FP8", "fbgemm_fp8": "FBGEMM's FP8", "mxfp4": "MXFP4",
    "nvfp4": "NVFP4", "aqlm": "AQLM", "exl2": "EXL2", "modelopt": "NVIDIA's ModelOpt",
}  # fmt: skip

# What quantizers write behind a model's name, as in Qwen3-0.6B-GPTQ-Int4, Llama-3.2-1B-unsloth-bnb-4bit.
_SUFFIX = re.compile(
    r"[-_.](?:gptq|awq|hqq|fp8|nvfp4|mxfp4|bnb|unsloth|mlx|torchao|quantized|exl2|aqlm|int[48]|w\d+a\d+|\d-?bits?)"
    r"(?:[-_.].*)?$",
    re.IGNORECASE,
)
_CARD, _CARD_BYTES = "README.md", 1 << 16


def plain_weights(config: Any, source: str) -> dict[str, Any]:
    """What transformers is told beside a checkpoint, so that it gives the weights as plain numbers.

    Args:
        config: the checkpoint's, of transformers.
        source: names the checkpoint.

    Raises:
        UserError: the weights are quantized in a way that it does not undo. The message names the kind, and the model
            that they were made of, where that can be told.
    """
    kind = quantization(config)
    if kind is None:
        return {}
    if kind == "fp8":
        return {"quantization_config": FineGrainedFP8Config(dequantize=True)}
    need = ""
    if kind == "compressed-tensors":
        if importlib.util.find_spec("compressed_tensors"):
            return {"quantization_config": CompressedTensorsConfig(dequantize=True)}
        need = "`pip install compressed-tensors`, or "
    of = f", {sibling}," if (sibling := _made_of(source)) else ""
    raise UserError(
        f"{source}: its weights are quantized by {_NAMES.get(kind, kind)}, and prge starts from plain ones: {need}give "
        f"the model that it was made of{of} and --quantization makes that small"
    )


def quantization(config: Any) -> str | None:
    """The method by which a checkpoint's weights are quantized, as transformers calls it; None if they are not."""
    found = getattr(config, "quantization_config", None)
    if not found:  # MLX writes both; other tools know only the second
        return "MLX" if getattr(config, "quantization", None) else None
    settings: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    method = settings.get("quant_method")
    if method is None:
        return "bitsandbytes" if "load_in_4bit" in settings or "load_in_8bit" in settings else "MLX"
    return str(getattr(method, "value", method))


def _made_of(source: str) -> str | None:
    """The model that a quantized one was made of, by its card or else by its name; None where neither tells."""
    card = Path(source, _CARD)
    if card.is_file():
        with card.open(encoding="utf-8", errors="replace") as f:
            found = re.search(r"^base_model:\s*(?:\n\s*-\s*)?([\w./-]+)\s*$", f.read(_CARD_BYTES), re.MULTILINE)
        if found:
            return found[1]
    name = Path(source).name
    plain = _SUFFIX.sub("", name)
    return plain if plain != name else None
