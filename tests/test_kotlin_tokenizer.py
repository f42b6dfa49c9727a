"""The Kotlin driver's tokenizers give the ids of the tokenizers library, and its examples are Python's."""

from __future__ import annotations

import json
import os
import random
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from edits import byte_edits, json_edits
from golden.tokens import CHAT, MANIFESTS, TOKENIZERS, described
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from kotlin import Kotlin, build
from test_chat import INSTRUCT, MESSAGES, NO_PROMPT, PLAIN, THINKS
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)  # fmt: skip
from tokenizers.decoders import DecodeStream

from prge.examples.chat import Chat
from prge.examples.chat_pieces import write_pieces
from prge.files.digest import file_sha256
from prge.runtime_driver.data.encoder import Encoder

DATA = Path(__file__).parents[2] / "shared" / "data"
STRINGS = 5000

# The words of Llama 3; those of Qwen have single digits. The second is GPT-4o's kind.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
CASED = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}{1,3}|\w++|[一-龥]+|\p{Han}"
    r"|[!-/:-@\[-`{-~]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|[\s\S]"
)
ODD = (
    "Привет, мир! ", "你好世界。漢字かなカタカナ", "مرحبا بالعالم ١٢٣", "שלום עולם", "नमस्ते दुनिया",
    "สวัสดี", "한국어 각각", "😀👩‍👩‍👧🏳️‍🌈👍🏽", "naïve café Ångström ÇA İstanbul ẞ \u017f", "e\u0301a\u0308o\u0302\u0323",
    "\u200b\u200d\ufeff\u00ad\u202e\ufffd", "\t\n\r\x0b\x0c\x00\x1f\x7f\x85\u2028", "½²Ⅷ๓①",
    "it's I'LL we'VE 'S '\u017f don't", "ﬁﬂ ﷺ", "<0x41><0xE2> ▁▁ Ġ", "00012345 3.14",
)  # fmt: skip
# Characters that are as old as Unicode 3.2: all versions of Unicode class these alike, but for three.
OLD = [chr(c) for c in range(0x30000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs", "Co")]
CHANGED = "\u166d\u1885\u1886"


@pytest.fixture(scope="module")
def kotlin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kotlin]:
    running = Kotlin(build(tmp_path_factory))
    yield running
    running.close()


def bpe(normalizer: Any, words: Any, decoder: Any, frame: Any, added: Any = (), **settings: Any) -> Tokenizer:
    """An untrained BPE tokenizer, with tokens for bytes where it falls back to them."""
    made = Tokenizer(models.BPE(**settings))
    for name, part in (("normalizer", normalizer), ("pre_tokenizer", words), ("decoder", decoder)):
        if part:
            setattr(made, name, part)
    if frame:
        made.post_processor = frame
    made.add_tokens(list(added))
    return made


def by_bytes(pattern: str, digits: Any = None) -> Any:
    """Words by a pattern, and their bytes as letters."""
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    return pre_tokenizers.Sequence([*([digits] if digits else []), *steps])


def framed(before: str, number: int) -> Any:
    return processors.TemplateProcessing(f"{before} $A", special_tokens=[(before, number)])


LETTERS = decoders.ByteLevel()
SPACED = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
BYTES = {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}
METASPACE = pre_tokenizers.Metaspace
CUT = decoders.Sequence([*SPACED, decoders.Strip(" ", 1, 0)])
KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": lambda: bpe(None, pre_tokenizers.ByteLevel(False), LETTERS, processors.ByteLevel()),
    "neox": lambda: bpe(
        normalizers.NFC(), pre_tokenizers.ByteLevel(False), LETTERS, None,
        [AddedToken(" " * n, normalized=True) for n in range(12, 1, -1)],
    ),
    "smollm": lambda: bpe(
        None, pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]), LETTERS, None
    ),
    "llama3": lambda: bpe(
        None, by_bytes(WORDS), LETTERS, processors.Sequence([processors.ByteLevel(), framed("<s>", 1)]),
        ignore_merges=True,
    ),
    "qwen": lambda: bpe(
        normalizers.NFC(), by_bytes(WORDS.replace("{1,3}", "")), LETTERS, processors.ByteLevel(),
        [AddedToken("<|im_start|>", special=True), AddedToken("<tool_call>", normalized=False)],
    ),
    "cased": lambda: bpe(None, by_bytes(CASED, pre_tokenizers.Digits(False)), LETTERS, None),
    "roberta": lambda: bpe(
        None, pre_tokenizers.ByteLevel(True), LETTERS, processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
        [AddedToken("<mask>", lstrip=True, special=True)],
    ),
    "llama2": lambda: bpe(
        normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, CUT, framed("<s>", 1),
        **BYTES,
    ),
    "mistral": lambda: bpe(None, METASPACE(prepend_scheme="first", split=False), CUT, framed("<s>", 1), **BYTES),
    "gemma": lambda: bpe(
        normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), decoders.Sequence(SPACED),
        framed("<s>", 1), [AddedToken("\n\n", normalized=False), AddedToken("▁▁", normalized=False)], **BYTES,
    ),
    "unknown": lambda: bpe(
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]), METASPACE(),
        decoders.Metaspace(), None,
        [AddedToken("word", single_word=True), AddedToken("strip", lstrip=True, rstrip=True)],
        unk_token="<unk>",
    ),
}  # fmt: skip
WORD_PIECE = {"uncased": (True, None), "cased": (False, None), "accents": (True, False)}


def trained(kind: str, texts: list[str]) -> Tokenizer:
    special = ["<unk>", "<s>", "</s>"]
    if kind in WORD_PIECE:
        lower, accents = WORD_PIECE[kind]
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer = normalizers.BertNormalizer(lowercase=lower, strip_accents=accents)
        made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        made.post_processor = processors.BertProcessing(("</s>", 2), ("<s>", 1))
        pieces = trainers.WordPieceTrainer(
            vocab_size=1500, special_tokens=special, limit_alphabet=300, show_progress=False
        )
        made.train_from_iterator(texts, pieces)
        return made
    made = KINDS[kind]()
    letters = pre_tokenizers.ByteLevel.alphabet() if isinstance(made.decoder, decoders.ByteLevel) else []
    tokens = [f"<0x{byte:02X}>" for byte in range(256)] if "▁" in str(made.decoder) and kind != "unknown" else []
    merges = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=[*special, *tokens], initial_alphabet=letters, limit_alphabet=300,
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(texts, merges)
    return made


def sentences(demo_data: Path) -> list[str]:
    found = (demo_data / "train.tsv").read_text().splitlines() + Path(__file__).read_text().splitlines()
    for name in ("sst2/dev.tsv", "boolq/dev.jsonl", "self-instruct/dev.jsonl"):
        if (DATA / name).exists():
            found += (DATA / name).read_text().splitlines()[:300]
    return found


def strings(real: list[str], special: list[str]) -> list[str]:
    """Texts of all sorts: real ones, other scripts, controls, long runs, special tokens, and mixtures of these."""
    chance = random.Random(0)

    def piece() -> str:
        kind = chance.randrange(7)
        if kind == 0:
            return chance.choice(real)
        if kind == 1:
            return "".join(chance.choices(OLD, k=chance.randrange(1, 8)))
        if kind == 2:
            return chance.choice(special)
        if kind == 3:
            return chance.choice([" ", "\n", "\t", "\r\n", " \n ", "\u00a0", "\u3000"]) * chance.choice([1, 2, 17, 300])
        if kind == 4:
            return "".join(chance.choices("abcdefghij ABC012.,!?'\"-_()[]{}", k=chance.randrange(1, 30)))
        if kind == 5:
            return chance.choice(["a", "ab", "é", "漢", "😀", "1", "!"]) * chance.choice([1, 2, 9, 130, 700])
        return chance.choice(ODD)

    mixed = ["".join(piece() for _ in range(chance.randrange(1, 6))) for _ in range(STRINGS)]
    return ["", " ", "\n", *ODD, *real[:200], *mixed][:STRINGS]


def same(kotlin: Kotlin, tokenizer: Tokenizer, path: Path, real: list[str]) -> None:
    """The same ids of 5,000 texts, and the same texts of as many lists of ids, whole and in pieces."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    texts = strings(real, special or ["<s>"])
    whole = [e.ids for e in tokenizer.encode_batch(texts)]
    assert kotlin.ask(encode=texts, tokenizer=str(path)) == whole
    bare = [e.ids for e in tokenizer.encode_batch(texts[::7], add_special_tokens=False)]
    assert kotlin.ask(encode=texts[::7], tokenizer=str(path), special=False) == bare
    chance, size = random.Random(0), tokenizer.get_vocab_size() + 5
    ids = whole[::2] + [[chance.randrange(size) for _ in range(chance.randrange(12))] for _ in texts[::2]]
    for keep in (True, False):
        expected = tokenizer.decode_batch(ids, skip_special_tokens=not keep)
        assert kotlin.ask(decode=ids, tokenizer=str(path), special=keep) == expected
    short = [found[:40] for found in whole[::50]]
    streams = [DecodeStream(skip_special_tokens=True) for _ in short]
    pieces = [[stream.step(tokenizer, i) or "" for i in ids] for stream, ids in zip(streams, short, strict=True)]
    assert kotlin.ask(stream=short, tokenizer=str(path)) == pieces


@pytest.mark.parametrize("kind", [*KINDS, *WORD_PIECE])
def test_ids_and_texts_equal_those_of_the_library(kotlin: Kotlin, kind: str, demo_data: Path, tmp_path: Path) -> None:
    real = sentences(demo_data)
    same(kotlin, trained(kind, [*real, *ODD * 20]), tmp_path / "tokenizer.json", real)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_golden_tokenizers_do_too(kotlin: Kotlin, name: str, demo_data: Path, tmp_path: Path) -> None:
    same(kotlin, Tokenizer.from_str(TOKENIZERS[name].decode()), tmp_path / "tokenizer.json", sentences(demo_data))


def test_a_real_one_does_too(kotlin: Kotlin, demo_data: Path, tmp_path: Path) -> None:
    from prge.files.cache import cache_folder

    kept = next(cache_folder().glob("SmolLM2-135M-Instruct*/tokenizer.json"), None)
    if not kept:
        pytest.skip("SmolLM2's tokenizer is not at hand; `prge export smollm2-135m` fetches it")
    same(kotlin, Tokenizer.from_file(str(kept)), tmp_path / "tokenizer.json", sentences(demo_data))


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "cased", "unknown", "uncased", "accents"])
def test_every_character_is_classed_alike(kotlin: Kotlin, kind: str, demo_data: Path, tmp_path: Path) -> None:
    """Each character between letters, and alone behind a space."""
    tokenizer = trained(kind, sentences(demo_data))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    texts = [f"a{c}b {c} 1{c}" for c in OLD if c not in CHANGED]
    assert len(texts) > 90_000
    ids = [e.ids for e in tokenizer.encode_batch(texts)]
    assert kotlin.ask(encode=texts, tokenizer=str(tmp_path / "tokenizer.json")) == ids


UNKNOWN = [
    ("normalizer", {"type": "Nmt"}, 'normalizer of the type "Nmt"'),
    ("pre_tokenizer", {"type": "UnicodeScripts"}, 'pre_tokenizer of the type "UnicodeScripts"'),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "New"}]}, "pre_tokenizer.pretokenizers"),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "^a"}, "behavior": "Isolated", "invert": False}, '"^a"'),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated", "invert": False}, '"(a"'),
    ("decoder", {"type": "CTC"}, 'decoder of the type "CTC"'),
    ("post_processor", {"type": "New"}, 'post_processor of the type "New"'),
    ("model", {"type": "Unigram", "vocab": [["a", 0.5]]}, 'model of the type "Unigram"'),
    ("truncation", {"max_length": 8}, "settings for truncation"),
    ("new", True, "new"),
]


@pytest.mark.parametrize(("field", "value", "named"), UNKNOWN, ids=[case[2] for case in UNKNOWN])
def test_what_is_not_known_is_refused_by_name(
    kotlin: Kotlin, field: str, value: Any, named: str, tmp_path: Path
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(TOKENIZERS["bpe"]), field: value}))
    error = kotlin.ask(encode=["a"], tokenizer=str(path))
    assert isinstance(error, str) and error.startswith(f"{path} cannot be read: ") and named in error


HARMED = settings(
    max_examples=500 if os.environ.get("PRGE_THOROUGH") else 150, deadline=None, derandomize=True,
    phases=(Phase.explicit, Phase.generate), suppress_health_check=list(HealthCheck),
)  # fmt: skip
numbers = count()  # the other side keeps a tokenizer by its path


def sound(kotlin: Kotlin, content: bytes, folder: Path) -> None:
    """A tokenizer's file ends in a sentence, or gives what the library makes of it."""
    path, texts = folder / f"{next(numbers)}.json", ["the film <end> [MASK] 😀", "x" * 3000]
    path.write_bytes(content)
    found = kotlin.ask(encode=texts, tokenizer=str(path))
    if isinstance(found, str):
        assert found.startswith(f"{path} cannot be read: ")
        return
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception:  # the library raises bare Exception; it refuses some fields that no text needs
        return
    assert found == [e.ids for e in tokenizer.encode_batch(texts)]


@given(st.sampled_from(sorted(TOKENIZERS)), byte_edits())
@HARMED
def test_damaged_tokenizers_end_in_a_sentence(
    kotlin: Kotlin, tmp_path: Path, name: str, edit: Callable[[bytes], bytes]
) -> None:
    sound(kotlin, edit(TOKENIZERS[name]), tmp_path)


@given(st.sampled_from(sorted(TOKENIZERS)), json_edits())
@HARMED
def test_odd_values_in_a_tokenizer_do_too(
    kotlin: Kotlin, tmp_path: Path, name: str, edit: Callable[[Any], Any]
) -> None:
    """In all but the vocabulary and the merges, where chance would mostly lead."""
    document = json.loads(TOKENIZERS[name])
    held = {part: document["model"].pop(part) for part in ("vocab", "merges") if part in document["model"]}
    edited = edit(document)
    if isinstance(edited, dict) and isinstance(edited.get("model"), dict):
        edited["model"] |= held
    sound(kotlin, json.dumps(edited).encode(), tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a driver needs of a program's folder: the tokenizer, and the chat template's pieces."""
    made = tmp_path_factory.mktemp("program")
    (made / "tokenizer.json").write_bytes(TOKENIZERS["bpe"])
    chat = MANIFESTS["chat"]
    write_pieces(made, Chat(chat.chat_template, chat.special_tokens))
    return made


@pytest.mark.parametrize("template", [PLAIN, CHAT])
def test_conversations_are_written_as_the_template_writes_them(
    kotlin: Kotlin, template: str, folder: Path, tmp_path: Path
) -> None:
    chat = Chat(template, {"bos_token": "<begin>"})
    manifest = replace(MANIFESTS["chat"], chat_template=template)
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    asked = {"manifest": manifest.to_json(), "folder": str(tmp_path)}
    turns = [[message["role"], message["content"]] for message in MESSAGES]
    assert "not beside it in pieces" in kotlin.ask(chat=turns, reply=False, **asked)
    write_pieces(tmp_path, chat)
    for size, reply in ((2, True), (3, False), (4, True), (5, False)):
        assert kotlin.ask(chat=turns[:size], reply=reply, **asked) == [chat.render(MESSAGES[:size], reply=reply)]
    assert "must speak in turn" in kotlin.ask(chat=[turns[1], turns[1]], reply=True, **asked)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_become_the_same_examples(kotlin: Kotlin, kind: str, demo_data: Path, tmp_path: Path) -> None:
    """In their context, with the token that ends a text; also where the prompt ends within a word."""
    real = sentences(demo_data)[:60]
    trained(kind, [*real, *ODD]).save(str(tmp_path / "tokenizer.json"))
    asked = [
        {"question": a[: 9 + i], "answer": b} for i, (a, b) in enumerate(zip(real, [*real[5:], *ODD], strict=False))
    ]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in asked))
    wide = replace(MANIFESTS["text"].architecture, vocabulary=1 << 18)
    for template, target in (("{question}\nAnswer:", " {answer}"), ("{question}", "{answer}"), ("", "{answer}")):
        m = replace(
            MANIFESTS["text"], architecture=wide, template=template, target=target, stop_tokens=(2, 7), max_tokens=90,
            max_targets=20, tokenizer_sha256=file_sha256(tmp_path / "tokenizer.json"),
        )  # fmt: skip
        expected = Encoder(m, tmp_path / "tokenizer.json", truncate=True).examples(data)
        assert any(e.tokens[-1] == 2 for e in expected)
        found = kotlin.ask(examples=str(data), manifest=m.to_json(), folder=str(tmp_path), truncate=True)
        assert found == [*map(described, expected)]


@pytest.mark.parametrize("template", [THINKS, NO_PROMPT, INSTRUCT])
def test_what_is_learned_of_a_chat_is_python_s(kotlin: Kotlin, template: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    m = replace(MANIFESTS["chat"], chat_template=template, max_tokens=200, max_targets=40)
    write_pieces(tmp_path, Chat(template, m.special_tokens))
    parts = [{"type": "text", "text": "2 and"}, {"type": "text", "text": " 2?"}]
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": " It is 4."}]
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"messages": MESSAGES[1:]}) + "\n" + json.dumps({"messages": said}) + "\n")
    expected = [*map(described, Encoder(m, tmp_path / "tokenizer.json").examples(data))]
    asked = {"examples": str(data), "manifest": m.to_json(), "folder": str(tmp_path), "truncate": False}
    assert kotlin.ask(**asked) == expected
    data.write_text(json.dumps({"messages": said, "tools": [{"name": "weather"}]}) + "\n")
    assert "cannot write tools here; pack it" in kotlin.ask(**asked)
