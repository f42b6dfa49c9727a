"""This process's memory."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

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
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
