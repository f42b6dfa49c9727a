"""Which part may import which: read from the imports, so that the tree says what runs where."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "prge"

# From the ground up: a part imports only from the lines before its own.
FLOORS = (
    {"errors"},
    {"bounds", "shell", "options", "quiet", "memory", "regression"},
    {"files"},
    {"manifest", "lora"},
    {"cost", "examples", "models"},
    {"export", "runtime_driver"},
    {"eager"},
    {"commands"},
    {"bench", "federated"},
    {"cli"},
)
# Libraries that only these parts import.
HELD = {
    "typer": {"cli"},
    "rich": {"cli", "commands.screen"},
    "matplotlib": {"commands.plots"},
    "transformers": {"models", "export", "eager", "bench"},
    "torchao": {"export", "eager", "bench"},
    "peft": {"export", "bench"},
    "executorch.exir": {"export", "bench"},
    "flwr": {"federated"},
}
# The parts of a device's driver, from the ground up; those of one floor may import each other.
DRIVER_FLOORS = ({"program", "data"}, {"loop"}, {"run"})


def modules() -> Iterator[Path]:
    """All of the package's files, as paths in it; the links lead to the top folders."""
    for folder, _, names in os.walk(PACKAGE, followlinks=True):
        yield from (Path(folder, name).relative_to(PACKAGE) for name in names if name.endswith(".py"))


@cache
def imports(module: Path) -> frozenset[str]:
    """Dotted names of all that a module imports, also inside of functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{module}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def inside(module: Path, depth: int = 1) -> Iterator[str]:
    """The parts of the package that a module imports from, as ``files`` or, two deep, ``files.typed``."""
    for name in imports(module):
        parts = name.split(".")
        if parts[0] == "prge" and len(parts) > 1:
            yield ".".join(parts[1 : 1 + depth])


def test_every_part_stands_on_a_floor() -> None:
    parts = {module.parts[0].removesuffix(".py") for module in modules()}
    assert parts - {"__init__", "__main__", "demo"} == set().union(*FLOORS)


@pytest.mark.parametrize("module", sorted(modules()), ids=str)
def test_imports_go_down(module: Path) -> None:
    part = module.parts[0].removesuffix(".py")
    if part in ("__init__", "__main__"):  # the public names, loaded when they are asked for
        return
    floor = next((i for i, parts in enumerate(FLOORS) if part in parts), 0)
    below = set().union(*FLOORS[:floor], {part, "__version__"})
    assert set(inside(module)) <= below, f"{module} reaches up to {set(inside(module)) - below}"


@pytest.mark.parametrize("module", sorted(m for m in modules() if m.parts[0] == "runtime_driver"), ids=str)
def test_the_driver_s_imports_go_down_too(module: Path) -> None:
    if len(module.parts) < 3:
        return
    floor = next(i for i, parts in enumerate(DRIVER_FLOORS) if module.parts[1] in parts)
    below = set().union(*DRIVER_FLOORS[: floor + 1])
    reached = {name.split(".")[1] for name in inside(module, 2) if name.startswith("runtime_driver.")}
    assert reached <= below, f"{module} reaches up to {reached - below}"


@pytest.mark.parametrize("library", HELD)
def test_a_library_has_its_place(library: str) -> None:
    for module in modules():
        if any(name == library or name.startswith(library + ".") for name in imports(module)):
            where = ".".join(module.with_suffix("").parts)
            assert any(where == part or where.startswith(part + ".") for part in HELD[library]), module
