"""Tiny random models with a tokenizer, and programs exported from them once per session."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from once import made_once
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from prge.cli import app as cli
from prge.commands.first_run import remember
from prge.examples.read import read_records
from prge.export.config import ExportConfig
from prge.export.program import export_program
from prge.manifest import GENERATE_FILE, PROGRAM_FILE
from prge.models.adapter import AdapterConfig
from prge.models.checkpoints import load_checkpoint
from prge.models.step import StepConfig
from prge.quiet import quiet

# For the workers, which start after this is read, and their processes: as many of them as cores, each with as many
# OpenMP threads, wait for each other more than they compute. The runtime's own threads are as they are.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TEMPLATE = "{text} Reply"
LABELS = (("today", " today"), ("later", " later"))
VOCABULARY = 600


@pytest.fixture(scope="session")
def demo_data() -> Path:
    with resources.as_file(resources.files("prge.demo")) as folder:
        return folder


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, demo_data: Path) -> Path:
    """A byte-level BPE tokenizer, trained on the demo's messages."""

    def make(folder: Path) -> None:
        tokenizer = trained_tokenizer(demo_data, ["<end>"])
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)

    return made_once(tmp_path_factory, "tokenizer", make)


@pytest.fixture(scope="session")
def encoder_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, demo_data: Path) -> Path:
    """The same with an encoder's special tokens around every text, and settings for padding as MiniLM has them."""

    def make(folder: Path) -> None:
        tokenizer = trained_tokenizer(demo_data, ["<cls>", "<pad>", "<sep>", "<mask>"])
        tokenizer.post_processor = processors.BertProcessing(("<sep>", 2), ("<cls>", 0))
        tokenizer.enable_padding(length=50, pad_id=1, pad_token="<pad>")
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", cls_token="<cls>", sep_token="<sep>", mask_token="<mask>"
        ).save_pretrained(folder)

    return made_once(tmp_path_factory, "encoder-tokenizer", make)


def trained_tokenizer(demo_data: Path, special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = (demo_data / "train.tsv").read_text().splitlines()
    tokenizer.train_from_iterator([line.replace("\t", " ") for line in lines], trainer)
    return tokenizer


def randomized(model: Any) -> Any:
    """Biases and norms too, which transformers makes 0 and 1: a dropped one must show."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def tiny_config(**changes: Any) -> LlamaConfig:
    """A Llama of two layers, with grouped queries and a tied head unless changed."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
    }
    return LlamaConfig(**settings | changes)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, tokenizer_folder: Path) -> Callable[[Any], Path]:
    """config -> a checkpoint folder of that shape with random weights and the tokenizer."""

    def make(config: Any, auto: Any = AutoModelForCausalLM, tokenizer: Path = tokenizer_folder) -> Path:
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        randomized(auto.from_config(config)).save_pretrained(folder)
        for file in tokenizer.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_model(make_model: Callable[[Any], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "tiny-model", make_model(tiny_config()).rename)


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, demo_data: Path) -> Callable[..., Path]:
    """Export with changed settings; equal models and settings share one folder."""
    texts = [record for _, record in read_records(demo_data / "train.tsv")]

    def run(
        model: Path = tiny_model, step: StepConfig | None = None, adapter: AdapterConfig | None = None, **changes: Any
    ) -> Path:
        settings: dict[str, Any] = {
            "template": TEMPLATE,
            "label_words": LABELS,
            "max_tokens": 40,
            "adapter": adapter or AdapterConfig(rank=4, alpha=8.0, subspace="fisher", directions=3),
            "step": step or StepConfig(queries=2, batch=2),
        }
        config = ExportConfig(**settings | changes)
        records = texts if config.adapter.subspace == "fisher" else []

        def make(folder: Path) -> None:
            with quiet():
                checkpoint = load_checkpoint(str(model), stored=config.quantization != "f32")
                export_program(checkpoint, config, folder, records=records)
            for file in (PROGRAM_FILE, GENERATE_FILE):
                if (folder / file).exists():
                    remember(folder / file)  # else each command would run it once in a process of its own

        key = hashlib.sha256(repr(config).encode())
        for file in sorted(model.iterdir()):
            key.update(file.read_bytes())
        return made_once(tmp_path_factory, f"program-{key.hexdigest()[:16]}", make)

    return run


@pytest.fixture(scope="session")
def program_folder(export: Callable[..., Path]) -> Path:
    """The program that most tests drive: q = 2, B = 2, f32, T up to 40, perturbed activations, Adam."""
    return export()


@pytest.fixture(scope="session")
def weights_program(export: Callable[..., Path]) -> Path:
    """The same with perturbed weights and SGD: the paper's step."""
    return export(step=StepConfig(2, 2, "weights", "sgd"))


def not_json(word: str) -> None:
    """Python's parser takes NaN and Infinity; JSON has none."""
    raise ValueError(f"{word} is not JSON")


@pytest.fixture
def prge(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Any]]:
    """Run a command with --json: (exit code, what it printed)."""

    def run(*arguments: object) -> tuple[int, Any]:
        monkeypatch.setattr("sys.argv", ["prge", *map(str, arguments), "--json"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        code = stop.value.code
        printed = capsys.readouterr().out
        return (int(code or 0), json.loads(printed, parse_constant=not_json) if printed else None)

    return run
