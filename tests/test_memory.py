"""What is said of memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from prge import memory

NO_PROC = """
from pathlib import Path
read = Path.read_text
def read_text(self, *given, **named):
    if str(self) == "/proc/self/status":
        raise FileNotFoundError(self)
    return read(self, *given, **named)
Path.read_text = read_text
"""


@pytest.mark.parametrize(
    "platform, peak, megabytes", [("darwin", 300_000_000, 300.0), ("linux", 300_000, 307.2), ("freebsd14", 0, 42.0)]
)
def test_a_peak_in_the_system_s_own_unit(
    platform: str, peak: int, megabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes on macOS, KiB elsewhere; where none is counted, what is taken now."""
    monkeypatch.setattr("prge.memory.Path.read_text", lambda self: "no such line")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=peak))
    monkeypatch.setattr("psutil.Process.memory_info", lambda self: SimpleNamespace(rss=42e6))
    assert memory.peak_megabytes() == pytest.approx(megabytes)


def test_windows_tells_a_peak_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prge.memory.Path.read_text", lambda self: "")
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr("psutil.Process.memory_info", lambda self: SimpleNamespace(peak_wset=5e8))
    assert memory.peak_megabytes() == 500.0


def test_plan_and_calibrate_without_proc(
    prge: Callable[..., tuple[int, Any]], program_folder: Path, tiny_model: Path, demo_data: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`prge plan` measures in a process of its own."""
    (tmp_path / "sitecustomize.py").write_text(NO_PROC)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr("prge.memory.Path.read_text", read_text_without_proc)
    code, planned = prge("plan", tiny_model, "--memory", "2GB")
    assert code == 0 and 1e8 < planned["imports_bytes"] < 2e9 and planned["rows"][0]["largest_batch"] > 0
    command = ["calibrate", program_folder, "--data", demo_data / "train.tsv", "--examples", 16, "--truncate"]
    code, found = prge(*command, "--megabytes", 100_000)
    assert code == 0 and found["proposed"]["batch"] >= 1
    code, refused = prge(*command, "--megabytes", 2)
    assert code == 1 and "2 MB do not hold one example" in refused["error"]


_read_text = Path.read_text


def read_text_without_proc(self: Path, *given: Any, **named: Any) -> str:
    if str(self) == "/proc/self/status":
        raise FileNotFoundError(self)
    return _read_text(self, *given, **named)


def test_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    here = memory.peak_megabytes()

    monkeypatch.setattr("prge.memory.Path.read_text", read_text_without_proc)
    assert abs(memory.peak_megabytes() - here) < 0.2 * here + 100


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can give back parts of a mapped file")
def test_forget_gives_back_pages_of_a_weights_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When there is enough to give back: what waits stays mapped until then."""
    size = 1 << 20
    for suffix in (".safetensors", ".npy"):
        (tmp_path / f"weights{suffix}").write_bytes(b"\1" * size)
    weights, other = (
        np.memmap(tmp_path / f"weights{suffix}", np.uint8, mode="c") for suffix in (".safetensors", ".npy")
    )
    heap = np.full(size, 1, np.uint8)
    for each in (weights, other, heap):
        each += 1  # in place, so what is given back is the file's 1 again
    monkeypatch.setattr(memory, "_MANY", 3 * size)
    monkeypatch.setattr(memory, "_waiting", [])
    for each in (weights, other):
        memory.forget(each.ctypes.data, size, each)
        assert weights.sum() == 2 * size
    memory.forget(heap.ctypes.data, size, heap)
    assert (weights.sum(), other.sum(), heap.sum()) == (size, 2 * size, 2 * size)
    assert not memory._waiting
