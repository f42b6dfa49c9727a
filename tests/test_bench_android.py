"""`prge bench android`: a phone that is a folder here, behind a stand-in for adb; its Arm code runs under qemu."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_native import arm as arm
from test_native import needs_arm

from prge.bench.machine import describe

Prge = Callable[..., tuple[int, Any]]

# Its first words say what it does; a file `fault` in the phone's folder, what goes wrong.
ADB = """#!/bin/sh
phone=PHONE
[ "$1" = devices ] && { printf 'List of devices attached\\n'; cat "$phone/devices"; exit; }
[ "$1" = -s ] && shift 2
fault=$(cat "$phone/fault" 2>/dev/null)
words=$*
case "$fault/$1 $words" in
gone/*) echo "adb: device 'A1' not found" >&2; exit 1;;
full/push*) echo "adb: error: failed to copy 'x' to 'y': remote couldn't write: No space left on device" >&2; exit 1;;
dies/*--bench*) echo '{"steps":'; kill -9 $$;;
goes/*--bench*) echo gone > "$phone/fault"; echo 'adb: error: closed' >&2; exit 1;;
signal/*--bench*) echo; echo 132; exit;;
esac
case $1 in
push)
  shift
  for to; do :; done
  to=$phone/tmp/${to#/data/local/tmp/}
  while [ $# -gt 1 ]; do
    cp "$1" "$to" || exit 1
    if [ "${1##*/}" = ld-linux-aarch64.so.1 ]; then
      mv "$to/${1##*/}" "$to/loader"
      printf '#!/bin/sh\\nexec qemu-aarch64 -cpu cortex-a72 %s/loader "$@"\\n' "$to" > "$to/${1##*/}"
      chmod +x "$to/${1##*/}"
    fi
    shift
  done;;
shell)
  PATH=$phone/bin:$PATH exec sh -c "$(printf %s "$2" | sed "s|/data/local/tmp|$phone/tmp|g")";;
esac
"""
GETPROP = """#!/bin/sh
case $1 in
ro.product.cpu.abi) echo ABI;;
ro.product.manufacturer) echo Fairphone;;
ro.product.model) echo FP5;;
ro.build.version.release) echo 14;;
esac
"""


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a phone A1 that `adb` finds, with its files in `tmp`."""
    folder = tmp_path / "phone"
    (folder / "bin").mkdir(parents=True)
    (folder / "tmp").mkdir()
    (folder / "devices").write_text("A1\tdevice\n")
    for name, text in (
        ("bin/getprop", GETPROP.replace("ABI", "arm64-v8a")),
        ("adb", ADB.replace("PHONE", str(folder))),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@needs_arm
def test_a_phone_s_report_stands_beside_a_local_one(
    prge: Prge, arm: Path, phone: Path, program_folder: Path, tmp_path: Path
) -> None:
    """And nothing stays on the phone, unless it is asked to."""
    command = ("bench", "android", program_folder, "--runner", arm, "--threads", 1, "--tokens", 20, "--tokens", 9)
    code, report = prge(*command, "--rounds", 2, "--output", tmp_path / "there")
    assert code == 0 and report["folder"] is None and list((phone / "tmp").iterdir()) == []
    machine = report["machine"]
    assert (machine["phone"], machine["system"], machine["threads"]) == ("Fairphone FP5", "Android 14 arm64-v8a", 1)
    assert machine["megabytes"] == pytest.approx(describe(1)["megabytes"], rel=0.01)
    assert [(row["kind"], row["tokens"]) for row in report["rows"]] == [("native", 9), ("native", 20)]
    for row in report["rows"]:
        assert 0 < row["least"] <= row["seconds"] <= row["most"] and row["driver_seconds"] > 0
        assert row["process_megabytes"] > 0 and row["start_seconds"] > 0 and row["share_of_limit"] is None
    page = (tmp_path / "there" / "step.md").read_text()
    assert "phone Fairphone FP5" in page and "Products" not in page and page.count(", prge-run | ") == 4
    code, again = prge(*command, "--rounds", 1, "--output", tmp_path / "again", "--keep", "--serial", "A1")
    (kept,) = (phone / "tmp").iterdir()
    assert code == 0 and again["folder"] == f"/data/local/tmp/{kept.name}" and (kept / "prge-run").is_file()

    # A local one, of all that `prge bench step` measures; the phone has one of its contenders.
    local = tmp_path / "here"
    local.mkdir()
    others = [row | {"contender": program_folder.name, "kind": "program"} for row in report["rows"]]
    here = report | {"machine": describe(1), "limits": {"f32": 1.0}, "rows": [*others, *report["rows"]]}
    (local / "step.json").write_text(json.dumps(here))
    code, compared = prge("bench", "compare", local, tmp_path / "there")
    assert code == 0
    for row in compared["rows"]:
        assert (row["seconds"][1] is None) == ("prge-run" not in row["contender"])


@pytest.mark.parametrize(
    ("devices", "options", "said"),
    [
        ("", (), "adb sees no phone; connect one"),
        ("A1\tdevice\nB2\tdevice\n", (), "choose one with --serial: A1, B2"),
        ("A1\tdevice\n", ("--serial", "C3"), "adb sees no phone --serial C3, but A1"),
        ("A1\tunauthorized\n", (), "A1 does not let adb in yet; unlock it"),
        ("A1\toffline\n", (), "adb says of A1: offline; connect it again"),
        ("A1\tdevice\n", ("--tokens", 41), "takes 4 to 40 tokens, not 41"),
    ],
)
def test_a_phone_that_cannot_be_used_is_a_sentence(
    prge: Prge, phone: Path, program_folder: Path, tmp_path: Path, devices: str, options: tuple[object, ...], said: str
) -> None:
    (phone / "devices").write_text(devices)
    code, result = prge("bench", "android", program_folder, "--output", tmp_path / "out", *options)
    assert code == 1 and said in result["error"] and not (tmp_path / "out").exists()


def test_without_adb_or_with_another_processor_nothing_begins(
    prge: Prge, phone: Path, program_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("bench", "android", program_folder, "--output", tmp_path / "out")
    (phone / "bin" / "getprop").write_text(GETPROP.replace("ABI", "x86_64"))
    code, result = prge(*command)
    assert code == 1 and "A1 is x86_64; the runner is for arm64-v8a" in result["error"]
    monkeypatch.setenv("PATH", str(tmp_path))
    code, result = prge(*command)
    assert code == 1 and "adb is not found" in result["error"] and "apt install adb" in result["error"]


@needs_arm
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("full", "A1 has no room for "),
        ("dies", "A1 did not answer to the end ("),
        ("signal", "prge-run does not run on A1: signal 4 ended it"),
        ("goes", "A1 did not answer to the end (adb: device 'A1' not found)"),
    ],
)
def test_what_goes_wrong_there_is_a_sentence(
    prge: Prge, arm: Path, phone: Path, program_folder: Path, tmp_path: Path, fault: str, said: str
) -> None:
    """What was copied is removed, or the sentence says where it is and how to."""
    (phone / "fault").write_text(fault)
    command = ("bench", "android", program_folder, "--runner", arm, "--output", tmp_path / "out", "--rounds", 1)
    code, result = prge(*command)
    assert code == 1 and said in result["error"] and not (tmp_path / "out").exists()
    left = list((phone / "tmp").iterdir())
    assert len(left) == (fault == "goes")
    for folder in left:
        assert f"`adb -s A1 shell rm -rf /data/local/tmp/{folder.name}` removes" in result["error"]


@needs_arm
def test_a_folder_without_the_runner_s_libraries_is_refused(
    prge: Prge, arm: Path, phone: Path, program_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(arm / "prge-run", tmp_path / "alone")
    for runner in (tmp_path / "alone", tmp_path):
        code, result = prge("bench", "android", program_folder, "--runner", runner, "--output", tmp_path / "out")
        assert code == 1 and "prge build-runner makes the folder" in result["error"]
        assert list((phone / "tmp").iterdir()) == []
