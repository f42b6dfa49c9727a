"""What the Kotlin driver makes of files of examples, and of a manifest, is what Python makes of them, or a sentence."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from edits import byte_edits
from golden.tokens import MANIFESTS, described
from hypothesis import given
from hypothesis import strategies as st
from kotlin import Kotlin
from test_chat import MESSAGES
from test_kotlin_tokenizer import DATA, HARMED
from test_kotlin_tokenizer import folder as folder
from test_kotlin_tokenizer import kotlin as kotlin

from prge.errors import UserError
from prge.examples.tasks import TASKS
from prge.manifest import Label, Manifest
from prge.runtime_driver.data.encoder import Encoder
from prge.runtime_driver.data.source import Source
from prge.runtime_driver.program.card import card


def of_task(name: str) -> Manifest:
    task = TASKS[name]
    labels = tuple(Label(label, word, 5 + i) for i, (label, word) in enumerate(task.labels))
    return replace(MANIFESTS["classification"], task=name, template=task.template, labels=labels, max_tokens=200)


NEWS = tuple(Label(name, name, 5 + i) for i, name in enumerate(("World", "Sports", "Business", "Sci/Tech")))
FILES = {f"{name}/dev.tsv": of_task(name) for name in ("sst2", "rte", "mrpc", "qnli", "wnli")}
FILES |= {f"{name}/dev.jsonl": of_task(name) for name in ("boolq", "wic", "cb")}
FILES["ag_news/dev.csv"] = replace(
    MANIFESTS["classification"], template="{title}: {description}", label_column="class", labels=NEWS
)
FILES["self-instruct-chat/dev.jsonl"] = replace(MANIFESTS["chat"], max_tokens=200)


@pytest.mark.parametrize("name", FILES)
def test_real_files_become_the_same_examples(kotlin: Kotlin, folder: Path, name: str) -> None:
    """Divided as `prge train` divides them, or refused with the same words."""
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not at hand")
    for truncate in (True, False):
        asked = {"manifest": FILES[name].to_json(), "folder": str(folder), "truncate": truncate}
        encoder = Encoder(FILES[name], folder / "tokenizer.json", truncate=truncate)
        try:
            train, dev, dropped = Source(str(DATA / name), seed=7).read(encoder)
            expected: Any = [[*map(described, train)], [*map(described, dev)], dropped]
        except UserError as e:
            expected = str(e)
        assert kotlin.ask(divided=str(DATA / name), seed=7, **asked) == expected


def test_rare_classes_and_empty_cells_are_divided_alike(kotlin: Kotlin, folder: Path, tmp_path: Path) -> None:
    """Each class on both sides, lines of the prompt without text left out, and rows that lack something."""
    names = [label.name for label in MANIFESTS["classification"].labels]
    manifest = replace(MANIFESTS["classification"], template="{text}\n{more of it} so", max_tokens=200)
    rows = [
        {
            "text": "" if i == 8 else f"It was {i}",
            "more of it": None if i % 3 else f"and {i}",
            "label": names[i % 20 == 7],
        }
        for i in range(40)
    ]
    rows[3]["label"], rows[5]["text"], rows[6]["text"] = None, " ", "It was 9"
    del rows[10]["more of it"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for seed in range(4):
        asked = {"manifest": manifest.to_json(), "folder": str(folder), "truncate": False}
        encoder = Encoder(manifest, folder / "tokenizer.json")
        train, dev, dropped = Source(str(path), seed=seed, dev_fraction=0.2).read(encoder)
        assert {e.label for e in train} == {e.label for e in dev} == {0, 1} and encoder.skipped == 2
        assert kotlin.ask(divided=str(path), seed=seed, **asked) == [
            [*map(described, train)],
            [*map(described, dev)],
            dropped,
        ]


SPAM = replace(
    MANIFESTS["classification"], max_tokens=200, labels=(Label("Spam", "a", 5), Label("not spam", "b", 6))
)  # fmt: skip
ALPACA = replace(MANIFESTS["text"], template="{instruction}\n{input}\nAnswer:", target=" {output}", max_tokens=200)
COMPLETION = replace(MANIFESTS["text"], template="{prompt}", target=" {completion}", max_tokens=200)
TALK = replace(MANIFESTS["chat"], max_tokens=200)
# Classes that are learned as text: the commonest spelling is taken.
INTENT = replace(MANIFESTS["text"], template="{text}\nHis intent:", target=" {his_intent}", max_tokens=200)
SPELLED = [
    {"text": f"film {i}", "his_intent": name}
    for i, name in enumerate(
        [*["order", "Order ", "refund", "REFUND", "refund"] * 20, "odd one", "null", " order", None]
    )
]
STARS = replace(MANIFESTS["classification"], max_tokens=200, labels=(Label("0", "a", 5), Label("1", "b", 6)))
TAGS = replace(MANIFESTS["text"], template="{text}\nTags:", target=" {tags}", max_tokens=200)
CELLS = [('It was, so; "good" | 1', "Spam"), ("naïve café, the film", "not spam"), ("a", "Spam"), ("he", "not spam")]


ROWS_OF_JSON = [{"text": text, "label": label} for text, label in CELLS]


def quoted(separator: str, rows: list[tuple[str, str]], begin: str = "text{}label\n") -> str:
    cells = [[f'"{c.replace(chr(34), 2 * chr(34))}"' if '"' in c or separator in c else c for c in row] for row in rows]
    return begin.format(separator) + "".join(separator.join(row) + "\n" for row in cells)


PLAIN_TSV = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in CELLS)
TURNS = [{"from": "system", "value": "so"}, {"from": "human", "value": "good?"}, {"from": "gpt", "value": "great"}]
ASKED, SAID = [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "so good"}]
MANY = [(f"film {i}", ("Spam", "not spam")[i % 2]) for i in range(40)]
TAUGHT = {"instruction": "Add", "input": "1 and 2", "output": "3"}
WITHOUT = {"instruction": "so", "output": "a film"}

# name of a file -> (the program that takes it, its bytes)
FORMS: dict[str, tuple[Manifest, bytes]] = {
    "semicolons.csv": (SPAM, quoted(";", CELLS).encode()),
    "bars.csv": (SPAM, quoted("|", CELLS).encode()),
    "tabs.csv": (SPAM, PLAIN_TSV.encode()),
    "commas.tsv": (SPAM, quoted(",", CELLS).encode()),
    "excel.csv": (SPAM, quoted(";", CELLS, "sep=;\ntext{}label\n").encode()),
    "an id.csv": (SPAM, quoted(",", MANY, "id{0}text{0}label\n").replace("film", "7,film").encode()),
    "text in the second column.tsv": (SPAM, "".join(f"{label}\t{text}\n" for text, label in MANY).encode()),
    "no header.tsv": (SPAM, PLAIN_TSV.partition("\n")[2].encode()),
    "no header.csv": (SPAM, b"It was so so so so,Spam\ngood,not spam\na,Spam\n"),
    "a mark.csv": (SPAM, codecs.BOM_UTF8 + quoted(",", CELLS).encode()),
    "utf-16.csv": (SPAM, quoted(";", CELLS).encode("utf-16")),
    "utf-16 of the other end.tsv": (SPAM, codecs.BOM_UTF16_BE + PLAIN_TSV.encode("utf-16-be")),
    "utf-16 without a mark.tsv": (SPAM, PLAIN_TSV.replace("ï", "i").encode("utf-16-le")),
    "windows.csv": (SPAM, quoted(";", [*CELLS, ("\u201cso\u201d \u2013 it\u2019s 5 \u20ac", "Spam")]).encode("cp1252")),
    "old line ends.csv": (SPAM, quoted(",", CELLS).replace("\n", "\r").encode()),
    "json.csv": (SPAM, json.dumps(ROWS_OF_JSON).encode()),
    "a list.jsonl": (SPAM, json.dumps(ROWS_OF_JSON, indent=1).encode()),
    "lines.json": (SPAM, "".join(json.dumps(row) + "\n" for row in ROWS_OF_JSON).encode()),
    "long lines.json": (SPAM, ",\n".join(json.dumps(row, indent=1) for row in ROWS_OF_JSON).encode()),
    "wrapped.json": (SPAM, json.dumps({"version": 1, "data": ROWS_OF_JSON}).encode()),
    "pandas.json": (SPAM, json.dumps({"text": {"0": "a", "1": "he"}, "label": {"0": "Spam", "1": "Spam"}}).encode()),
    "any case.csv": (SPAM, quoted(",", [("a", " spam "), ("he", "NOT  Spam"), ("so", "Spam")]).encode()),
    "a mistake.csv": (SPAM, quoted(",", [*MANY, ("so", "spamm"), ("and", "N/A"), ("not", "")]).encode()),
    "text in any case.jsonl": (INTENT, "".join(json.dumps(row) + "\n" for row in SPELLED).encode()),
    "pandas numbers.csv": (STARS, quoted(",", [("a", "1"), ("he", "1.0"), ("so", "0.0 "), ("not", "")]).encode()),
    "lists.jsonl": (COMPLETION, b'{"prompt": "he", "completion": ["so", 7]}\n{"prompt": "a", "completion": []}\n'),
    "lists of labels.jsonl": (TAGS, b'{"text": "he", "tags": ["so", 7, 1.50, true]}\n{"text": "a", "tags": "so"}\n'),
    "alpaca.json": (ALPACA, json.dumps([TAUGHT, WITHOUT, {**TAUGHT, "output": ""}]).encode()),
    "alpaca.csv": (ALPACA, b"instruction;input;output\nAdd;1 and 2;3\nso;;a film\n"),
    "completion.jsonl": (COMPLETION, b'{"prompt": "he", "completion": "so"}\n{"prompt": "a", "completion": 7}\n'),
    "paragraphs.txt": (replace(MANIFESTS["plain text"], max_tokens=90), "It was\ngood.\n\nso é\n".encode("cp1252")),
    "sharegpt.json": (TALK, json.dumps([{"id": "x", "conversations": TURNS}]).encode()),
    "sharegpt.csv": (TALK, quoted(";", [(json.dumps(TURNS), "x")], "conversations{}id\n").encode()),
    "a system.jsonl": (TALK, json.dumps({"system": "so", "conversation": TURNS[1:]}).encode()),
    "pairs of messages.jsonl": (TALK, json.dumps({"prompt": ASKED, "completion": SAID}).encode()),
    "preference.jsonl": (TALK, json.dumps({"chosen": ASKED + SAID, "rejected": ASKED + SAID}).encode()),
    "history.json": (TALK, json.dumps([{**TAUGHT, "history": [["he", "she"], ["a", "the"]]}]).encode()),
    "null.jsonl": (TALK, json.dumps({"messages": [*MESSAGES[1:3], {**ASKED[0], "content": None}, *SAID]}).encode()),
}  # fmt: skip


TOLD = (
    "any case.csv", "a mistake.csv", "alpaca.json", "text in any case.jsonl", "pandas numbers.csv", "lists.jsonl",
)  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_everyday_files_become_the_same_examples(kotlin: Kotlin, folder: Path, tmp_path: Path, name: str) -> None:
    """And what is left out, or read otherwise, is told in the same words."""
    manifest, content = FORMS[name]
    path = tmp_path / name
    path.write_bytes(content)
    asked = {"manifest": manifest.to_json(), "folder": str(folder), "truncate": True}
    encoder = Encoder(manifest, folder / "tokenizer.json", truncate=True)
    expected = [*map(described, encoder.examples(path))]
    assert expected and kotlin.ask(examples=str(path), **asked) == expected
    assert kotlin.ask(told=str(path), **asked) == encoder.told
    assert bool(encoder.told) == (name in TOLD)


REFUSED: dict[str, tuple[Manifest, bytes, str]] = {
    "a.parquet": (SPAM, b"PAR1", "`prge pack PROGRAM --data a.parquet -o data.prge` makes a file of it"),
    "a.csv.gz": (SPAM, b"\x1f\x8b", "`prge pack PROGRAM --data a.csv.gz -o data.prge` makes a file of it"),
    "russian.csv": (SPAM, b"text,label\n\xef\xf0\xe8\xe2\xe5\xf2,Spam\n", "save it as UTF-8"),
    "cut.csv": (SPAM, PLAIN_TSV.encode("utf-16")[:-1], "save it as UTF-8"),
    "three.tsv": (SPAM, b"so\ta\tSpam\nhe\tthe\tSpam\n", "put a line with the columns' names first, as text, label"),
    "twice.csv": (SPAM, b"text,label,text\na,Spam,b\n", "two columns are called 'text'"),
    "several.json": (SPAM, b'{"train": [{"text": "a"}], "dev": [{"text": "b"}]}', "holds several lists (train, dev)"),
    "stranger.csv": (SPAM, quoted(",", [("a", "Spam"), ("he", "maybe")]).encode(), "line 3: unknown label 'maybe'"),
    "none.csv": (SPAM, b"text,label\na,\n,Spam\n", "nothing is left to learn from: left out for having no label: "),
    "role.jsonl": (TALK, b'{"messages": [{"role": "boss", "content": "a"}]}', "role 'boss' is none of"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_with_what_to_do(kotlin: Kotlin, folder: Path, tmp_path: Path, name: str) -> None:
    manifest, content, sentence = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    error = kotlin.ask(examples=str(path), manifest=manifest.to_json(), folder=str(folder), truncate=True)
    assert isinstance(error, str) and error.startswith(str(path)) and sentence in error


def test_tokens_beyond_the_embedding_are_refused_by_their_text(kotlin: Kotlin, folder: Path, tmp_path: Path) -> None:
    """A tokenizer may know more tokens than the model has embeddings of."""
    path = tmp_path / "a.csv"
    path.write_text("text,label\nhe,0\nso good,1\n")
    known = Encoder(MANIFESTS["classification"], folder / "tokenizer.json").examples(path)
    most = max(max(e.tokens) for e in known)
    for rows in (most, most + 1):
        architecture = replace(MANIFESTS["classification"].architecture, vocabulary=rows)
        manifest = replace(MANIFESTS["classification"], architecture=architecture)
        found = kotlin.ask(examples=str(path), manifest=manifest.to_json(), folder=str(folder), truncate=True)
        if rows > most:
            assert found == [*map(described, known)]
        else:
            with pytest.raises(
                UserError, match=f"a.csv, line [23]: the tokenizer makes '.*' the token {most}, "
            ) as refused:
                Encoder(manifest, folder / "tokenizer.json").examples(path)
            assert found == str(refused.value)


# Files that are damaged, beside those above.
ROWS = FORMS | {
    "a.jsonl": (
        MANIFESTS["classification"],
        b'{"text": "one, \\"1\\" \\u00e9", "label": 0}\n\n{"text": 1.50, "label": true}\n',
    ),
    "a.csv": (MANIFESTS["classification"], 'text,label\n"one, ""1""\nmore",0\r\ntwo\u2028é,1\n'.encode()),
    "a.tsv": (MANIFESTS["classification"], 'text\tlabel\none, "1"\t0\r\ntwo\u00a0\t1\n'.encode()),
    "a.txt": (MANIFESTS["plain text"], "The film was\nnot good.\n\n\x0c Second\u2028third\n \nfourth\n".encode()),
    "b.jsonl": (MANIFESTS["choices"], b'{"premise": "It", "choices": ["he", "she was"], "label": 1}\n'),
    "c.jsonl": (MANIFESTS["chat"], json.dumps({"messages": MESSAGES}).encode()),
}


@given(st.sampled_from(sorted(ROWS)), byte_edits())
@HARMED
def test_damaged_data_become_the_same_examples_or_a_sentence(
    kotlin: Kotlin, folder: Path, tmp_path: Path, name: str, edit: Callable[[bytes], bytes]
) -> None:
    """Either side may refuse what the other takes: a device knows fewer roles, and Python is stricter about JSON."""
    manifest, content = ROWS[name]
    path = tmp_path / name
    path.write_bytes(edit(content))
    found = kotlin.ask(examples=str(path), manifest=manifest.to_json(), folder=str(folder), truncate=True)
    try:
        examples = Encoder(manifest, folder / "tokenizer.json", truncate=True).examples(path)
    except UserError:
        return
    assert found == [*map(described, examples)] or (isinstance(found, str) and str(path) in found)


def test_a_card_has_python_s_words(kotlin: Kotlin) -> None:
    """Of every kind of model and data, from a base on the hub or in a folder, with an alpha of any size."""
    bases = ("owner/tiny-1b", 'owner/naïve "1b"', "/tiny", "./tiny-1b/", "../../tiny", "C:", "/home/me/tiny", "~/tiny")
    alphas = (16.0, 0.5, 1e-5, 123456.75, 999999.5, 1234567.0, 2e-4 / 3)
    kinds = (("CAUSAL_LM", ""), (None, "text"), ("SEQ_CLS", "choices"))
    for manifest in MANIFESTS.values():
        for i, base in enumerate(bases):
            task, column = kinds[i % 3]
            adapter = replace(manifest.adapter, alpha=alphas[i % 7], task_type=task)
            m = replace(manifest, model=base, adapter=adapter, label_column=column or "label")
            assert kotlin.ask(card=m.to_json()) == [card(m)]
