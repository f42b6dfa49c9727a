"""This process's memory."""

from __future__ import annotations

import ctypes
import functools
import mmap
import sys
from pathlib import Path
from typing import Any

import psutil


def peak_megabytes() -> float:
    """The process's greatest resident memory so far, in millions of bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        # Not `getrusage`, whose peak on Linux includes that of the process before it called exec.
        return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return _peak_elsewhere() / 1e6


def _peak_elsewhere() -> float:
    """In bytes, on systems without Linux's /proc."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return float(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return float(peak or psutil.Process().memory_info().rss)  # some sandboxes count no peak


def return_freed() -> None:
    """Give what Python has freed (a tokenizer: 30 MB) back to the system; glibc keeps it otherwise."""
    trim = getattr(_system(), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


# To Linux: that pages are not needed. Those of a file are read again when they are.
_DONTNEED = 4
# Bytes; fewer are not worth looking for.
_LARGE = 1 << 18
# Bytes that are given back together, as it takes a millisecond to look up what is mapped.
_MANY = 1 << 25
_waiting: list[tuple[int, int, object]] = []


def forget(address: int, size: int, owner: object) -> None:
    """Give back the memory that some bytes of a mapped weights file take, soon; elsewhere, and of other bytes, nothing.

    What this process wrote to them in place is lost, so nothing may.

    Args:
        owner: as long as it is there, the bytes are where they are.
    """
    if sys.platform != "linux" or size < _LARGE:
        return
    _waiting.append((address, address + size, owner))
    if sum(end - begin for begin, end, _ in _waiting) < _MANY:
        return
    files = [line.split(maxsplit=1)[0] for line in _mapped() if line.endswith((".safetensors", ".gguf"))]
    spans = [tuple(int(at, 16) for at in file.split("-")) for file in files]
    for begin, end, _ in _waiting:
        if any(first <= begin and end <= last for first, last in spans):
            page = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
            whole = (end - page) // mmap.PAGESIZE * mmap.PAGESIZE
            _system().madvise(ctypes.c_void_p(page), ctypes.c_size_t(whole), _DONTNEED)
    _waiting.clear()


def _mapped() -> list[str]:
    """What is mapped into this process's memory."""
    return Path("/proc/self/maps").read_text(errors="replace").splitlines()


@functools.cache
def _system() -> Any:
    """The C library."""
    return ctypes.CDLL(None)
