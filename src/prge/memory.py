"""This process's memory."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def peak_megabytes() -> float:
    """The process's greatest resident memory so far (Linux; elsewhere NaN)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def return_freed() -> None:
    """Give what Python has freed (a tokenizer: 30 MB) back to the system; glibc keeps it otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
