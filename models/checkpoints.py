"""Loads a model and its tokenizer from a folder, a GGUF file, a hub id or a preset."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import constants, get_session
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    GenerationConfig,
)

from prge.errors import UserError
from prge.files.cache import cache_folder
from prge.files.folders import new_folder
from prge.manifest import TOKENIZER_FILE, AnswerAt
from prge.models.checkpoint_folder import check_files, check_folder
from prge.models.families import UnsupportedModel
from prge.models.gguf_conversion import convert, gguf_config
from prge.models.gguf_file import gguf_parts, kept_checkpoint
from prge.models.likeness import family_of
from prge.models.parts import answer_at
from prge.models.presets import PRESETS, gguf_from_wheel
from prge.models.quantized import plain_weights
from prge.models.stored import leave_stored, pieces, put_others, read, stored_dtypes

# What is loaded of a checkpoint: all of it, or its `Outline`.
_Loaded = TypeVar("_Loaded", bound="Outline")


@dataclass(frozen=True)
class Outline:
    """A checkpoint without its weights: enough to read examples for it, and had in a moment.

    Attributes:
        config: the model's, of transformers.
        tokenizer: of transformers.
        source: where it came from, as messages and manifests name it.
        ends: the tokens that end a text, by its configuration for generation.
    """

    config: Any
    tokenizer: Any
    source: str
    ends: tuple[int, ...]

    @property
    def pad_token(self) -> int:
        """The token that fills rows on the right.

        Other tokens do not see it. An encoder hides every token of this number, so it must be one that no text holds.
        """
        tokens = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((int(token) for token in tokens if token in range(self.config.vocab_size)), 0)

    @property
    def answer_at(self) -> AnswerAt:
        """The token at which the model predicts a label's word."""
        return answer_at(self.config, _auto_class(self.config) is AutoModel)

    @property
    def chat_template(self) -> str:
        """The tokenizer's chat template, in jinja; empty where it has none."""
        template = self.tokenizer.chat_template
        return (template.get("default") if isinstance(template, dict) else template) or ""

    @property
    def special_tokens(self) -> dict[str, str]:
        """The tokenizer's special tokens, by the names that chat templates use, as ``eos_token``."""
        return {k: str(v) for k, v in self.tokenizer.special_tokens_map.items() if not isinstance(v, list)}

    @property
    def driver_tokenizer(self) -> Tokenizer:
        """The tokenizer as the driver has it: it neither pads nor truncates, since the driver fills and cuts rows.

        Raises:
            UserError: the checkpoint's has no ``tokenizer.json`` form.
        """
        if not getattr(self.tokenizer, "is_fast", False):
            raise UserError(f"{self.source}: its tokenizer has no {TOKENIZER_FILE} form, which the driver reads")
        tokenizer: Tokenizer = self.tokenizer.backend_tokenizer
        tokenizer.no_padding()  # sentence encoders come with both
        tokenizer.no_truncation()
        return tokenizer

    def save_tokenizer(self, folder: Path) -> Path:
        """Write ``tokenizer.json``.

        Raises:
            UserError: as `driver_tokenizer`, or it cannot be written.
        """
        path = folder / TOKENIZER_FILE
        tokenizer = self.driver_tokenizer
        try:
            tokenizer.save(str(path))
        except Exception as e:  # the library raises bare Exception
            raise UserError(f"{path.name} cannot be written: {e}") from e
        return path


@dataclass(frozen=True)
class Checkpoint(Outline):
    """A loaded model and its tokenizer.

    Attributes:
        model: of transformers; it computes in float32.
    """

    model: Any

    def digest(self) -> str:
        """Hex SHA-256 digest of the names and float32 values of all parameters; an adapter fits one such base."""
        sha = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            sha.update(name.encode())
            for piece in pieces(parameter):
                sha.update(read(piece).numpy().data)
        return sha.hexdigest()


def load_outline(source: str, allow_pickle: bool = False) -> Outline:
    """Load a checkpoint's tokenizer and configuration, without its weights where that can be.

    Raises:
        UserError: as `load_checkpoint`, as far as it shows without the weights.
    """
    return _load_as(_outline, source, allow_pickle)


def load_checkpoint(source: str, allow_pickle: bool = False, stored: bool = False) -> Checkpoint:
    """Load a model and its tokenizer.

    No code of a checkpoint is ever executed.

    Args:
        source: a preset, a folder, a ``.gguf`` file, or a hub id.
        allow_pickle: also read weights from ``pytorch_model.bin``, by torch's loader of tensors alone; else only from
            safetensors or GGUF.
        stored: leave the weights in their files where that can be (`leave_stored`); else they are in float32.

    Raises:
        UserError: there is nothing, it is no model or cannot be read, or the hub does not answer.
    """
    return _load_as(functools.partial(_load, stored=stored), source, allow_pickle)


def _load_as(load: Callable[..., _Loaded], source: str, allow_pickle: bool) -> _Loaded:
    """What ``load`` makes of a source: it is called as `_load`."""
    path = Path(source).expanduser()
    if source in PRESETS:
        preset = PRESETS[source]
        try:
            return load(preset.hub_id, source, local_files_only=not hub_answers())
        except (OSError, ValueError):
            return _load_or_explain(load, str(gguf_from_wheel(preset)), source)
    if path.suffix == ".gguf":
        return _load_or_explain(load, str(path), str(path.resolve()))
    if path.is_dir():
        check_folder(path)
        check_files(path, allow_pickle)
        return _load_or_explain(load, str(path), str(path.resolve()), use_safetensors=None if allow_pickle else True)
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        known = ", ".join(PRESETS)
        raise UserError(f"{source}: no such folder or file, and not a hub id (owner/name) or a preset ({known})")
    safe = None if allow_pickle else True
    return _load_or_explain(load, source, source, local_files_only=not hub_answers(), use_safetensors=safe)


def load_sizes(source: str) -> Any:
    """Load a model without its weights, on the meta device; of a hub id the config alone is fetched.

    Raises:
        UserError: as `load_checkpoint`.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        check_folder(path)
    try:
        if source in PRESETS:
            config = load_outline(source).config
        elif path.suffix == ".gguf":
            config = gguf_config(gguf_parts(path))
        else:
            local = path.is_dir() or not hub_answers()
            config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=local)
    except UserError:
        raise
    except Exception as e:  # as in `_load_or_explain`
        if path.exists():
            raise UserError(f"{source} cannot be loaded: {_reason(e)}") from e
        raise UserError(f"{source}: no such folder, and the hub does not answer or has no such model") from e
    _check_family(config, source)
    plain_weights(config, source)
    with torch.device("meta"):
        return _auto_class(config).from_config(config, dtype=torch.float32)


def _check_family(config: Any, source: str) -> None:
    """Refuse a model that is of no family and like none; a UserError says what it is."""
    kind = f"{source} is a model of type {config.model_type!r}"
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{kind}, an encoder with a decoder; prge takes decoders, and encoders, that stand alone")
    if any(hasattr(config, f"{sense}_config") for sense in ("vision", "audio")):
        raise UserError(f"{kind}, which takes more than text; prge takes models of text alone: give one of those")
    try:
        family_of(config)
    except UnsupportedModel as e:
        raise UserError(f"{kind}, which is not supported: {e}") from e


def _auto_class(config: Any) -> Any:
    """transformers' class for a checkpoint: with the head that predicts tokens, where the checkpoint has one."""
    if family_of(config).causal:
        return AutoModelForCausalLM
    masked = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in config.architectures or ())
    return AutoModelForMaskedLM if masked else AutoModel


def hub_answers() -> bool:
    """Whether the hub answers, by one request in place of the libraries' minute of retries."""
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # whatever its network stack raises, the answer is no
        return False
    return True


def _load_or_explain(load: Callable[..., _Loaded], name: str, source: str, **kwargs: Any) -> _Loaded:
    """Load ``name``; a UserError about ``source`` for whatever the libraries raise."""
    try:
        return _load_gguf(load, Path(name), source) if name.endswith(".gguf") else load(name, source, **kwargs)
    except (UserError, MemoryError):
        raise
    except Exception as e:  # transformers and tokenizers raise any kind of exception for a file that is odd
        if not Path(name).exists():
            raise UserError(
                f"{source}: the hub does not answer or has no such model with safetensors; "
                "check the id, or give a local folder or GGUF file"
            ) from e
        raise UserError(f"{source} cannot be loaded: {_reason(e)}") from e


def _reason(error: Exception) -> str:
    """What a library's exception says, in one line."""
    said = " ".join(str(error).split())
    if "trust_remote_code" in said:
        return "its architecture is code of its own, which prge never runs"
    return (said[:300] + " ...") if len(said) > 300 else said or type(error).__name__


def _outline(name: str, source: str, *, use_safetensors: bool | None = True, **kwargs: Any) -> Outline:
    config = AutoConfig.from_pretrained(name, trust_remote_code=False, **kwargs)
    _check_family(config, source)
    plain_weights(config, source)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **kwargs)
    generation = None
    with contextlib.suppress(OSError):  # few have one
        generation = GenerationConfig.from_pretrained(name, **kwargs)
    return Outline(config, tokenizer, source, _ends(generation, config))


def _ends(*settings: Any) -> tuple[int, ...]:
    """The tokens that end a text, by a model's configurations; in rising order."""
    found: set[int] = set()
    for held in settings:
        ids = getattr(held, "eos_token_id", None)
        found.update(ids if isinstance(ids, list | tuple) else [] if ids is None else [ids])
    return tuple(sorted(found))


def _load(
    name: str, source: str, *, stored: bool = False, use_safetensors: bool | None = True, **kwargs: Any
) -> Checkpoint:
    config = AutoConfig.from_pretrained(name, trust_remote_code=False, **kwargs)
    _check_family(config, source)  # before the weights are read
    quantized = plain_weights(config, source)
    dtypes = stored_dtypes(name, **kwargs) if stored and not quantized else None
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **kwargs)

    def read_in(dtype: torch.dtype) -> tuple[Any, Mapping[str, Any]]:
        found: tuple[Any, Mapping[str, Any]] = _auto_class(config).from_pretrained(
            name, trust_remote_code=False, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True,
            use_safetensors=use_safetensors, **quantized, **kwargs,
        )  # fmt: skip
        return found

    model, info = read_in(dtypes.most if dtypes else torch.float32)
    if dtypes and put_others(model, dtypes.others, info["unexpected_keys"]):
        leave_stored(model)
    elif dtypes:
        model, info = read_in(torch.float32)
    _check_whole(model, info, source)
    ends = _ends(getattr(model, "generation_config", None), model.config)
    return Checkpoint(model.config, tokenizer, source, ends, model.eval())


def _check_whole(model: Any, info: Mapping[str, Any], source: str) -> None:
    """Refuse a model of which some weights were not in the checkpoint, and so are random.

    Args:
        info: what transformers tells of the loading.
    """
    for name, found, wanted in info["mismatched_keys"]:
        raise UserError(
            f"{source}: {name} is {_shape(found)} in its weights and {_shape(wanted)} by its configuration; "
            "the two are of different models, or config.json was not saved after the vocabulary changed"
        )
    missing = sorted(info["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None  # it would hold random numbers, and nothing reads it
    elif missing:
        raise UserError(
            f"{source} lacks weights that its architecture has: {', '.join(missing[:3])}, {len(missing)} in all"
        )


def _shape(sizes: Sequence[int]) -> str:
    return " x ".join(str(size) for size in sizes)


def _load_gguf(load: Callable[..., _Loaded], file: Path, source: str) -> _Loaded:
    """Load the Hugging Face checkpoint that is made of a GGUF file, and kept for the next call."""
    parts = gguf_parts(file)
    folder = kept_checkpoint(parts)
    if folder.is_dir():
        return load(str(folder), source)
    config = gguf_config(parts)
    _check_family(config, source)
    try:
        with new_folder(folder) as made:
            convert(parts, config, made)
            loaded = load(str(made), source)
    except (OSError, SafetensorError, UserError) as e:
        cause = e.__cause__ if isinstance(e, UserError) else e
        full = isinstance(cause, SafetensorError) or (isinstance(cause, OSError) and cause.errno)
        if not full:  # of a file that is odd; transformers raises errors of the system too, without a number
            raise
        raise UserError(
            f"what {file} holds cannot be kept in {cache_folder()} ({getattr(cause, 'strerror', None) or cause}): "
            "make room, or set PRGE_CACHE to another folder"
        ) from e
    finally:
        with contextlib.suppress(OSError):  # of a file that is refused nothing stays; else it is not empty
            cache_folder().rmdir()
    return loaded
