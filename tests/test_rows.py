"""The rows that give the fisher directions are those that the driver trains on, for every form and kind of model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import LABELS, TEMPLATE, tiny_config
from test_chat import MESSAGES, PLAIN
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.form import Form
from prge.examples.read import Record, read_records
from prge.export import program as exporter
from prge.export.config import ExportConfig
from prge.export.prompts import text_rows
from prge.manifest import TOKENIZER_FILE, Manifest
from prge.models.adapter import AdapterConfig
from prge.models.build import fisher_factors
from prge.models.checkpoints import load_checkpoint
from prge.models.step import StepConfig
from prge.models.subspace import Row
from prge.quiet import quiet
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.encoder import Encoder

BERT = {
    "vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 256, "type_vocab_size": 1,
}  # fmt: skip
CHOICES = {"question": "Is it urgent?", "choices": ["no hurry", "call me back now", "later"], "label": "B"}

# form -> (model, what the export is told of the form)
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "label words": ("causal", {"template": TEMPLATE, "label_words": LABELS}),
    "label words, cut": ("causal", {"template": TEMPLATE, "label_words": LABELS, "max_tokens": 8}),
    "at the mask": ("masked", {"template": "{text} so {mask}", "label_words": LABELS}),
    "at the mask, cut": ("masked", {"template": "{text} so {mask}", "label_words": LABELS, "max_tokens": 9}),
    "at the first token": ("plain", {"template": "{text}", "label_words": LABELS}),
    "text to text": ("causal", {"template": "{label}:", "target": " {text}"}),
    "windows": ("causal", {"template": "{label}:", "target": " {text}", "max_targets": 5, "max_tokens": 11}),
    "plain text": ("causal", {"template": "", "target": "{text}", "max_targets": 12}),
    "plain text after special tokens": ("special", {"template": "", "target": "{text}", "max_targets": 12}),
    "choices": (
        "causal",
        {"template": "{question}\nAnswer:", "target": " {choice}", "choices": "choices", "label_column": "label"},
    ),
    "chat": ("special", {"template": "{prompt}", "target": "{answer}", "chat_template": PLAIN, "max_tokens": 200}),
}


@pytest.fixture(scope="module")
def models(make_model: Callable[..., Path], tiny_model: Path, encoder_tokenizer_folder: Path) -> Callable[[str], Path]:
    """A model by its kind; ``special`` is a causal one whose tokenizer puts special tokens around every text."""
    bert = AutoConfig.for_model("bert", **BERT)
    made = {
        "causal": tiny_model,
        "masked": make_model(bert, AutoModelForMaskedLM, encoder_tokenizer_folder),
        "plain": make_model(bert, AutoModel, encoder_tokenizer_folder),
        "special": make_model(tiny_config(), tokenizer=encoder_tokenizer_folder),
    }
    return made.__getitem__


def config_of(settings: dict[str, Any]) -> ExportConfig:
    adapter = AdapterConfig(rank=2, subspace="fisher", directions=2)
    return ExportConfig(adapter, StepConfig(2, 2), **{"max_tokens": 40, "max_targets": 32, **settings})


class _Done(Exception):
    pass


def exported(
    model: Path, config: ExportConfig, records: Sequence[Record], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Row], Encoder]:
    """(the rows that `export_program` takes directions from, the encoder of the program that it would write)."""
    seen: list[Row] = []

    def watch(*arguments: Any) -> Any:
        seen.extend(arguments[3])
        return fisher_factors(*arguments)

    def stop(file: Path, *arguments: Any) -> None:
        (constants,) = (each for each in arguments if isinstance(each, dict))
        (folder / "manifest.json").write_text(constants["manifest"])
        (folder / TOKENIZER_FILE).write_bytes((file.parent / TOKENIZER_FILE).read_bytes())
        raise _Done

    monkeypatch.setattr(exporter, "fisher_factors", watch)
    monkeypatch.setattr(exporter, "write_program", stop)
    with pytest.raises(_Done), quiet():
        exporter.export_program(load_checkpoint(str(model)), config, folder / "out", records=records)
    manifest = Manifest.from_json((folder / "manifest.json").read_text(), "it")
    return seen, Encoder(manifest, folder / TOKENIZER_FILE, truncate=True)


def rows_of(encoder: Encoder, data: Path) -> list[Row]:
    """The driver's rows of a file, and the positions that its targets ask for."""
    rows = []
    for example in encoder.examples(data):
        tokens, (position, *rest) = collate([example], encoder.manifest)
        count = int(rest[1].count_nonzero()) if len(rest) == 2 else 1
        positions = tuple(position[0, :count].tolist())
        if len(rest) == 2:
            assert rest[0][0, :count].tolist() == [int(tokens[0, p + 1]) for p in positions]
        rows.append(Row(example.tokens, positions))
    return rows


def written(name: str, folder: Path, demo_data: Path) -> Path:
    """A file of the form's kind, with its labels."""
    path = folder / "data.jsonl"
    rows = [record for _, record in read_records(demo_data / "train.tsv")][:6]
    if name == "choices":
        rows = [{**CHOICES, "question": row["text"], "label": "ABC"[i % 3]} for i, row in enumerate(rows)]
    elif name == "chat":
        rows = [{"messages": MESSAGES}, {"messages": MESSAGES[1:3]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", FORMS)
def test_directions_come_from_the_driver_s_rows(
    name: str, models: Callable[[str], Path], demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, settings = FORMS[name]
    config, data = config_of(settings), written(name, tmp_path, demo_data)
    chat = Chat(config.chat_template) if config.chat_template else None
    form = Form(config.template, config.label_words, config.label_column, config.target, config.choices, chat)
    records = [record for _, record in form.records(data)]
    found, encoder = exported(models(model), config, records, tmp_path, monkeypatch)
    assert len(found) >= len(records) > 1
    assert found == rows_of(encoder, data)


@pytest.mark.parametrize("name", ["label words", "at the mask", "at the first token"])
def test_texts_need_no_labels(name: str, models: Callable[[str], Path], demo_data: Path, tmp_path: Path) -> None:
    """Whatever stands in the label's column, or nothing."""
    model, settings = FORMS[name]
    checkpoint, config = load_checkpoint(str(models(model))), config_of(settings)
    labelled = [record for _, record in read_records(written(name, tmp_path, demo_data))]
    expected = text_rows(checkpoint, config, labelled)
    assert text_rows(checkpoint, config, [{"text": record["text"]} for record in labelled]) == expected
    assert text_rows(checkpoint, config, [{**record, "label": ["odd"]} for record in labelled]) == expected


def test_where_the_right_choice_is_unknown_every_choice_gives_a_row(models: Callable[[str], Path]) -> None:
    checkpoint, config = load_checkpoint(str(models("causal"))), config_of(FORMS["choices"][1])
    form = Form(config.template, target=config.target, choices="choices")
    record = {name: value for name, value in CHOICES.items() if name != "label"}
    found = text_rows(checkpoint, config, form.unfold(record, "here"))
    right = [text_rows(checkpoint, config, form.unfold({**CHOICES, "label": label}, "here"))[0] for label in "ABC"]
    assert found == right and len(set(found)) == 3


class _Counting(list[Record]):
    """Counts how many of its records are looked at."""

    seen = 0

    def __getitem__(self, index: Any) -> Any:
        self.seen += 1
        return super().__getitem__(index)


def test_at_most_64_texts_and_rows_are_taken(models: Callable[[str], Path], demo_data: Path) -> None:
    checkpoint = load_checkpoint(str(models("causal")))
    records = _Counting(record for _, record in read_records(demo_data / "train.tsv"))
    words = text_rows(checkpoint, config_of(FORMS["label words"][1]), records)
    assert 32 < len(words) <= 64 and records.seen == len(words)
    windows = text_rows(checkpoint, config_of(FORMS["windows"][1]), records)
    assert len(windows) == 64 and records.seen == 2 * len(words)
    assert windows == text_rows(checkpoint, config_of(FORMS["windows"][1]), records)
    label = checkpoint.driver_tokenizer.encode("later:").ids
    begun = [row for row in windows if list(row.tokens[: len(label)]) == label]
    assert len(begun) < 48  # later windows too


def test_odd_texts_are_refused_with_their_place(models: Callable[[str], Path]) -> None:
    checkpoint = load_checkpoint(str(models("causal")))
    plain = config_of(FORMS["plain text"][1])
    with pytest.raises(UserError, match="the texts hold nothing to learn"):
        text_rows(checkpoint, plain, [{"text": ""}, {"text": "a"}])
    assert len(text_rows(checkpoint, plain, [{"text": ""}, {"text": "call me"}])) == 1
    with pytest.raises(UserError, match="the texts, record 2: no column 'text'"):
        text_rows(checkpoint, plain, [{"text": "call me"}, {"body": "call me"}])
    with pytest.raises(UserError, match="the texts, record 1: column 'text' holds a list"):
        text_rows(checkpoint, plain, [{"text": ["call me"]}])


def test_texts_with_nothing_to_learn_are_counted(
    prge: Callable[..., tuple[int, Any]], export: Callable[..., Path], demo_data: Path, tmp_path: Path
) -> None:
    """Where the tokenizer adds no first token, a text of one token has nothing that it could be predicted from."""
    adapter = AdapterConfig(rank=4, subspace="svd")
    program = export(adapter=adapter, template="", label_words=(), target="{text}", max_targets=4)
    lines = [line.split("\t")[0] for line in (demo_data / "train.tsv").read_text().splitlines()[1:20]]
    data = tmp_path / "data.txt"
    data.write_text("\n\n".join([*lines[:9], "a", *lines[9:]]) + "\n")
    arguments = ["--data", data, "--truncate", "--steps", 1, "--lr", 0.01, "-o", tmp_path / "run"]
    code, found = prge("train", program, *arguments)
    assert code == 0 and found["skipped"] == "1 record that holds nothing to learn", found
