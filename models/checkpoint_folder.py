"""Folders that hold no whole checkpoint: what each lacks, found before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from prge.errors import UserError
from prge.files.bounded import SETTINGS, read_bounded
from prge.files.folders import refuse_run
from prge.files.typed import parse_json
from prge.lora import CONFIG_FILE as ADAPTER_CONFIG_FILE
from prge.manifest import PROGRAM_FILE
from prge.shell import word

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Of transformers' tokenizers, fast or not.
_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
    "tekken.json",
)  # fmt: skip
_LFS = b"version https://git-lfs"


def check_folder(path: Path) -> None:
    """Refuse a folder without a model's configuration.

    Raises:
        UserError: saying what the folder lacks, or what it is instead.
    """
    file = path / "config.json"
    if (path / PROGRAM_FILE).is_file() and not file.is_file():
        raise UserError(f"{path} is a program, not a model; `prge train {path} --data FILE` trains it as it is")
    if (path / ADAPTER_CONFIG_FILE).is_file():  # transformers would load the adapter's base in its place
        raise UserError(f"{path} is a PEFT adapter, not a model; export its base model with --adapter {path}")
    if not file.is_file():
        inside = sorted(path.glob("*.gguf"))
        hint = f"; its GGUF file is a model: give {word(inside[0])}" if inside else ""
        raise UserError(f"{path} holds no config.json; a Hugging Face checkpoint folder was expected{hint}")
    try:
        parse_json(read_bounded(file, SETTINGS))
    except ValueError as e:
        raise UserError(f"{file} cannot be read: {e}") from e
    refuse_run(path, "a model")


def check_files(path: Path, allow_pickle: bool) -> None:
    """Refuse a checkpoint folder whose tokenizer or weights are not all there.

    Raises:
        UserError: naming the file that is missing, damaged or pickled.
    """
    if not any((path / name).is_file() for name in _TOKENIZERS):
        raise UserError(f"{path} holds no tokenizer; copy tokenizer.json there, from the model that it was made of")
    if (path / _WHOLE).is_file():
        _check_file(path / _WHOLE)
    elif (path / _INDEX).is_file():
        names = _indexed(path / _INDEX)
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise UserError(
                f"{path} lacks {missing[0]}, {len(missing)} of the {len(names)} files of its weights: fetch it again"
            )
        for name in names:
            _check_file(path / name)
    elif list(path.glob("*.bin")) + list(path.glob("*.pt")) + list(path.glob("*.pth")):
        if not allow_pickle:
            raise UserError(f"{path} holds pickled weights alone (.bin); if you trust them, add --allow-pickle")
        if not list(path.glob("pytorch_model*.bin")):
            raise UserError(f"{path} holds no pytorch_model.bin, as which transformers reads pickled weights")
    else:
        other = sorted(path.glob("*.safetensors"))
        hint = f": {other[0].name} is not all of them" if other else ""
        raise UserError(f"{path} holds no weights (neither {_WHOLE} nor {_INDEX}){hint}; fetch the whole folder again")


def _indexed(index: Path) -> list[str]:
    """The files that an index of weights names."""
    try:
        names = set(parse_json(read_bounded(index, SETTINGS))["weight_map"].values())
        return sorted(Path(str(name)).name for name in names)
    except (ValueError, LookupError, TypeError, AttributeError) as e:
        raise UserError(f"{index} cannot be read: {e!r}") from e


def _check_file(file: Path) -> None:
    """Refuse a safetensors file that is not whole; its header alone is read."""
    try:
        with file.open("rb") as f:
            pointer = f.read(len(_LFS)) == _LFS
        if not pointer:
            with safe_open(file, "pt"):
                return
    except (OSError, SafetensorError) as e:
        raise UserError(f"{file} is damaged, or was not fetched whole ({e}): fetch it again") from e
    raise UserError(f"{file} is a pointer of Git LFS, not the weights: `git lfs pull` in {file.parent} fetches them")
