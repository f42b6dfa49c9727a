"""Makes a Hugging Face checkpoint of a GGUF file, some tensors at a time, so that memory does not hold the model."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import torch
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from prge.errors import UserError
from prge.memory import forget
from prge.models.stored import pieces

# Numbers of tensors that are in float32 at once, unless one has more: 256 MB.
_AT_ONCE = 1 << 26


class _Parts(GGUFReader):
    """What the first part says of the model, and the tensors of all parts."""

    def __init__(self, parts: Sequence[Path]):
        super().__init__(parts[0])
        for part in parts[1:]:
            self.tensors += GGUFReader(part).tensors


def convert(parts: Sequence[Path], config: Any, folder: Path) -> None:
    """Write the checkpoint: its weights as plain numbers, in several files, with the configuration and the tokenizer.

    transformers reads the tensors and knows what becomes of each. It opens a file by name, and reads all tensors of
    it; so it is given a reader of our own in place of the file's. For each piece it would also list the names of all
    tensors and read the vocabulary, which takes seconds. So the list is kept, and the reader forgets the vocabulary
    when the tokenizer is written.

    Args:
        parts: of the file, in order; each is there and whole.
        config: as `gguf_config` reads it.
        folder: an empty one.

    Raises:
        UserError: the disk has no room, or there is a type of tensors that nothing here dequantizes.
        Exception: whatever transformers raises for a model that it does not know.
    """
    reader = _Parts(parts)
    _check_room(reader.tensors, folder)
    names = functools.cache(gguf.get_tensor_name_map)
    with patch("gguf.GGUFReader", lambda path: reader), patch("gguf.get_tensor_name_map", names):
        _save_tokenizer(AutoTokenizer.from_pretrained(parts[0].parent, gguf_file=parts[0].name), folder)
        for key in [key for key in reader.fields if key.startswith("tokenizer.")]:
            del reader.fields[key]
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        files: dict[str, str] = {}
        for number, piece in enumerate(_pieces(reader.tensors)):
            reader.tensors = piece
            weights = _read(parts[0], model)
            file = f"model-{number:05}.safetensors"
            save_file({name: _small(weight) for name, weight in weights.items()}, folder / file, {"format": "pt"})
            files |= dict.fromkeys(weights, file)
            for tensor in piece:
                forget(tensor.data.ctypes.data, tensor.n_bytes, tensor.data)
    (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer so that it is read as it is; a model's own class would put its own rules in their place."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) | {"tokenizer_class": PreTrainedTokenizerFast.__name__}
    file.write_text(json.dumps(settings, indent=2) + "\n")


def gguf_config(parts: Sequence[Path]) -> Any:
    """A GGUF file's configuration, without its weights.

    Raises:
        Exception: whatever transformers raises for a model that it does not know.
    """
    with patch("gguf.GGUFReader", lambda path: _Parts(parts)):
        return AutoConfig.from_pretrained(parts[0].parent, gguf_file=parts[0].name)


def _read(file: Path, model: Any) -> dict[str, torch.Tensor]:
    """The reader's tensors in float32, by the names that the model gives its weights."""
    try:
        read = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=model, torch_dtype=torch.float32)
    except NotImplementedError as e:
        raise UserError(f"{file} holds tensors that cannot be read: {e}") from e
    weights: dict[str, torch.Tensor] = read["tensors"]
    return weights


def _small(weight: torch.Tensor) -> torch.Tensor:
    """A weight in 16 bits where they hold its numbers, as those of a file in bfloat16 or float16; else as it is."""
    for dtype in (torch.bfloat16, torch.float16):
        if all(torch.equal(piece.to(dtype).float(), piece) for piece in pieces(weight)):
            return weight.to(dtype)
    return weight


def _pieces(tensors: Iterable[ReaderTensor]) -> Iterator[list[ReaderTensor]]:
    piece: list[ReaderTensor] = []
    for tensor in tensors:
        if piece and sum(int(t.n_elements) for t in [*piece, tensor]) > _AT_ONCE:
            yield piece
            piece = []
        piece.append(tensor)
    if piece:
        yield piece


def _check_room(tensors: Sequence[ReaderTensor], folder: Path) -> None:
    needed = sum(int(t.n_elements) * (2 if t.tensor_type in _HALVES else 4) for t in tensors)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} has {free / 1e9:,.1f} GB of room, and the GGUF file's weights take {needed / 1e9:,.1f} GB as "
            "plain numbers: make room, or set PRGE_CACHE to a folder of another disk"
        )


_HALVES = (GGMLQuantizationType.BF16, GGMLQuantizationType.F16)
