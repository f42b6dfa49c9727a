"""A function of the library as a command: its parameters are the options, its docstring the help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from prge.commands import screen
from prge.commands.hooks import Hooks
from prge.options import AnyPath, Option


def option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    """An option as typer takes it: by name, with a type and a ``typer.Option``."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


JSON = option("as_json", False, Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")])
Title = str | Callable[[dict[str, Any]], str]
Render = Callable[[dict[str, Any]], None]


def command(function: Callable[..., dict[str, Any]], title: Title = "", render: Render | None = None) -> Any:
    """A command for typer that calls ``function`` and prints its result as a table, or with --json as JSON.

    A parameter that is a dataclass becomes an option for each of its fields. A parameter of type `Hooks` becomes a
    progress bar.

    Args:
        function: with every parameter annotated by an `Option`.
        title: of the table; or made of the result.
        render: prints the result otherwise.
    """

    def run(as_json: bool, **given: Any) -> None:
        finish(call(function, given, as_json), as_json, title, render)

    described(run, function, [*parameters(function), JSON])
    return run


def described(run: Any, function: Callable[..., Any], options: list[inspect.Parameter]) -> None:
    """Give ``run`` the name and the help of a function, and options."""
    run.__name__, run.__doc__ = function.__name__, (function.__doc__ or "").partition("\n\n")[0]
    run.__signature__ = inspect.Signature([p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in options])


def call(function: Callable[..., Any], given: Mapping[str, Any], as_json: bool, **more: Any) -> Any:
    """Call ``function`` with what typer was given for its `parameters`, and ``more``.

    Its hooks show progress unless ``as_json``.
    """
    arguments: dict[str, Any] = more
    hooks = None
    kind: Any
    for name, kind in _kinds(function).items():
        if kind is Hooks:
            hooks = name
        elif is_dataclass(kind):
            made: Any = kind
            arguments[name] = made(**{f.name: _value(given[f.name], f.default) for f in fields(kind)})
        elif name in given:
            default = inspect.signature(function).parameters[name].default
            arguments[name] = _value(given[name], default)
    if hooks is None:
        return function(**arguments)
    with nullcontext(Hooks()) if as_json else screen.progress() as shown:
        return function(**arguments, **{hooks: shown})


def finish(result: dict[str, Any], as_json: bool, title: Title, render: Render | None = None) -> None:
    """Print what a command found."""
    if as_json:
        screen.print_json(result)
    elif render:
        render(result)
    else:
        screen.show(result, title if isinstance(title, str) else title(result))


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The options of a function."""
    found = []
    for name, kind in _kinds(function).items():
        if is_dataclass(kind) and kind is not Hooks:
            hints = get_type_hints(kind, include_extras=True)
            found += [_parameter(f.name, hints[f.name], f.default) for f in fields(kind)]
        elif get_origin(kind) is Annotated:  # what is not is for the library's users alone
            found.append(_parameter(name, kind, inspect.signature(function).parameters[name].default))
    return found


def _kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """The parameters' types, by name."""
    hints = get_type_hints(function, include_extras=True)
    return {name: hints[name] for name in inspect.signature(function).parameters}


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind, said = get_args(annotation)
    assert isinstance(said, Option), name
    make: Any = typer.Argument if said.argument else typer.Option
    settings: dict[str, Any] = {"help": said.help, "parser": said.parse}
    settings |= {} if said.shown is None else {"show_default": said.shown}
    settings |= {"min": said.least, "max": said.most} if not said.parse else {}
    default = None if default == () else default
    return option(name, default, Annotated[_for_typer(kind, said, default), make(*said.names, **settings)])


def _for_typer(kind: Any, said: Option, default: Any) -> Any:
    """A type as typer knows it: paths are Paths, tuples are lists that may be left out."""
    if said.parse:
        return str | None if default is None else str
    if kind == AnyPath:
        return Path
    if get_origin(kind) in (Union, UnionType):
        rest = [each for each in get_args(kind) if each is not type(None)]
        inner = Path if set(rest) == set(get_args(AnyPath)) else Union[tuple(rest)]  # noqa: UP007
        return inner | None
    if get_origin(kind) is tuple:
        item: Any = Path if get_args(kind)[0] == AnyPath else get_args(kind)[0]
        return list[item] | None if default is None else list[item]
    return kind


def _value(given: Any, default: Any) -> Any:
    """What the function takes for what typer gave."""
    if default == ():
        return tuple(given or ())
    return tuple(given) if isinstance(given, list) else given
