"""Checkpoints with the shapes of well-known models and random weights: ``python tests/big_model.py llama-2-7b FOLDER``.

They are in bfloat16, in shards, and are written tensor by tensor: the model is never in memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from conftest import trained_tokenizer
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

SHAPES: dict[str, dict[str, Any]] = {
    "tinyllama-1.1b": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "vocab_size": 32000,
    },
    "llama-3.2-3b": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "num_key_value_heads": 8, "vocab_size": 128256, "head_dim": 128, "tie_word_embeddings": True,
    },
    "llama-2-7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "vocab_size": 32000,
    },
}  # fmt: skip
SHARD = 1 << 30  # bytes


def write(shape: str, folder: Path) -> None:
    """Write a checkpoint of one of `SHAPES`, with the tests' tokenizer."""
    folder.mkdir(parents=True)
    config = LlamaConfig(**SHAPES[shape], architectures=["LlamaForCausalLM"], dtype="bfloat16")
    config.save_pretrained(folder)
    with resources.as_file(resources.files("prge.demo")) as demo:
        tokenizer = trained_tokenizer(demo, ["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    places: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(_shards(dict(model.named_parameters()))):
        file = f"model-{number:05}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        places |= dict.fromkeys(shard, file)
        total += sum(tensor.nbytes for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _shards(parameters: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shard: dict[str, torch.Tensor] = {}
    for name, like in parameters.items():
        made = torch.empty(like.shape, dtype=torch.bfloat16)
        shard[name] = made.fill_(1.0) if like.dim() == 1 else made.normal_(0.0, 0.02, generator=generator)
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD:
            yield shard
            shard = {}
    if shard:
        yield shard


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
