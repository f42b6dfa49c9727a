"""A whole model as one GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import MODEL_ARCH_NAMES, GGUFWriter, LlamaFileType

from prge.export.to_gguf.families import gguf_family, namer, rows, stored, write_sizes
from prge.export.to_gguf.tokenizer import write_tokenizer
from prge.models.checkpoints import Outline

MODEL_FILE = "model.gguf"


def write_model(file: Path, checkpoint: Outline, model: Any) -> None:
    """Write a model in float32, which llama.cpp's own ``llama-quantize`` makes smaller.

    Args:
        file: the new file.
        checkpoint: says of which family the model is, and has its tokenizer.
        model: of transformers, in float32; its adapters are merged.

    Raises:
        UserError: as `gguf_family` and `write_tokenizer`.
        OSError: it cannot be written.
    """
    config = checkpoint.config
    family = gguf_family(config, checkpoint.source)
    name = namer(family, config, checkpoint.source)
    writer = GGUFWriter(file, MODEL_ARCH_NAMES[family.arch])
    writer.add_type("model")
    writer.add_name(Path(checkpoint.source).name)
    writer.add_file_type(LlamaFileType.ALL_F32)
    write_sizes(writer, config, model)
    write_tokenizer(writer, checkpoint)
    for full, parameter in model.named_parameters():  # a tied head is not among them, and llama.cpp ties it too
        module, _, end = full.rpartition(".")
        found = parameter.detach().float()
        weight = stored(family, config, module, found) if end == "weight" else rows(family, config, module, found)
        writer.add_tensor(f"{name(module)}.{end}", weight.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
