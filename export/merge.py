"""An adapter folded into its base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftModel

from prge.errors import UserError
from prge.models.checkpoints import load_checkpoint
from prge.quiet import quiet


def merge_adapter(adapter: Path, output: Path, model: str | None) -> dict[str, Any]:
    """Write ``output``, a Hugging Face checkpoint in float32 with ``adapter`` (a PEFT folder) folded in.

    ``model`` names the base; None takes what the adapter names.

    Raises:
        UserError: no adapter there, the output folder is not empty, or the base does not fit.
    """
    config = adapter / "adapter_config.json"
    if not config.is_file():
        raise UserError(f"{adapter} is not a PEFT adapter folder (no adapter_config.json)")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not empty; choose another output folder or remove it")
    try:
        base = model or str(json.loads(config.read_text())["base_model_name_or_path"])
    except (ValueError, KeyError) as e:
        raise UserError(f"{config} cannot be read: {e}") from e
    with quiet():
        checkpoint = load_checkpoint(base)
        try:
            merged = PeftModel.from_pretrained(checkpoint.model, str(adapter)).merge_and_unload()
        except (ValueError, RuntimeError) as e:
            raise UserError(f"{adapter} does not fit {base}: {str(e).splitlines()[0]}") from e
        try:
            merged.save_pretrained(output)
            checkpoint.tokenizer.save_pretrained(output)
        except OSError as e:
            raise UserError(f"{output} cannot be written: {e.strerror or e}") from e
    return {"model": str(output), "base": base, "parameters": sum(p.numel() for p in merged.parameters())}
