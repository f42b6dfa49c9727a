"""The messages of a conversation, as chat templates take them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from prge.errors import UserError
from prge.examples.read import Record

Message = dict[str, Any]


@dataclass(frozen=True)
class Conversation:
    """What is said, and what the assistant may call.

    Attributes:
        messages: each with ``role`` and ``content``, a text; and maybe ``tool_calls``, whose arguments are objects.
        tools: descriptions of functions, as the file has them; None where there are none.
    """

    messages: list[Message]
    tools: list[Any] | None = None

    @classmethod
    def of(cls, row: Record, where: str) -> Conversation:
        """The conversation in a row, with ``messages`` and maybe ``tools``.

        Raises:
            UserError: it has no messages, or one of them is not of text.
        """
        held, tools = row.get("messages"), row.get("tools")
        if not isinstance(held, list) or not all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in held):
            raise _odd(where)
        if isinstance(tools, str):  # some files have JSON in a text; a null is one too
            with suppress(ValueError):
                tools = json.loads(tools)
        if not tools:
            tools = None
        elif not isinstance(tools, list):
            raise UserError(f'{where}: "tools" must be a list of functions, not {type(tools).__name__}')
        return cls([_message(message, f"{where}, message {i}", where) for i, message in enumerate(held, 1)], tools)

    @property
    def calls(self) -> bool:
        """Whether the assistant calls a tool."""
        return any("tool_calls" in message for message in self.messages)

    def with_nulls(self) -> Conversation:
        """The same, in which a call that comes without a text has a null for it."""
        messages = [{**m, "content": m["content"] or None} if "tool_calls" in m else m for m in self.messages]
        return Conversation(messages, self.tools)


def _odd(where: str) -> UserError:
    return UserError(
        f'{where}: "messages" must be a list of {{"role": ..., "content": ...}}, both text, as '
        '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]'
    )


def _message(message: Mapping[str, Any], place: str, where: str) -> Message:
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        content = "".join(_part(part, place) for part in content)
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        raise _odd(where)
    made = {name: value for name, value in message.items() if value is not None and name != "tool_calls"}
    made["content"] = content
    return made | ({"tool_calls": [_call(call, place) for call in _listed(calls, place)]} if calls else {})


def _part(part: Any, place: str) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise UserError(f"{place}: a part of its content is of the type {kind}; prge reads text: take such messages out")


def _listed(calls: Any, place: str) -> list[Any]:
    if not isinstance(calls, list):
        raise UserError(f'{place}: "tool_calls" must be a list, not {type(calls).__name__}')
    return calls


def _call(call: Any, place: str) -> dict[str, Any]:
    """A call with its arguments as an object: the common form has them as JSON in a text, which templates do not."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UserError(f'{place}: a tool call must be {{"function": {{"name": ..., "arguments": {{...}}}}}}')
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise UserError(f"{place}: the arguments of {function['name']!r} are no JSON: {arguments[:60]!r}") from None
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}
