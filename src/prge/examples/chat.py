"""Chat messages as text, by the tokenizer's own chat template; transformers is not needed."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from types import FrameType
from typing import Any

import jinja2
import psutil
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prge.errors import UserError
from prge.examples.read import Record

# The most seconds and bytes that a template may take for a conversation. It usually needs milliseconds and kilobytes.
_SECONDS, _BYTES = 5.0, 1 << 29


@dataclass(frozen=True)
class Chat:
    """How a model takes a conversation.

    Attributes:
        template: the tokenizer's chat template, in Jinja.
        special_tokens: the tokens that the template may name, as ``bos_token``.
    """

    template: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def render(self, messages: Sequence[Mapping[str, Any]], *, reply: bool = False) -> str:
        """The conversation as text.

        Args:
            messages: each with ``role`` and ``content``.
            reply: whether the text ends where the assistant begins to speak.

        Raises:
            UserError: the template refuses the messages, or is broken.
        """
        values = {**self.special_tokens, "messages": messages, "add_generation_prompt": reply}
        try:
            with _bounded():
                return _compiled(self.template).render(values)
        except (
            jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError,
            RecursionError, TimeoutError, SyntaxError,
        ) as e:  # fmt: skip
            raise UserError(f"the chat template cannot write this conversation: {str(e) or type(e).__name__}") from e

    def records(self, row: Record, where: str) -> list[Record]:
        """A record for every turn of the assistant.

        Its ``prompt`` is the conversation before the turn. Its ``answer`` is the turn with its end-of-turn token.

        Raises:
            UserError: the row has no ``messages`` of text, or none of them is the assistant's.
        """
        messages = row.get("messages")
        if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
            raise UserError(
                f'{where}: "messages" must be a list of {{"role": ..., "content": ...}}, both text, as '
                '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]'
            )
        records = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            try:
                prompt, whole = self.render(messages[:i], reply=True), self.render(messages[: i + 1])
            except UserError as e:
                raise UserError(f"{where}: {e}") from e
            if not whole.startswith(prompt):
                raise UserError(f"{where}: the chat template does not begin a turn as it asks for one")
            # White space behind the end-of-turn token is the template's; the assistant does not write it.
            records.append({"prompt": prompt, "answer": whole[len(prompt) :].rstrip()})
        if not records:
            raise UserError(f"{where}: no message of the role assistant, so there is nothing to learn")
        return records


def _is_message(message: Any) -> bool:
    return isinstance(message, dict) and all(isinstance(message.get(key), str) for key in ("role", "content"))


class _Generation(Extension):
    """``{% generation %} ... {% endgeneration %}``, with which some templates mark replies. Only the inside is kept."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    """Without the power operator: the signal that stops a slow template cannot interrupt a power of large numbers."""

    intercepted_binops = frozenset(("**",))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        raise jinja2.TemplateError("a chat template must not use the power operator")


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Bound the time and memory of the block. A template comes with a program, and so from anywhere.

    Raises:
        TimeoutError, MemoryError: the block took too much of either.
    """

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it took more than {_SECONDS:g} seconds")

    main = threading.current_thread() is threading.main_thread()  # only that one gets signals
    limits = resource.getrlimit(resource.RLIMIT_AS)
    most = psutil.Process().memory_info().vms + _BYTES
    if limits[0] == resource.RLIM_INFINITY or most < limits[0]:
        resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
    if main:
        before = signal.signal(signal.SIGALRM, late)
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        if main:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


@cache
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def parsed(template: str) -> nodes.Template:
    """A template's syntax tree.

    Raises:
        UserError: it is no template.
    """
    try:
        with _bounded():
            return _environment().parse(template)
    except (jinja2.TemplateError, ValueError, MemoryError, RecursionError, TimeoutError) as e:
        raise UserError(f"the chat template cannot be read: {e}") from e


def _environment() -> jinja2.Environment:
    """A sandbox with the settings and helpers that transformers gives chat templates."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Plain JSON; Jinja's own filter escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
