"""What `prge merge` does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from prge.lora import adapter_folder
from prge.options import AnyPath, Option
from prge.quiet import quiet


def merge(
    adapters: Annotated[
        tuple[AnyPath, ...], Option("Run folders, or PEFT adapter folders, of one base.", argument=True)
    ],
    output: Annotated[AnyPath, Option("New folder for the merged model.", ("--output", "-o"))],
    weight: Annotated[
        tuple[float, ...], Option("Weight of an adapter's update, once per adapter in their order; default: 1 each.")
    ] = (),
    model: Annotated[str | None, Option("The base model; default: the one that the adapters name.")] = None,
    to: Annotated[
        Literal["checkpoint", "gguf", "lora-gguf"],
        Option(
            "What to write: a Hugging Face checkpoint; for llama.cpp and Ollama model.gguf, the whole model, or "
            "adapter.gguf, the adapters alone."
        ),
    ] = "checkpoint",
    allow_pickle: Annotated[
        bool, Option("Also read pickled weights (pytorch_model.bin).", ("--allow-pickle",))
    ] = False,
) -> dict[str, Any]:
    """Fold adapters into their base model and write it, as a plain Hugging Face checkpoint or for llama.cpp."""
    with quiet():
        from prge.export.merge import merge_adapters

    folders = [adapter_folder(Path(path)) for path in adapters]
    return merge_adapters(folders, Path(output), model, weight, allow_pickle, to)
