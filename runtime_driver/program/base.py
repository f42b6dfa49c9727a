"""What all programs have: the file and its checks, the manifest, and executions on the ExecuTorch runtime."""

from __future__ import annotations

import struct
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prge.errors import UserError
from prge.files.folders import refuse_run
from prge.files.seal import sealed
from prge.manifest import FROZEN_FILE, GENERATE_FILE, INITIAL_FILE, PROGRAM_FILE, Manifest
from prge.memory import return_freed
from prge.quiet import quiet
from prge.runtime_driver.program.state import load_state

# Of each kind of program: its file, and the command that writes it.
_KINDS = {
    "step": (PROGRAM_FILE, "prge export"),
    "frozen": (FROZEN_FILE, "prge export"),
    "generate": (GENERATE_FILE, "prge export --generate"),
}
_DOES = {
    "step": "is a fine-tuning step",
    "frozen": "is the frozen part of one",
    "generate": "continues text (`prge generate`)",
}

# Tensors by their largest sizes and the runtime's number of the dtype.
Signature = list[tuple[tuple[int, ...], int]]
I64, F32 = 4, 6


@contextmanager
def without_exporter() -> Iterator[None]:
    """Import parts of ``executorch`` here without its export stack, which takes seconds and over 150 MB.

    The bindings need one warning class from ``executorch.exir``, whose ``__init__`` imports everything. An empty
    package stands in for it.
    """
    if "executorch.exir" in sys.modules:
        yield
        return
    import executorch

    stand_in = types.ModuleType("executorch.exir")
    stand_in.__path__ = [str(Path(folder) / "exir") for folder in executorch.__path__]
    sys.modules["executorch.exir"] = stand_in
    try:
        yield
    finally:
        del sys.modules["executorch.exir"]


def runtime() -> Any:
    """`executorch.runtime.Runtime`, imported without the exporter."""
    with without_exporter():
        from executorch.runtime import Runtime
    return Runtime.get()


def set_threads(count: int) -> None:
    """Set how many threads the runtime's kernels take. Call it first: a loaded program keeps the threads it found."""
    runtime()
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    with quiet():
        _unsafe_reset_threadpool(count)
    torch.set_num_threads(count)


def find_program(path: Path, kind: str = "step") -> Path:
    """The ``.pte`` that a path names: itself, or the one of this kind in a folder.

    Raises:
        UserError: there is none.
    """
    name, made_by = _KINDS[kind]
    file = path / name if path.is_dir() else path
    if not file.is_file():
        refuse_run(path, "a program")
        raise UserError(f"{file} does not exist; make it with `{made_by}`")
    return file


def is_program(path: Path) -> bool:
    """Whether a path is meant as a program and not as a model: a ``.pte``, or a folder that holds no checkpoint.

    Raises:
        UserError: it is a run's folder.
    """
    refuse_run(path, "a program or a model")
    return path.suffix == ".pte" or (path.is_dir() and not (path / "config.json").exists())


def check_file(path: Path) -> None:
    """Refuse a file that is not a whole program of prge's, before the runtime maps it.

    This reads the extended header (magic ``eh00``), which has the sizes of the flatbuffer and of the segments with the
    weights. Then it reads the whole file, to compare its digest with its seal.

    Raises:
        UserError: what is wrong with it.
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
    whole = sealed(path)
    if whole is None:
        raise UserError(
            f"{path} is not a program made by prge, or its end was cut off, or an older prge made it (no seal behind "
            "its end): copy or export it again"
        )
    if not whole:
        raise UserError(f"{path} is damaged: it is not what it was sealed as (SHA-256); copy or export it again")


def load_plain(path: Path) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """The ``forward`` of any ExecuTorch program, also without a manifest: inputs in, outputs out."""
    with quiet():
        program = runtime().load_program(path)
        forward = program.load_method("forward")
    # The method does not keep its program alive.
    return lambda inputs: forward.execute(inputs) if program else ()


class Program:
    """A program of prge's on the ExecuTorch runtime.

    Attributes:
        path: of the ``.pte``.
        manifest: what the program says about itself.
        runtime: name of what executes it.
        execution_seconds: how long the runtime's execute has taken, in all.
    """

    kind = "step"
    runtime = "executorch"
    execution_seconds = 0.0

    def __init__(self, path: Path):
        """Load a ``.pte``, or the one of this kind in a folder, and check it.

        Raises:
            UserError: it is missing, damaged, not made by prge, of a newer format, of another kind, or not what its
                manifest says.
        """
        self.path = find_program(path, self.kind)
        self._loaded: dict[str, Any] = {}
        check_file(self.path)
        with quiet():
            try:
                self._program: Any = runtime().load_program(self.path)
                methods = self._program.method_names
            except (RuntimeError, ValueError) as e:
                raise UserError(f"{self.path} is damaged: the ExecuTorch runtime refuses it ({e})") from e
        if not {"manifest", "forward"} <= methods:
            raise UserError(f"{self.path} is an ExecuTorch program, but not one made by prge (it has no manifest)")
        text = self.constant("manifest")
        if not isinstance(text, str):
            raise UserError(f"{self.path} is not a program made by prge: its manifest is no text")
        self.manifest = Manifest.from_json(text, str(self.path))
        if self.manifest.kind != self.kind:
            name, made_by = _KINDS[self.kind]
            does = _DOES[self.manifest.kind]
            raise UserError(f"{self.path} {does}; this command takes the {name} that `{made_by}` writes")
        self._check_signature()

    def _check_signature(self) -> None:
        """Refuse a program whose inputs or outputs are not those of its manifest."""
        try:
            meta = self._program.metadata("forward")
            takes = [meta.input_tensor_meta(i) for i in range(meta.num_inputs())]
            gives = [meta.output_tensor_meta(i) for i in range(meta.num_outputs())]
            found = tuple([(tuple(t.sizes()), t.dtype()) for t in tensors] for tensors in (takes, gives))
        except (RuntimeError, ValueError, IndexError) as e:
            raise UserError(f"{self.path} is damaged: what its program takes and gives cannot be read ({e})") from e
        expected = self.signature([sizes for sizes, _ in found[0]])
        if found != expected:
            raise UserError(
                f"{self.path} is not what its manifest says: it takes and gives {found}, not {expected} "
                "(sizes, and the runtime's dtypes); export it again"
            )

    def signature(self, sizes: Sequence[tuple[int, ...]]) -> tuple[Signature, Signature]:
        """Inputs and outputs of ``forward``, as the manifest says.

        Args:
            sizes: the inputs' largest sizes, as the program says.
        """
        raise NotImplementedError

    def load(self, method: str = "forward") -> Any:
        """Load a method, and keep it. Loading ``forward`` packs the weights, which takes a moment.

        Raises:
            UserError: this runtime cannot load it.
        """
        if method not in self._loaded:
            with quiet():
                try:
                    self._program = self._program or runtime().load_program(self.path)
                    self._loaded[method] = self._program.load_method(method)
                except (RuntimeError, ValueError) as e:
                    raise UserError(f"{self.path} cannot be loaded by this ExecuTorch runtime: {e}") from e
        return self._loaded[method]

    def unload(self) -> None:
        """Give back the memory of weights and buffers, until something is executed again."""
        self._loaded.clear()
        self._program = None
        return_freed()

    def _call(self, method: str, inputs: Sequence[Any]) -> Sequence[Any]:
        """Execute a method. Not `quiet`: that swaps the whole process's stderr, and this is done for every token."""
        execute = self.load(method).execute
        began = time.perf_counter()
        try:
            return execute(inputs)
        except (RuntimeError, ValueError) as e:  # ValueError: its output is text that is not UTF-8
            raise UserError(f"{self.path}: the ExecuTorch runtime could not run {method!r}: {e}") from e
        finally:
            self.execution_seconds += time.perf_counter() - began

    def constant(self, method: str) -> Any:
        """The output of a method without inputs."""
        found = self._call(method, ())
        return found[0] if found else None

    def initial_state(self) -> Tensor:
        """The state to begin with, f32[state_size]: zeros, which change nothing, or that of the exported PEFT adapter.

        Raises:
            UserError: the file with the adapter's state is not beside the program.
        """
        if self.manifest.adapter.subspace != "peft":
            return torch.zeros(self.manifest.state_size)
        file = self.path.parent / INITIAL_FILE
        if not file.is_file():
            raise UserError(f"{file} does not exist; `prge export` wrote it beside the program: copy it there")
        return load_state(file, self.manifest)

    def frozen(self) -> Tensor:
        """The adapter's frozen factors, f32, in the order that `AdaptedModule` describes.

        Raises:
            UserError: they are not as many as the manifest says.
        """
        vector, a = self.constant("frozen"), self.manifest.adapter
        widths = [(m.in_features, m.out_features * m.core[1] if a.subspace else 0) for m in a.modules]
        size = sum(a.rank * down + up for down, up in widths)
        if not isinstance(vector, Tensor) or vector.shape != (size,):
            raise UserError(f"{self.path} is not what its manifest says: its frozen factors are not {size:,} numbers")
        return vector.float()
