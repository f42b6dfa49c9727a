"""What GGUF files say of themselves: in one part or several, whole or not, and a model or something else."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from transformers.integrations.gguf.dequant import GGML_BLOCK
from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

from prge.errors import UserError
from prge.files.cache import cache_folder
from prge.files.digest import file_sha256

# As llama.cpp names the parts of a split file.
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})")
_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"
# What else a GGUF file may be, by its general.type.
_OTHER = {
    "adapter": "a LoRA adapter, not a model; give its base model, and train an adapter anew",
    "mmproj": "the part of a model that reads images; give the file of its text part",
    "imatrix": "a matrix of importances, not a model; give the model itself",
}


def gguf_parts(file: Path) -> list[Path]:
    """All parts of the GGUF file that ``file`` is, or is a part of, in order; each is there and whole.

    Raises:
        UserError: it is no GGUF file, no model, damaged, or a part is missing.
    """
    if not file.is_file():
        raise UserError(f"{file} does not exist")
    metadata, _ = _read(file)
    kind = str(metadata.get("general.type", "model"))
    if kind in _OTHER or metadata["general.architecture"] == "clip":
        raise UserError(f"{file} is {_OTHER.get(kind, _OTHER['mmproj'])}")
    count = int(metadata.get(_COUNT, 0) or 1)
    if count == 1:
        parts = [file]
    else:
        named = _PART.fullmatch(file.stem)
        if not named:
            raise UserError(
                f"{file} is one of {count} parts; name them as they came, as {file.stem}-00001-of-00003.gguf"
            )
        parts = [file.with_name(f"{named[1]}-{i:05}-of-{named[3]}.gguf") for i in range(1, count + 1)]
    found = 0
    for i, part in enumerate(parts):
        if not part.is_file():
            raise UserError(f"{part} is missing: {file.name} is one of {count} parts, which must lie together")
        metadata, kinds = _read(part)
        if count > 1 and (metadata.get(_COUNT), metadata.get(_NUMBER)) != (count, i):
            raise UserError(f"{part} is not part {i + 1} of {count}: fetch the parts again")
        found += len(kinds)
    first, _ = _read(parts[0])
    if found != first.get(_TENSORS, found) or not found:
        raise UserError(f"{file} holds {found} tensors, and should hold {first.get(_TENSORS, 'some')}: fetch it again")
    return parts


def kept_checkpoint(parts: Sequence[Path]) -> Path:
    """Where the Hugging Face checkpoint that is made of a GGUF file's parts is kept; it need not be there."""
    digests = [file_sha256(part)[:16] for part in parts]
    name = digests[0] if len(parts) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()[:16]
    return cache_folder() / f"{parts[0].stem}-{name}"


def _read(file: Path) -> tuple[dict[str, Any], list[GGMLQuantizationType]]:
    """A file's metadata, without its lists of strings, and its tensors' types."""
    try:
        metadata, _ = read_gguf_metadata(str(file))
        with patch.dict(GGML_BLOCK, {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}):
            header = GgufHeader.from_file(str(file))
        kinds = [GGMLQuantizationType(info.ggml_type) for info in header.tensors]
    except ValueError as e:  # its sentences begin with the file's name
        raise UserError(f"{file} cannot be read: {str(e).removeprefix(str(file)).strip()}") from e
    except (OSError, LookupError, TypeError, struct.error, OverflowError, MemoryError) as e:
        raise UserError(f"{file} is damaged ({e}): fetch it again") from e
    end = max((header.data_start + info.offset + info.nbytes for info in header.tensors), default=0)
    if end > file.stat().st_size:
        raise UserError(f"{file} ends after {file.stat().st_size:,} of {end:,} bytes: fetch it again")
    return metadata, kinds
