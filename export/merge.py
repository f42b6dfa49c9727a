"""PEFT adapters folded into the weights of their base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open

from prge.errors import UserError
from prge.files.folders import new_folder, refuse_used
from prge.lora import CONFIG_FILE, WEIGHTS_FILE, check_base, read_config, read_lora
from prge.models.checkpoints import load_checkpoint
from prge.quiet import quiet


def merge_adapters(
    adapters: Sequence[Path],
    output: Path,
    model: str | None = None,
    weights: Sequence[float] = (),
    allow_pickle: bool = False,
) -> dict[str, Any]:
    """Write a Hugging Face checkpoint in float32, with PEFT adapters folded into its weights.

    Args:
        adapters: PEFT adapter folders.
        output: the new checkpoint's folder.
        model: the base model; None for the one that the adapters name.
        weights: what each adapter's update is multiplied by; empty for 1.
        allow_pickle: as for `load_checkpoint`.

    Returns:
        ``model``, the output folder; ``base``; ``adapters``, how many; and ``parameters`` of the model.

    Raises:
        UserError: there is no adapter, the output folder is not empty or cannot be written, there is not one weight per
            adapter, or an adapter does not fit the base.
    """
    weights = weights or [1.0] * len(adapters)
    if len(weights) != len(adapters):
        raise UserError(f"{len(weights)} --weight for {len(adapters)} adapters; give one for each, in their order")
    configs = [read_config(adapter) for adapter in adapters]
    if len(adapters) > 1 or weights[0] != 1.0:
        for adapter in adapters:
            read_lora(adapter)  # refuses adapters that do more than add to the weights: they cannot be summed
    refuse_used(output)
    bases = list(dict.fromkeys(str(config.get("base_model_name_or_path") or "") for config in configs))
    if model is None and (len(bases) > 1 or not bases[0]):
        named = f"different bases ({', '.join(bases)})" if len(bases) > 1 else "no base"
        raise UserError(f"{adapters[0] / CONFIG_FILE}: the adapters name {named}; name it by --model")
    base = model or bases[0]
    with quiet():
        checkpoint = load_checkpoint(base, allow_pickle)
        digest, merged = checkpoint.digest(), checkpoint.model
        for adapter, weight in zip(adapters, weights, strict=True):
            merged = _folded(merged, adapter, weight, base, digest)
        with new_folder(output) as out:
            try:
                merged.save_pretrained(out)
            except SafetensorError as e:  # which a full disk raises too
                raise UserError(f"{output} cannot be written: {e}; nothing was left there") from e
            checkpoint.tokenizer.save_pretrained(out)
    return {
        "model": str(output),
        "base": base,
        "adapters": len(adapters),
        "parameters": sum(p.numel() for p in merged.parameters()),
    }


def _folded(model: Any, adapter: Path, weight: float, base: str, digest: str) -> Any:
    """The model with an adapter, times a weight, folded in; ``base`` and ``digest`` name the model."""
    try:
        with safe_open(adapter / WEIGHTS_FILE, "pt") as f:
            metadata = f.metadata() or {}
        check_base(adapter, str(metadata.get("base")), metadata.get("base_sha256"), base, digest)
        adapted = PeftModel.from_pretrained(model, str(adapter))
        for layer in adapted.modules():
            if isinstance(layer, LoraLayer):
                layer.scale_layer(weight)
        return adapted.merge_and_unload()
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, SafetensorError) as e:
        raise UserError(f"{adapter} does not fit {base}: {str(e).splitlines()[0]}") from e
