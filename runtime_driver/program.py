"""A loaded program: its manifest, and one execution of its ``forward``; `StepProgram` is the fine-tuning step."""

from __future__ import annotations

import struct
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prge.errors import UserError
from prge.manifest import GENERATE_FILE, INITIAL_FILE, PROGRAM_FILE, Manifest
from prge.quiet import quiet
from prge.runtime_driver.adapter import load_state

# A kind of program: its file, and the command that writes it.
_KINDS = {"step": (PROGRAM_FILE, "prge export"), "generate": (GENERATE_FILE, "prge export --generate")}


def runtime() -> Any:
    """`executorch.runtime.Runtime`, without the exporter.

    The bindings take one warning class from ``executorch.exir``, whose ``__init__`` imports all
    of the export stack: seconds and over 150 MB on a device. An empty package stands in for it
    during this one import.
    """
    stand_in = None
    if "executorch.exir" not in sys.modules:
        import executorch

        stand_in = types.ModuleType("executorch.exir")
        stand_in.__path__ = [str(Path(folder) / "exir") for folder in executorch.__path__]
        sys.modules["executorch.exir"] = stand_in
    try:
        from executorch.runtime import Runtime
    finally:
        if stand_in is not None:
            del sys.modules["executorch.exir"]
    return Runtime.get()


def set_threads(count: int) -> None:
    """How many threads the runtime's kernels take; only before anything is loaded, which keeps the pool it found."""
    runtime()
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    with quiet():
        _unsafe_reset_threadpool(count)
    torch.set_num_threads(count)


def find_program(path: Path, kind: str = "step") -> Path:
    """The ``.pte`` that a path names: itself, or the one of that kind in a folder."""
    name, made_by = _KINDS[kind]
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file} does not exist; make it with `{made_by}`")
    return file


def is_program(path: Path) -> bool:
    """Whether a path is meant as a program: a ``.pte``, or a folder that holds no checkpoint."""
    return path.suffix == ".pte" or (path.is_dir() and not (path / "config.json").exists())


def check_file(path: Path) -> None:
    """Refuse what is not a whole ExecuTorch program, before the runtime maps it.

    Reads the extended header (magic ``eh00``): the flatbuffer's size and where the segments
    of weights begin and end.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(64)
    if head[4:8] not in (b"ET12", b"ET13"):
        raise UserError(f"{path} is not an ExecuTorch program (no ET12 at byte 4)")
    if len(head) < 40 or head[8:12] != b"eh00":
        raise UserError(f"{path} is not a program made by prge (no extended header at byte 8)")
    (length,) = struct.unpack_from("<I", head, 12)
    program, segments = struct.unpack_from("<QQ", head, 16)
    data = struct.unpack_from("<Q", head, 32)[0] if length >= 32 else 0
    needed = max(program, segments + data)
    if size < needed:
        raise UserError(f"{path} is truncated: it holds {size:,} of {needed:,} bytes; copy or export it again")


def load_plain(path: Path) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """``forward`` of any program, without a manifest."""
    with quiet():
        program = runtime().load_program(path)
        forward = program.load_method("forward")
    # The method does not keep its program alive.
    return lambda inputs: forward.execute(inputs) if program else ()


class Program:
    """A program of prge's on the ExecuTorch runtime.

    Attributes:
        path: the ``.pte``.
        manifest: what it says about itself.
        runtime: what runs it.
    """

    kind = "step"
    runtime = "executorch"

    def __init__(self, path: Path):
        """Load a ``.pte`` (or the one of this kind in a folder) and check its manifest.

        Raises:
            UserError: missing, truncated, not ours, of a newer format, or of the other kind.
        """
        self.path = find_program(path, self.kind)
        check_file(self.path)
        with quiet():
            try:
                self._program = runtime().load_program(self.path)
                methods = self._program.method_names
            except RuntimeError as e:
                raise UserError(f"{self.path} is damaged: the ExecuTorch runtime refuses it ({e})") from e
        if "manifest" not in methods or "forward" not in methods:
            raise UserError(f"{self.path} is an ExecuTorch program, but not one made by prge (it has no manifest)")
        self.manifest = Manifest.from_json(self._call("manifest", ())[0], str(self.path))
        if self.manifest.kind != self.kind:
            name, made_by = _KINDS[self.kind]
            does = "is a fine-tuning step" if self.manifest.kind == "step" else "continues text (`prge generate`)"
            raise UserError(f"{self.path} {does}; this command takes the {name} that `{made_by}` writes")

    def load(self, method: str = "forward") -> Any:
        """Load a method, once: for ``forward`` the weights are packed, which takes a moment."""
        with quiet():
            try:
                return self._program.load_method(method)
            except RuntimeError as e:
                raise UserError(f"{self.path} cannot be loaded by this ExecuTorch runtime: {e}") from e

    def _call(self, method: str, inputs: Sequence[Any]) -> Sequence[Any]:
        loaded = self.load(method)
        try:
            return loaded.execute(inputs)
        except RuntimeError as e:
            raise UserError(f"{self.path}: the ExecuTorch runtime could not run {method!r}: {e}") from e

    def initial_state(self) -> Tensor:
        """f32[S]: zeros, an adapter that changes nothing; or the PEFT adapter that the program goes on from."""
        if self.manifest.adapter.subspace != "peft":
            return torch.zeros(self.manifest.state_size)
        file = self.path.parent / INITIAL_FILE
        if not file.is_file():
            raise UserError(f"{file} does not exist; `prge export` wrote it beside the program: copy it there")
        return load_state(file, self.manifest)

    def frozen(self) -> Tensor:
        """f32: the adapter's frozen factors, in the order that `AdaptedModule` gives."""
        vector: Tensor = self._call("frozen", ())[0]
        return vector.float()


class StepProgram(Program):
    """The fine-tuning step."""

    def execute(
        self, state: Tensor, tokens: Tensor, targets: Sequence[Tensor], seed: int, lr: float, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One execution: (new state f32[S], losses f32[R], the objective's detail)."""
        inputs = (
            state,
            tokens,
            *targets,
            torch.tensor([seed]),
            torch.tensor([lr], dtype=torch.float32),
            torch.tensor([eps], dtype=torch.float32),
        )
        new_state, losses, detail = self._call("forward", inputs)
        return new_state, losses, detail

    def step(
        self, state: Tensor, tokens: Tensor, targets: Sequence[Tensor], seed: int, lr: float, eps: float
    ) -> tuple[Tensor, Tensor]:
        """One fine-tuning step on a batch of B examples.

        A program with both loops inside takes one execution. With the outer loop outside
        the host runs the queries one by one, with the inner loop outside both signs of eps,
        and adds up the changes of the state.

        Args:
            tokens, targets: B rows.
            seed: query i draws its direction from ``seed + i``.

        Returns:
            the new state, and losses: of each example with perturbed activations, f32[B]; else the batch's
            mean of each copy, f32[2 q], those at ``+eps`` first. They and the seed make a copy's step again.
        """
        m = self.manifest
        rows = tokens.repeat(m.copies, 1)
        repeated = [t.repeat(m.copies, *([1] * (t.dim() - 1))) for t in targets]
        seeds = [seed] if m.outer else [seed + i for i in range(m.queries)]
        signs = [1.0] if m.inner else [1.0, -1.0]
        total, losses = torch.zeros_like(state), []
        for query_seed in seeds:
            for sign in signs:
                new, loss, _ = self.execute(state, rows, repeated, query_seed, lr / len(seeds), sign * eps)
                if m.perturb == "activations":
                    return new, loss
                each = loss.double().reshape(m.copies, m.batch).mean(1).float()
                if m.executions == 1:
                    return new, each
                total += new - state
                losses.append(each)
        # By the loops: [queries or 1, signs or 1, copies of the execution] -> all at +eps, then all at -eps.
        found = torch.stack(losses).reshape(len(seeds), 2, -1)
        return state + total, found.permute(1, 0, 2).reshape(-1)
