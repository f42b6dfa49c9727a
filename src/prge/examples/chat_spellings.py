"""Conversations in the spellings of the ecosystem, as one: ``messages`` with ``role`` and ``content``."""

from __future__ import annotations

import ast
from typing import Any

from prge.errors import UserError
from prge.examples.names import CHATS, key
from prge.examples.read import Record
from prge.files.typed import parse_json

Message = dict[str, Any]

_ROLES = {
    **dict.fromkeys(("human", "prompter", "customer", "client", "patient", "question", "instruction"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "bot", "chatbot", "model", "ai", "agent", "support", "doctor"), "assistant"),
    **dict.fromkeys(("bing", "bard", "claude", "llama", "answer", "response", "function_call"), "assistant"),
    "developer": "system", "observation": "tool",
}  # fmt: skip
_KNOWN = {"user", "assistant", "system", "tool", "function"}
_EXAMPLE = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]'
_ROLE = ("role", "from", "speaker", "sender")
_CONTENT = ("content", "value", "text", "parts")
_REPLIES = ("completion", "chosen", "response", "answer", "output")


def is_conversation(row: Record) -> bool:
    """Whether a row holds a conversation in one of the known spellings."""
    return _listed(row) is not None or _of_pair(row) is not None or _has_history(row)


def as_messages(row: Record, where: str) -> Record:
    """A row with its conversation as ``messages``: a list of ``role`` and ``content``, for `Conversation.of`.

    The known spellings are OpenAI's, with contents in parts or null; ShareGPT's; Gemini's; TRL's ``prompt`` and
    ``completion``; preference pairs, of which ``chosen`` is taken; Alpaca's ``history``; objects of what each role
    says; and lists of texts, in which user and assistant take turns.

    Raises:
        UserError: it is in none of them, or a message has an unknown role.
    """
    found: Any = _listed(row)
    if found is None:
        found = _of_history(row) if _has_history(row) else _of_pair(row)
    if not _is_turns(found):
        raise UserError(
            f'{where}: "messages" must be a list of {{"role": ..., "content": ...}}, both text, as {_EXAMPLE}'
        )
    messages = [_message(turn, f"{where}, message {i}") for i, turn in enumerate(found, 1)]
    system = next(filter(None, map(row.get, ("system", "system_prompt", "systemInstruction"))), None)
    if isinstance(system, dict):
        system = "".join(str(part.get("text", "")) for part in system.get("parts", []) if isinstance(part, dict))
    if isinstance(system, str) and system.strip() and not any(m["role"] == "system" for m in messages):
        messages.insert(0, {"role": "system", "content": system})
    if row.get("functions") and not row.get("tools"):  # OpenAI's older name
        row = {**row, "tools": [{"type": "function", "function": each} for each in _turns(row["functions"])]}
    return {**row, "messages": messages}


def takes_turns(row: Record) -> bool:
    """Whether a row's conversation is a list of texts, which do not say who speaks."""
    return any(_is_texts(value) for name, value in row.items() if _may_chat(name))


def _may_chat(name: str) -> bool:
    return key(name) in (*CHATS, "data")


def _listed(row: Record) -> list[Message] | None:
    """The turns in a column of them; None where there is none."""
    for name, value in row.items():
        if _may_chat(name):
            value = _turns(value)
            if _is_texts(value):
                return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(value)]
            if not _is_turns(value):
                continue
            turns = [turn for each in value for turn in _spread({str(name).lower(): v for name, v in each.items()})]
            if turns and _role(turns[0]):
                chosen = row.get("chosen")
                return [*turns, chosen] if isinstance(chosen, dict) else turns
    return None


def _turns(value: Any) -> Any:
    """A list of turns; CSV and Parquet have some as JSON in a text, and pandas as Python writes them."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        for parse in (parse_json, ast.literal_eval):
            try:
                return parse(value)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return value


def _is_turns(value: Any) -> bool:
    value = _turns(value)
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and all(isinstance(turn, str) for turn in value)


def _spread(turn: Message) -> list[Message]:
    """A turn; or those in an object of what each role says, as ``{"human": ..., "assistant": ...}``."""
    said = {name: value for name, value in turn.items() if _known(name) in ("user", "assistant", "system")}
    if any(name in turn for name in _ROLE) or not said:
        return [turn]
    return [{"role": name, "content": value} for name, value in said.items() if value]


def _of_pair(row: Record) -> list[Message] | None:
    """The turns of a prompt and what follows it; None where neither is a list of turns."""
    reply, prompt = _turns(row.get("completion") or row.get("chosen")), _turns(row.get("prompt") or [])
    said = next((row[name] for name in _REPLIES if row.get(name)), None)
    if isinstance(said, str) and not _is_turns(reply) and _is_turns(prompt):
        reply = [{"role": "assistant", "content": said}]
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not _is_turns(reply) or not isinstance(prompt, list):
        return None
    whole = reply[: len(prompt)] == prompt or (len(reply) > 1 and _role(reply[0]) != "assistant")
    return list(reply if whole else prompt + reply)


def _role(turn: Any) -> str:
    return _known(next((turn[name] for name in _ROLE if turn.get(name)), ""))


def _known(role: Any) -> str:
    return _ROLES.get(str(role).strip().lower(), str(role).strip().lower())


def _has_history(row: Record) -> bool:
    history = _turns(row.get("history"))
    return (
        isinstance(history, list)
        and bool(history)
        and all(isinstance(turn, list) and len(turn) == 2 for turn in history)
    )


def _of_history(row: Record) -> list[Message]:
    """Alpaca with the turns before: pairs of what was asked and answered."""
    asked = "\n".join(str(row[name]) for name in ("instruction", "prompt", "input", "query") if row.get(name))
    pairs = [*_turns(row["history"]), [asked, row.get("output") or row.get("response") or ""]]
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]  # fmt: skip


def _message(turn: Message, where: str) -> Message:
    role = _role(turn)
    if role not in _KNOWN:
        raise UserError(
            f"{where}: role {role!r} is none of {', '.join(sorted(_KNOWN))}; write user for who asks, and assistant "
            "for whose replies are to be learned"
        )
    content = next((turn[name] for name in _CONTENT if turn.get(name) is not None), "")
    kept = {name: value for name, value in turn.items() if name not in ("from", "value", "speaker", "text", "parts")}
    call = kept.pop("function_call", None)
    if call and not kept.get("tool_calls"):  # OpenAI's older name
        kept["tool_calls"] = [{"type": "function", "function": call}]
    return {**kept, "role": "tool" if role == "function" else role, "content": content}
