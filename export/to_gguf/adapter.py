"""Adapters as one LoRA GGUF file, to be put upon their base model as a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH_NAMES, GGUFWriter

from prge.errors import UserError
from prge.export.to_gguf.families import gguf_family, namer, rows
from prge.lora import Lora

ADAPTER_FILE = "adapter.gguf"


def refuse_tied(config: Any, source: str, loras: Sequence[Lora]) -> None:
    """Raise a UserError where an adapter changes a head that is the embedding's table too.

    llama.cpp has one tensor for both there, to which no adapter of the head fits.
    """
    changed = [lora for lora in loras if lora.heads]
    if changed and getattr(config, "tie_word_embeddings", False):
        raise UserError(
            f"{changed[0].path}: it changes the head, which in {source} is the embedding too. llama.cpp puts no "
            "adapter on that: write the whole model with --to gguf"
        )


def write_adapter(file: Path, config: Any, source: str, loras: Sequence[Lora], weights: Sequence[float]) -> None:
    """Write the sum of some adapters: their pairs side by side, so that the rank is the sum of their ranks.

    Args:
        file: the new file.
        config: of the base model, of transformers.
        source: names the base model.
        weights: what each adapter's update is multiplied by.

    Raises:
        UserError: as `gguf_family`.
        OSError: it cannot be written.
    """
    family = gguf_family(config, source)
    name = namer(family, config, source)
    writer = GGUFWriter(file, MODEL_ARCH_NAMES[family.arch])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_name(loras[0].path.name)
    writer.add_string("general.base_model.0.name", Path(source).name)
    writer.add_uint32("general.base_model.count", 1)
    # By 0 llama.cpp does not scale. Ranks may differ by module, so that each pair has its scale in its B.
    writer.add_float32("adapter.lora.alpha", 0.0)
    for module in dict.fromkeys(m for lora in loras for m in lora.pairs):
        scaled = zip(loras, weights, strict=True)
        own = [(lora.pairs[module], lora.scale * weight) for lora, weight in scaled if module in lora.pairs]
        a = torch.cat([pair[0] for pair, _ in own])
        b = torch.cat([pair[1] * scale for pair, scale in own], 1)
        writer.add_tensor(f"{name(module)}.weight.lora_a", a.contiguous().numpy())
        writer.add_tensor(f"{name(module)}.weight.lora_b", rows(family, config, module, b).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
