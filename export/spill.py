"""A delegate's constants on disk, from when they are made until the program is written."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir._serialize._cord import FileBackedData
from executorch.exir._serialize._named_data_store import NamedDataStore

from prge.memory import forget

# Bytes; smaller constants stay in memory.
_LARGE = 1 << 16


class _WrittenOnce(FileBackedData):
    """Removes its file as soon as the program has the data, so that the disk never holds all of them twice."""

    def write_to_file(self, outfile: Any) -> None:
        super().write_to_file(outfile)
        self.close()


@contextmanager
def spilled(folder: Path) -> Iterator[None]:
    """Keep the large constants of delegates that are made now in files, until the block ends.

    Args:
        folder: where the files may be for so long.

    Raises:
        OSError: they cannot be written.
    """
    add, preprocess = NamedDataStore._add_named_data_to_map, XnnpackBackend.preprocess

    def spill(store: NamedDataStore, key: str, data: Any, *others: Any) -> None:
        if isinstance(data, bytes) and len(data) >= _LARGE:
            with tempfile.NamedTemporaryFile(dir=scratch, delete=False) as file:
                file.write(data)
            data = _WrittenOnce(file.name, cleanup=True)
        add(store, key, data, *others)

    def preprocess_and_forget(program: Any, specs: Any) -> Any:
        made = preprocess(program, specs)
        for weight in program.state_dict.values():
            if type(weight) in (torch.Tensor, torch.nn.Parameter):
                forget(weight.data_ptr(), weight.nbytes, weight.detach())
        gc.collect(0)  # the collector is off, and each delegate leaves tens of megabytes
        return made

    def as_it_is(backend: type, program: Any, specs: Any) -> Any:
        """In place of a copy, weights and all, of every delegate's program at once; nobody runs the changed one."""
        return program

    with tempfile.TemporaryDirectory(dir=folder) as scratch, ExitStack() as stack:
        stack.enter_context(patch.object(NamedDataStore, "_add_named_data_to_map", spill))
        stack.enter_context(patch.object(XnnpackBackend, "preprocess", staticmethod(preprocess_and_forget)))
        stack.enter_context(
            patch.object(XnnpackBackend, "copy_exported_program_for_preprocess", classmethod(as_it_is), create=True)
        )
        yield
