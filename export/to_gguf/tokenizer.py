"""A tokenizer as GGUF's fields."""

from __future__ import annotations

import json
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from prge.errors import UserError
from prge.models.checkpoints import Outline

# llama.cpp's names of how texts are cut before merging, by what a tokenizer.json says of it.
_CUTS: dict[tuple[str, ...], str] = {
    ("bytes, cut",): "gpt-2",
    ("digits", "bytes, cut"): "smollm",
    **{
        (GGUF_PRE_TOKENIZER_SPLITS[name], "bytes"): name
        for name in ("llama-bpe", "tekken", "qwen2", "qwen35", "gpt-4o")
    },
}
_SPACE = "▁"


def write_tokenizer(writer: GGUFWriter, checkpoint: Outline) -> None:
    """Write a checkpoint's tokenizer, its special tokens and its chat template.

    Raises:
        UserError: llama.cpp has no tokenizer of this kind.
    """
    held = json.loads(checkpoint.driver_tokenizer.to_str())
    model, added = held["model"], {token["id"]: token for token in held["added_tokens"]}
    if model["type"] != "BPE":
        raise UserError(f"{checkpoint.source}: its tokenizer is of type {model['type']}, which is not written as GGUF")
    words = {number: word for word, number in model["vocab"].items()}
    words |= {number: token["content"] for number, token in added.items()}
    count = checkpoint.config.vocab_size
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    spaces = model.get("byte_fallback", False)
    if spaces:  # SentencePiece's, where the merge of the highest score comes first
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        scores = dict.fromkeys(range(count), -1e4 if added else 0.0)
        for rank, (left, right) in reversed(list(enumerate(merges))):
            scores[model["vocab"][left + right]] = -float(rank)
        writer.add_token_scores([scores[number] for number in range(count)])
        writer.add_add_space_prefix(_prefixes(held))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_cut(held, checkpoint.source))
        writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(count)])
    unknown = model.get("unk_token")
    writer.add_token_types([_kind(number, words, added, spaces, unknown) for number in range(count)])
    _write_special(writer, checkpoint)


def _kind(number: int, words: dict[int, str], added: dict[int, Any], spaces: bool, unknown: str | None) -> TokenType:
    word = words.get(number)
    if word is None:
        return TokenType.UNUSED
    if number in added:
        return TokenType.CONTROL if added[number]["special"] else TokenType.USER_DEFINED
    if spaces and word == unknown:
        return TokenType.UNKNOWN
    return TokenType.BYTE if spaces and len(word) == 6 and word.startswith("<0x") else TokenType.NORMAL


def _cut(held: dict[str, Any], source: str) -> str:
    """llama.cpp's name of how a byte-level tokenizer cuts texts before it merges."""
    steps = held["pre_tokenizer"] or {}
    found = []
    for step in steps.get("pretokenizers", [steps]):
        if step.get("type") == "ByteLevel":
            found.append("bytes, cut" if step.get("use_regex", True) else "bytes")
        elif step.get("type") == "Digits" and step.get("individual_digits"):
            found.append("digits")
        else:
            found.append(str(step.get("pattern", {}).get("Regex", step.get("type"))))
    name = _CUTS.get(tuple(found))
    if name is None or any(step.get("add_prefix_space") for step in steps.get("pretokenizers", [steps])):
        raise UserError(f"{source}: its tokenizer cuts texts as none that llama.cpp knows; no GGUF is written")
    return name


def _prefixes(held: dict[str, Any]) -> bool:
    """Whether a text gets a space in front."""
    parts = [held["normalizer"] or {}, held["pre_tokenizer"] or {}]
    steps = [s for part in parts for s in part.get("normalizers", part.get("pretokenizers", [part]))]
    return any(
        step.get("prepend") == _SPACE or (step.get("type") == "Metaspace" and step.get("prepend_scheme") != "never")
        for step in steps
    )


def _write_special(writer: GGUFWriter, checkpoint: Outline) -> None:
    tokenizer, count = checkpoint.tokenizer, checkpoint.config.vocab_size
    for name in ("bos", "eos", "unk", "pad"):
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None and token < count:
            getattr(writer, f"add_{name}_token_id")(token)
    encoded = checkpoint.driver_tokenizer.encode("a").ids
    writer.add_add_bos_token(len(encoded) > 1 and encoded[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(len(encoded) > 1 and encoded[-1] == tokenizer.eos_token_id)
    if checkpoint.chat_template:
        writer.add_chat_template(checkpoint.chat_template)
