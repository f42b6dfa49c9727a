"""Small tokenizers, the manifests of programs that exist on paper only, and the token rows that they make."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prge.examples.chat import Chat
from prge.examples.chat_pieces import pieces
from prge.examples.rows import Example
from prge.manifest import AdaptedModule, Adapter, Architecture, Label, Manifest
from prge.runtime_driver.data.batches import collate
from prge.runtime_driver.data.encoder import Encoder

Files = dict[str, bytes]

# Words that are one token; the rest of a text is letters and bytes.
WORDS = (
    "the", "of", "film", "was", "It", "good", "great", "terrible", "Question", "Answer", "because", "so", "he", "she",
    "user", "assistant", "not", "and", "a",
)  # fmt: skip
CHAT = (
    "{{ bos_token }}{% for message in messages %}<start>{{ message['role'] }}\n{{ message['content'] }}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)


def compact(value: Any) -> bytes:
    """JSON without numbers that it does not know."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def lines(about: str, cases: list[dict[str, Any]]) -> bytes:
    """A vector's file: what it pins, and its cases, one a line."""
    rows = b",\n".join(compact(case).rstrip() for case in cases)
    return b'{"about":' + compact(about).rstrip() + b',\n"cases":[\n' + rows + b"\n]}\n"


def byte_level(begin: str = "") -> dict[str, Any]:
    """A byte-level BPE tokenizer; ``begin`` is a token that it puts before every text."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    special = ["<begin>", "<end>", "<start>"]
    vocabulary, merges = [*special, *(letters[b] for b in range(256))], []
    for word in (*(letters[32] + word for word in WORDS), *WORDS):
        for size in range(2, len(word) + 1):
            if word[:size] not in vocabulary:
                vocabulary.append(word[:size])
                merges.append([word[: size - 1], word[size - 1]])
    space = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = tokenizer_of(special, None, space, space)
    if begin:
        tokenizer["post_processor"] = between([begin], [], vocabulary)
    tokenizer["model"] = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
        "vocab": {token: i for i, token in enumerate(vocabulary)}, "merges": merges,
    }  # fmt: skip
    return tokenizer


def word_piece() -> dict[str, Any]:
    """A tokenizer like BERT's: lower case, without accents, pieces of words, special tokens around every text."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [word.lower() for word in WORDS if len(word) > 1]
    vocabulary = [*special, *letters, *(f"##{letter}" for letter in letters), *".,!?'-:", *words, "##ing", "##ly"]
    normalizer = {
        "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None,
        "lowercase": True,
    }  # fmt: skip
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    tokenizer = tokenizer_of(special, normalizer, {"type": "BertPreTokenizer"}, decoder)
    tokenizer["post_processor"] = between(["[CLS]"], ["[SEP]"], vocabulary)
    tokenizer["model"] = {
        "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
        "vocab": {token: i for i, token in enumerate(vocabulary)},
    }  # fmt: skip
    return tokenizer


def tokenizer_of(special: list[str], normalizer: Any, pre_tokenizer: Any, decoder: Any) -> dict[str, Any]:
    """A ``tokenizer.json`` but for its model."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": token} | plain for i, token in enumerate(special)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder,
    }  # fmt: skip


def between(before: list[str], behind: list[str], vocabulary: list[str]) -> dict[str, Any]:
    """A post-processor that puts special tokens around a text."""
    single = [{"SpecialToken": {"id": token, "type_id": 0}} for token in before]
    single += [{"Sequence": {"id": "A", "type_id": 0}}]
    single += [{"SpecialToken": {"id": token, "type_id": 0}} for token in behind]
    known = {t: {"id": t, "ids": [vocabulary.index(t)], "tokens": [t]} for t in before + behind}
    return {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": known}


TOKENIZERS = {
    name: json.dumps(made, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    for name, made in (("bpe", byte_level()), ("bpe-begin", byte_level("<begin>")), ("wordpiece", word_piece()))
}


def manifest(tokenizer: str, **changes: Any) -> Manifest:
    """A program's, of one adapted layer with 6 numbers; classification at the last token, Adam, unless changed."""
    module = AdaptedModule("model.layers.0.mlp.down_proj", 0, 8, 8, 0, (2, 3))
    vocabulary = json.loads(TOKENIZERS[tokenizer])["model"]["vocab"]
    base: dict[str, Any] = {
        "model": "golden", "model_sha256": "11" * 32, "quantization": "f32", "queries": 3, "batch": 2, "outer": True,
        "inner": True, "noise": "rademacher", "gradient": "activations", "optimizer": "adam", "betas": (0.9, 0.99),
        "min_tokens": 4, "max_tokens": 16, "objective": "label-words", "template": "{text} It was",
        "tokenizer_sha256": hashlib.sha256(TOKENIZERS[tokenizer]).hexdigest(),
        "pad_token": 0 if tokenizer == "wordpiece" else 1, "eps": 0.01, "lr": 0.001,
        "adapter": Adapter(2, 4.0, "fisher", (module,), sha256="22" * 32), "frozen_sha256": "33" * 32, "frozen_rows": 3,
        "architecture": Architecture(1, 8, 2, 2, 4, 256, 40, len(vocabulary), True),
    }  # fmt: skip
    if changes.get("objective", "label-words") == "label-words":
        words = ("terrible", "great") if tokenizer == "wordpiece" else ("Ġterrible", "Ġgreat")
        base["labels"] = tuple(Label(str(i), word, vocabulary[word]) for i, word in enumerate(words))
    base |= changes
    slots = {"sgd": 0, "momentum": 1, "adam": 2}[base["optimizer"]]
    made = Manifest(state_size=6 * (1 + slots), **base)
    return Manifest.from_json(made.to_json(), "the golden vectors")


TEXT: dict[str, Any] = {"objective": "language-modelling", "max_targets": 4, "stop_tokens": (1,)}  # <end>
HOST: dict[str, Any] = {"gradient": "weights", "optimizer": "sgd"}
MANIFESTS = {
    "classification": manifest("bpe"),
    "three classes": manifest(
        "bpe", template="{title}: {text}", label_column="topic",
        labels=tuple(Label(name, name, 3 + i) for i, name in enumerate(("sport", "art", "42"))),
    ),
    "mask": manifest("wordpiece", template="{text} It was {mask}.", answer_at="mask", mask_token=4),
    "first": manifest("wordpiece", template="{text}", answer_at="first"),
    "text": manifest("bpe", template="Question: {question}\nAnswer:", target=" {answer}", **TEXT),
    "plain text": manifest("bpe", template="", target="{text}", **TEXT),
    "plain text behind a token": manifest("bpe-begin", template="", target="{text}", **TEXT),
    "choices": manifest("bpe", template="{premise} because", target=" {choice}", choices="choices", **TEXT),
    "chat": manifest(
        "bpe", template="{prompt}", target="{answer}", chat_template=CHAT, special_tokens={"bos_token": "<begin>"},
        **TEXT | {"max_tokens": 40, "max_targets": 16},
    ),
    "all in one execution": manifest("bpe", **HOST),
    "queries on the host": manifest("bpe", **HOST, outer=False),
    "signs on the host": manifest("bpe", **HOST, inner=False),
    "both on the host": manifest("bpe", **HOST | {"optimizer": "momentum"}, outer=False, inner=False),
}  # fmt: skip

# (manifest, tokenizer, truncate, records)
LONG = "the film was not so good because he was not so good and she was great and the end of the film was terrible"
ROWS: list[tuple[str, str, bool, list[dict[str, Any]]]] = [
    ("classification", "bpe", False, [
        {"text": "the film", "label": "1"}, {"text": "so-so,  not  great", "label": "0"},
        {"text": "ça va 😀", "label": 1},
        {"text": "<end>\"{x}\"", "label": "0"}, {"text": "\t", "label": "0"},
    ]),
    ("classification", "bpe", True, [{"text": LONG, "label": "1"}, {"text": "good", "label": "0"}]),
    ("three classes", "bpe", False, [
        {"title": "It", "text": "good", "topic": "art"}, {"title": "he", "text": "a", "topic": 42},
        {"title": "she", "text": "{title}", "topic": "sport"},
    ]),
    ("mask", "wordpiece", True, [
        {"text": "The FILM", "label": "1"}, {"text": "Ça va? [UNK] 漢字", "label": "0"}, {"text": LONG, "label": "0"},
    ]),
    ("first", "wordpiece", True, [{"text": "notably", "label": "1"}, {"text": LONG, "label": "0"}]),
    ("text", "bpe", True, [
        {"question": "who?", "answer": "she"}, {"question": LONG, "answer": "the film"},
        {"question": "so?", "answer": "because it was great and so on"}, {"question": LONG, "answer": LONG[:60]},
    ]),
    ("plain text", "bpe", False, [{"text": "the film was"}, {"text": LONG[:70]}]),
    ("plain text behind a token", "bpe-begin", False, [{"text": "the"}, {"text": LONG[:70]}]),
    ("choices", "bpe", False, [
        {"premise": "It was good", "choices": ["he", "she was great"], "label": 1},
        {"premise": "he", "choices": ["so", "not", "the"], "label": "A"},
        {"premise": "she", "choices": ["the film", "a"], "label": "a"},
    ]),
    ("choices", "bpe", True, [{"premise": LONG, "choices": ["a", "the film"], "label": "0"}]),
    ("chat", "bpe", False, [
        {"messages": [{"role": "user", "content": "good?"}, {"role": "assistant", "content": "great"}]},
        {"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "so"},
            {"role": "user", "content": "the"}, {"role": "assistant", "content": "not so good"},
        ]},
    ]),
]  # fmt: skip


def described(e: Example) -> dict[str, Any]:
    """An example as the vectors have it."""
    found: dict[str, Any] = {"label": e.label, "targets": e.targets, "tokens": list(e.tokens)}
    return found | ({"candidates": [described(row) for row in e.candidates]} if e.candidates else {})


def read(found: dict[str, Any]) -> Example:
    """An example that `described` gave."""
    candidates = tuple(read(row) for row in found.get("candidates", ()))
    return Example(tuple(found["tokens"]), found["label"], found["targets"], candidates)


def row_case(name: str, tokenizer: str, truncate: bool, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The examples that records make, and all their rows as the program takes them."""
    m = MANIFESTS[name]
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "tokenizer.json").write_bytes(TOKENIZERS[tokenizer])
        (Path(scratch) / "data.jsonl").write_bytes(b"".join(map(compact, records)))
        encoder = Encoder(m, Path(scratch) / "tokenizer.json", truncate=truncate)
        examples = encoder.examples(Path(scratch) / "data.jsonl")
    tokens, targets = collate([row for e in examples for row in e.rows], m)
    names = ("position", "label") if m.labels else ("position", "target", "weight")
    inputs = {"tokens": tokens.tolist()} | {n: t.tolist() for n, t in zip(names, targets, strict=True)}
    return {
        "manifest": name, "tokenizer": tokenizer, "truncate": truncate, "records": records,
        "examples": [described(e) for e in examples], "inputs": inputs,
    }  # fmt: skip


def files() -> Files:
    """The vectors of this part."""
    about = "records -> examples (tokenizer, template, labels, windows, candidates) -> rows as the program takes them"
    found = {f"tokenizers/{name}.json": content for name, content in TOKENIZERS.items()}
    found["manifests.json"] = (
        b"{"
        + b",\n".join(compact(name).rstrip() + b":" + compact(asdict(m)).rstrip() for name, m in MANIFESTS.items())
        + b"}\n"
    )
    chat = MANIFESTS["chat"]
    found["chat.json"] = compact(pieces(Chat(chat.chat_template, chat.special_tokens)))
    return found | {"rows.json": lines(about, [row_case(*case) for case in ROWS])}
