"""PEFT adapters folded into the weights of their base model, and where the result runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import nn

from prge.errors import UserError
from prge.export.to_gguf.adapter import ADAPTER_FILE, refuse_tied, write_adapter
from prge.export.to_gguf.families import gguf_family
from prge.export.to_gguf.model import MODEL_FILE, write_model
from prge.files.folders import new_folder, refuse_used
from prge.lora import CONFIG_FILE, WEIGHTS_FILE, check_base, read_config, read_lora
from prge.models.checkpoints import Checkpoint, load_checkpoint, load_outline
from prge.quiet import quiet

# A Hugging Face checkpoint; a GGUF file of the whole model; a GGUF file of the adapters alone.
Form = Literal["checkpoint", "gguf", "lora-gguf"]


def merge_adapters(
    adapters: Sequence[Path],
    output: Path,
    model: str | None = None,
    weights: Sequence[float] = (),
    allow_pickle: bool = False,
    to: Form = "checkpoint",
) -> dict[str, Any]:
    """Write a model in float32 with PEFT adapters folded into its weights; or the adapters' sum, for llama.cpp.

    Args:
        adapters: PEFT adapter folders.
        output: the new folder.
        model: the base model; None for the one that the adapters name.
        weights: what each adapter's update is multiplied by; empty for 1.
        allow_pickle: as for `load_checkpoint`.
        to: what to write: a Hugging Face checkpoint, ``model.gguf``, or ``adapter.gguf``.

    Returns:
        ``model``, the output folder or the GGUF file in it; ``base``; ``adapters``, how many; and ``parameters`` of the
        model.

    Raises:
        UserError: there is no adapter, the output folder is not empty or cannot be written, there is not one weight per
            adapter, an adapter does not fit the base, or llama.cpp does not know the base.
    """
    weights = weights or [1.0] * len(adapters)
    if len(weights) != len(adapters):
        raise UserError(f"{len(weights)} --weight for {len(adapters)} adapters; give one for each, in their order")
    configs = [read_config(adapter) for adapter in adapters]
    loras = []
    if len(adapters) > 1 or weights[0] != 1.0 or to == "lora-gguf":
        # Adapters that do more than add to the weights are refused: they cannot be summed.
        loras = [read_lora(adapter) for adapter in adapters]
    refuse_used(output)
    bases = list(dict.fromkeys(str(config.get("base_model_name_or_path") or "") for config in configs))
    if model is None and (len(bases) > 1 or not bases[0]):
        named = f"different bases ({', '.join(bases)})" if len(bases) > 1 else "no base"
        raise UserError(f"{adapters[0] / CONFIG_FILE}: the adapters name {named}; name it by --model")
    base = model or bases[0]
    with quiet():
        if to != "checkpoint":  # before the weights are read
            model_config = load_outline(base, allow_pickle).config
            gguf_family(model_config, base)
            if to == "lora-gguf":
                refuse_tied(model_config, base, loras)
        checkpoint = load_checkpoint(base, allow_pickle)
        digest, merged = checkpoint.digest(), checkpoint.model
        parameters = sum(p.numel() for p in merged.parameters())
        for adapter, config, weight in zip(adapters, configs, weights, strict=True):
            _untie(merged, config)
            merged = _folded(merged, adapter, weight, base, digest)
        with new_folder(output) as out:
            if to == "gguf":
                write_model(out / MODEL_FILE, checkpoint, merged)
            elif to == "lora-gguf":
                write_adapter(out / ADAPTER_FILE, checkpoint.config, base, loras, weights)
            else:
                _save(out, merged, checkpoint, output)
    return {
        "model": str(output / {"gguf": MODEL_FILE, "lora-gguf": ADAPTER_FILE}.get(to, "")),
        "base": base,
        "adapters": len(adapters),
        "parameters": parameters,
    }


def _save(out: Path, merged: Any, checkpoint: Checkpoint, output: Path) -> None:
    """Write a Hugging Face checkpoint into ``out``, which becomes ``output``."""
    try:
        merged.save_pretrained(out)
    except SafetensorError as e:  # which a full disk raises too
        raise UserError(f"{output} cannot be written: {e}; nothing was left there") from e
    checkpoint.tokenizer.save_pretrained(out)


def _untie(model: Any, config: dict[str, Any]) -> None:
    """Give the model a head of its own where the adapter of this config changes it and it is the embedding's table."""
    head = model.get_output_embeddings()
    names = [name for name, module in model.named_modules() if module is head]
    targets = config.get("target_modules") or ()
    if head is not None and set(names) & set(targets) and head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


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
