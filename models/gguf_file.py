"""GGUF files: in one part or several, read by transformers, and kept as a Hugging Face checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import re
import struct
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize
from transformers.integrations.gguf.dequant import GGML_BLOCK
from transformers.integrations.gguf.reader import GgufHeader, read_gguf_metadata

from prge.errors import UserError
from prge.files.cache import cache_folder
from prge.files.digest import file_sha256

# As llama.cpp names the parts of a split file.
_PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})")
_COUNT, _NUMBER, _TENSORS = "split.count", "split.no", "split.tensors.count"
# Types of tensors that transformers reads: plain numbers, and those that it dequantizes.
_READ = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
_READ |= {GGMLQuantizationType(kind) for kind in GGML_BLOCK}
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


@contextlib.contextmanager
def readable(parts: Sequence[Path]) -> Iterator[Path]:
    """A file that holds all tensors of some parts, as transformers reads them.

    That is a part that is alone, or for as long as the block runs a new file. In that, tensors of a type that
    transformers does not know (Q5_0 and Q5_1, which llama.cpp takes where rows are no whole number of its larger
    blocks) are in float32.

    Raises:
        UserError: the new file cannot be written, or there is a type that nothing here dequantizes.
    """
    if len(parts) == 1 and _READ.issuperset(_read(parts[0])[1]):
        yield parts[0]
        return
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=cache_folder())
    except OSError as e:
        raise UserError(
            f"{cache_folder()} cannot be written ({e.strerror}): set PRGE_CACHE to a folder that can"
        ) from e
    with scratch as folder:
        whole = Path(folder, "whole.gguf")
        try:
            _write_readable(parts, whole)
        except NotImplementedError as e:
            raise UserError(f"{parts[0]} holds tensors that cannot be read: {e}") from e
        except OSError as e:
            raise UserError(
                f"{cache_folder()}: what {parts[0]} holds cannot be written there anew: {e.strerror}"
            ) from e
        yield whole


def _write_readable(parts: Sequence[Path], whole: Path) -> None:
    """Write one file with the fields of the first part, and with the tensors of all."""
    readers = [GGUFReader(part) for part in parts]
    architecture = readers[0].fields["general.architecture"].contents()
    writer = GGUFWriter(whole, architecture)
    for name, field in readers[0].fields.items():
        if name.startswith(("GGUF.", "split.")) or name == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    tensors: list[Any] = [tensor for reader in readers for tensor in reader.tensors]
    for tensor in tensors:
        if tensor.tensor_type in _READ:
            data, kind = tensor.data, tensor.tensor_type
            writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, kind)
        else:
            shape = tuple(int(size) for size in reversed(tensor.shape))
            writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), 4 * tensor.n_elements)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        known = tensor.tensor_type in _READ
        writer.write_tensor_data(tensor.data if known else dequantize(tensor.data, tensor.tensor_type))
    writer.close()


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
