"""The names that columns usually have."""

from __future__ import annotations

import re
from functools import cache

# Usual names, the likeliest first, as `key` writes them.
TEXTS = (
    "text", "sentence", "content", "review", "message", "body", "utterance", "document", "tweet", "comment", "article",
    "post", "dialogue", "passage",
)  # fmt: skip
TITLES = ("title", "subject", "headline", "description")
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence 1", "sentence 2"), ("question1", "question2"),
    ("text1", "text2"), ("text a", "text b"), ("passage", "question"), ("context", "question"),
    ("question", "sentence"),
)  # fmt: skip
LABELS = (
    "label text", "label name", "label", "labels", "class", "label id", "class id", "category", "sentiment", "intent",
    "topic", "emotion",
    "stars", "rating", "genre", "polarity", "tag", "score", "overall",
)  # fmt: skip
CONTEXTS = ("context", "passage", "background", "ctx", "support", "evidence")
PROMPTS = ("instruction", "prompt", "question", "query", "input", "inputs", "problem", "user", "human")
ANSWERS = (
    "output", "outputs", "response", "completion", "answer", "target", "targets", "summary", "highlights", "reply",
    "solution", "assistant", "chosen", "answer text", "bot", "gpt",
)  # fmt: skip
CHATS = (
    "messages", "conversations", "conversation", "chat messages", "chat", "dialogue", "dialog", "turns", "contents",
)  # fmt: skip
CHOICES = ("choices", "options", "candidates", "endings")
KNOWN = {
    *TEXTS, *TITLES, *LABELS, *CONTEXTS, *PROMPTS, *ANSWERS, *CHATS, *CHOICES,
    *(name for pair in PAIRS for name in pair),
}  # fmt: skip
IDS = {
    "id", "idx", "index", "uid", "uuid", "guid", "qid", "row", "no", "number", "url", "link", "date", "time",
    "timestamp",
}  # fmt: skip
# Columns that say who wrote a row or where it is from. They are no class unless the user says so.
ABOUT = {
    "author", "artist", "user", "username", "user name", "name", "from", "sender", "speaker", "role", "lang",
    "language", "split", "source", "dataset", "model", "ts",
}  # fmt: skip


@cache
def key(name: str) -> str:
    """A column's name as it is compared: ``Label_Text`` and ``labelText`` are ``label text``."""
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()))
