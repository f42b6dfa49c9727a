"""An adapter folded into its base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError, safe_open

from prge.errors import UserError
from prge.folders import new_folder, refuse_used
from prge.models.checkpoints import load_checkpoint
from prge.quiet import quiet


def merge_adapter(adapter: Path, output: Path, model: str | None, allow_pickle: bool = False) -> dict[str, Any]:
    """Write ``output``, a Hugging Face checkpoint in float32 with ``adapter`` (a PEFT folder) folded in.

    ``model`` names the base; None takes what the adapter names.

    Raises:
        UserError: no adapter there, the output folder is not empty, or the base does not fit.
    """
    config = adapter / "adapter_config.json"
    if not config.is_file():
        raise UserError(f"{adapter} is not a PEFT adapter folder (no adapter_config.json)")
    refuse_used(output)
    try:
        base = model or str(json.loads(config.read_text())["base_model_name_or_path"])
    except (ValueError, KeyError) as e:
        raise UserError(f"{config} cannot be read: {e}") from e
    with quiet():
        checkpoint = load_checkpoint(base, allow_pickle)
        try:
            with safe_open(adapter / "adapter_model.safetensors", "pt") as f:
                expected = (f.metadata() or {}).get("base_sha256")
            if expected not in (None, checkpoint.digest()):
                raise UserError(f"{adapter} was trained on other weights than {base} has; name its base by --model")
            merged = PeftModel.from_pretrained(checkpoint.model, str(adapter)).merge_and_unload()
        except (OSError, ValueError, RuntimeError, SafetensorError) as e:
            raise UserError(f"{adapter} does not fit {base}: {str(e).splitlines()[0]}") from e
        with new_folder(output) as out:
            merged.save_pretrained(out)
            checkpoint.tokenizer.save_pretrained(out)
    return {"model": str(output), "base": base, "parameters": sum(p.numel() for p in merged.parameters())}
