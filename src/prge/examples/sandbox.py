"""Runs a chat template, which comes with a program and so from anywhere: in a sandbox, with bounds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prge.bounds import bounded
from prge.errors import UserError

# The most seconds and bytes that a template may take for a conversation. It usually needs milliseconds and kilobytes.
_SECONDS, _BYTES = 5.0, 1 << 29


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


def written(template: str, values: Mapping[str, Any]) -> str:
    """What a template writes of some values.

    Raises:
        UserError: it is broken, refuses the values, or takes too much time or memory for them.
    """
    try:
        with bounded(_SECONDS, _BYTES):
            return _compiled(template).render(values)
    except (
        jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, MemoryError,
        RecursionError, TimeoutError, SyntaxError,
    ) as e:  # fmt: skip
        raise UserError(f"the chat template cannot write this conversation: {str(e) or type(e).__name__}") from e


@cache
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


def parsed(template: str) -> nodes.Template:
    """A template's syntax tree.

    Raises:
        UserError: it is no template.
    """
    try:
        with bounded(_SECONDS, _BYTES):
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
