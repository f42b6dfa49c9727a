"""Conversations in the spellings of the ecosystem, as one: ``messages`` with ``role`` and ``content``."""

from __future__ import annotations

from typing import Any

from prge.errors import UserError
from prge.examples.columns import CHATS
from prge.examples.read import Record
from prge.files.typed import parse_json

Message = dict[str, Any]

_ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant",
    "model": "assistant", "ai": "assistant", "developer": "system", "function_call": "assistant", "observation": "tool",
}  # fmt: skip
_KNOWN = {"user", "assistant", "system", "tool", "function"}
_EXAMPLE = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]'


def is_conversation(row: Record) -> bool:
    """Whether a row holds a conversation in one of the known spellings."""
    if any(_is_turns(row.get(name)) for name in CHATS):
        return True
    if _is_turns(row.get("completion")) or _is_turns(row.get("chosen")):
        return True
    return _has_history(row)


def as_messages(row: Record, where: str) -> Record:
    """A row with its conversation as ``messages``: a list of ``role`` and ``content``, for `Conversation.of`.

    The known spellings are OpenAI's, with contents in parts or null; ShareGPT's; TRL's ``prompt`` and ``completion``;
    preference pairs, of which ``chosen`` is taken; and Alpaca's ``history``.

    Raises:
        UserError: it is in none of them, or a message has an unknown role.
    """
    found = next((_turns(row[name]) for name in CHATS if row.get(name)), None)
    if found is None:
        found = _of_history(row) if _has_history(row) else _of_pair(row)
    if not _is_turns(found):
        raise UserError(
            f'{where}: "messages" must be a list of {{"role": ..., "content": ...}}, both text, as {_EXAMPLE}'
        )
    messages = [_message(turn, f"{where}, message {i}") for i, turn in enumerate(found, 1)]
    system = row.get("system") or row.get("system_prompt")
    if isinstance(system, str) and system.strip() and not any(m["role"] == "system" for m in messages):
        messages.insert(0, {"role": "system", "content": system})
    return {**row, "messages": messages}


def _turns(value: Any) -> Any:
    """A list of turns; CSV and Parquet have some as JSON in a text."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _is_turns(value: Any) -> bool:
    value = _turns(value)
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) for turn in value)


def _of_pair(row: Record) -> Any:
    """The turns of a prompt and what follows it."""
    reply, prompt = _turns(row.get("completion") or row.get("chosen")), _turns(row.get("prompt") or [])
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not _is_turns(reply) or not isinstance(prompt, list):
        return None
    whole = reply[: len(prompt)] == prompt or (len(reply) > 1 and _role(reply[0]) != "assistant")
    return reply if whole else prompt + reply


def _role(turn: Any) -> str:
    role = next((turn[name] for name in ("role", "from", "speaker") if turn.get(name)), "")
    return _ROLES.get(str(role).lower(), str(role).lower())


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
        raise UserError(f"{where}: role {role!r} is none of {', '.join(sorted(_KNOWN))}")
    content = next((turn[name] for name in ("content", "value", "text") if turn.get(name) is not None), "")
    kept = {name: value for name, value in turn.items() if name not in ("from", "value", "speaker", "text")}
    return {**kept, "role": role, "content": content}
