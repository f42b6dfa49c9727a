"""A chat template in pieces, for drivers that cannot run Jinja: what it writes between the messages.

A conversation begins with the system's message or not; behind it the user and the assistant speak in turn. Such a one
is written as gaps and contents in turn. A gap depends on the role before it, the role behind it, and whether the
message behind it is the last one. `pieces` learns the gaps, and checks them against the template itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import nodes

from prge.errors import UserError
from prge.examples.chat import Chat
from prge.examples.sandbox import parsed
from prge.manifest import CHAT_FILE

# The longest conversation that is tried. A template that writes the ninth message otherwise is not known.
_LONGEST = 8

_PLAIN = ("Aa bB", 'Two  spaces,\n\n\ta "quote" & <b>\\n', "é 😀 {{ x }} {% y %}", "word " * 500 + "end")
_EDGES = ("", " ", "\n a", "b \n\n", "  both\t")

Message = dict[str, str]


class _NoPieces(Exception):
    """The template does more than to write gaps."""


def write_pieces(folder: Path, chat: Chat) -> None:
    """Write ``chat.json``. Where the template has no pieces there is no file."""
    found = pieces(chat)
    if found:
        (folder / CHAT_FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def pieces(chat: Chat) -> dict[str, Any] | None:
    """The template's pieces; None where it has none.

    Returns:
        - ``template``, ``special_tokens``: the chat's own.
        - ``gaps``: each by the roles around it, as ``"user, assistant"``. A conversation's begin is the empty role. The
          name ends in ``", the last"`` where the message behind is the last one. A conversation ends with
          ``"assistant, end"``, or with ``"user, reply"`` where the assistant is to speak.
        - ``edges``: by role, what becomes of white space around a content: "kept", "stripped", or "refused" where the
          template treats it in another way; nor can it write empty contents then.
        - ``reserved``: texts that the template looks for in a content, so that it might write that one otherwise.
    """
    try:
        reserved = _reserved(chat.template)
        conversations = list(_conversations(chat))
        gaps: dict[str, str] = {}
        for roles in conversations:
            for name, gap in _learned(chat, roles).items():
                if gaps.setdefault(name, gap) != gap:
                    return None
        edges = dict.fromkeys(sorted({role for roles in conversations for role in roles}), "refused")
        if not _fits(chat, conversations, gaps, edges):
            return None
        for role in edges:
            for way in ("stripped", "kept"):
                if _fits(chat, conversations, gaps, edges | {role: way}):
                    edges[role] = way
        found = {"template": chat.template, "special_tokens": dict(chat.special_tokens)}
        return {**found, "gaps": gaps, "edges": edges, "reserved": reserved}
    except (_NoPieces, UserError):
        return None


def render(pieces: dict[str, Any], messages: Sequence[Message], reply: bool) -> str:
    """The conversation as a driver writes it."""
    text, before = "", ""
    for i, message in enumerate(messages):
        last = ", the last" if i == len(messages) - 1 else ""
        role, content = message["role"], message["content"]
        text += pieces["gaps"][f"{before}, {role}{last}"]
        text += content.strip() if pieces["edges"][role] == "stripped" else content
        before = role
    return text + pieces["gaps"][f"{before}, reply" if reply else f"{before}, end"]


def _conversations(chat: Chat) -> Iterator[list[str]]:
    """The roles of conversations, the shortest first; without the system where the template does not write it."""
    turns = ["user", "assistant"] * _LONGEST
    begins: list[list[str]] = [[]]
    with suppress(UserError):
        if "xqjz" in chat.render(_messages(["system", "user"], ["xqjz", "u"]), reply=True):
            begins.append(["system"])
    for size in range(1, _LONGEST + 1):
        for begin in begins:
            yield begin + turns[:size]


def _messages(roles: Sequence[str], contents: Sequence[str]) -> list[Message]:
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]


def _replies(roles: Sequence[str]) -> bool:
    """Whether the assistant speaks next. Then it is asked to; conversations that it ends are learned as they are."""
    return roles[-1] == "user"


def _learned(chat: Chat, roles: Sequence[str]) -> dict[str, str]:
    """The gaps that a conversation shows."""
    marks = [f"xq{i}jz" for i in range(len(roles))]
    text, gaps, before = chat.render(_messages(roles, marks), reply=_replies(roles)), dict[str, str](), ""
    for i, (role, mark) in enumerate(zip(roles, marks, strict=True)):
        gap, found, text = text.partition(mark)
        if not found:
            raise _NoPieces
        gaps[f"{before}, {role}" + (", the last" if i == len(roles) - 1 else "")] = gap
        before = role
    return gaps | {f"{before}, reply" if _replies(roles) else f"{before}, end": text}


def _fits(chat: Chat, conversations: Sequence[Sequence[str]], gaps: dict[str, str], edges: dict[str, str]) -> bool:
    """Whether the pieces give what the template writes, whatever the contents are.

    A role whose edges are refused gets no content that is empty or has white space around it.
    """
    for roles in conversations:
        for shift in range(len(_PLAIN + _EDGES)):
            contents = []
            for i, role in enumerate(roles):
                choices = _PLAIN if edges[role] == "refused" else _EDGES + _PLAIN
                contents.append(choices[(i + shift) % len(choices)])
            messages = _messages(roles, contents)
            try:
                expected = chat.render(messages, reply=_replies(roles))
            except UserError:
                return False
            if render({"gaps": gaps, "edges": edges}, messages, _replies(roles)) != expected:
                return False
    return True


def _reserved(template: str) -> list[str]:
    """The constant texts that a template looks for in other texts."""
    tree, found = parsed(template), set[str]()
    if any(name.name == "strftime_now" for name in tree.find_all(nodes.Name)):
        raise _NoPieces  # a piece would keep today's date
    for compared in tree.find_all(nodes.Compare):
        if any(operand.op in ("in", "notin") for operand in compared.ops):
            found |= _texts([compared.expr])
        elif not any(_is_role(node) for node in (compared.expr, *(operand.expr for operand in compared.ops))):
            found |= _texts([compared.expr, *(operand.expr for operand in compared.ops)])
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr) and call.node.attr not in ("get", "items", "append"):
            found |= _texts(call.args)
    for filtered in tree.find_all(nodes.Filter):
        if filtered.name == "replace":
            found |= _texts(filtered.args)
    return sorted(found)


def _is_role(node: nodes.Node) -> bool:
    """Whether an expression is a message's role, or a variable that is named like one."""
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "role"
    return (isinstance(node, nodes.Getattr) and node.attr == "role") or (
        isinstance(node, nodes.Name) and "role" in node.name
    )


def _texts(found: Sequence[nodes.Node]) -> set[str]:
    """The constants among them that are more than white space, whose part in a content `_fits` tries."""
    values = [node.value for node in found if isinstance(node, nodes.Const)]
    return {value for value in values if isinstance(value, str) and value.strip()}
