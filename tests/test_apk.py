"""The Android app's APK, built from a copy of the sources: what it holds, what it may do, that it comes out the same.

Where Maven has no ExecuTorch library for Android, a stand-in with the same file names takes its place; fbjni is the
real one in both cases.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "android_demo"
build = SimpleNamespace(**runpy.run_path(str(DEMO / "apk/build.py")))

PAGE = 16384
COMPILERS = {"arm64-v8a": "aarch64-linux-gnu-gcc", "x86_64": "gcc"}

for tool in ("java", "mvn"):
    if not shutil.which(tool):
        pytest.skip(f"the APK needs {tool}", allow_module_level=True)


def called(*words: str | Path) -> str:
    return subprocess.run(
        [str(word) for word in words], check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout


def tools() -> Path:
    try:
        return build.tools()
    except build.BuildError as e:
        pytest.skip(f"no Android tools: {e}")


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bool]:
    """(folder of AARs and jars, whether ExecuTorch's is the real one)."""
    folder = tmp_path_factory.mktemp("runtime")
    try:
        return build.runtime(folder), True
    except build.BuildError:
        pass
    for compiler in COMPILERS.values():
        if not shutil.which(compiler):
            pytest.skip(f"Maven has no ExecuTorch for Android, and a stand-in needs {compiler}")
    try:
        pom, of_pytorch = folder / "pom.xml", r"(?s)<dependency>\s*<groupId>org.pytorch</groupId>.*?</dependency>"
        pom.write_text(re.sub(of_pytorch, "", (DEMO / "apk/pom.xml").read_text()))
        build.maven("-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={folder}")
    except build.BuildError as e:
        pytest.skip(f"no runtime: {e}")
    (folder / "empty.c").write_text("int answer(void) { return 42; }\n")
    with zipfile.ZipFile(folder / "executorch-android-1.5.1.aar", "w") as aar:
        with zipfile.ZipFile(folder / "classes.zip", "w"):
            pass
        aar.write(folder / "classes.zip", "classes.jar")
        for abi, compiler in COMPILERS.items():
            words = ("-shared", "-nostdlib", "-fPIC", f"-Wl,-z,max-page-size={PAGE}", "-o", folder / "libexecutorch.so")
            called(compiler, *words, folder / "empty.c")
            aar.write(folder / "libexecutorch.so", f"jni/{abi}/libexecutorch.so")
    return folder, False


def made(place: Path, runtime: Path, *more: str | Path) -> Path:
    """The APK of a copy of the sources, in the folder ``place``."""
    ignored = shutil.ignore_patterns("target", "__pycache__")
    shutil.copytree(DEMO, place / "android_demo", ignore=ignored)
    shutil.copytree(ROOT / "src/prge/demo", place / "src/prge/demo", ignore=ignored)
    words = ("-o", place / "prge.apk", "--runtime", runtime, *more)
    called(sys.executable, place / "android_demo/apk/build.py", "apk", *words)
    return place / "prge.apk"


@pytest.fixture(scope="session")
def apk(runtime: tuple[Path, bool], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tools()
    return made(tmp_path_factory.mktemp("one"), runtime[0])


def offset(file: Path, info: zipfile.ZipInfo) -> int:
    """Where an entry's content begins in the file."""
    with file.open("rb") as f:
        f.seek(info.header_offset)
        header = f.read(30)
    return info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))


def test_it_is_what_it_says(apk: Path) -> None:
    said = called(tools() / "aapt2", "dump", "badging", apk)
    assert "package: name='org.prge.app'" in said
    assert "sdkVersion:'26'" in said and "targetSdkVersion:'35'" in said
    assert "launchable-activity: name='org.prge.app.StartActivity'" in said
    assert "native-code: 'arm64-v8a' 'x86_64'" in said


def test_it_asks_for_no_network(apk: Path) -> None:
    asked = set(re.findall(r"uses-permission: name='([^']+)'", called(tools() / "aapt2", "dump", "permissions", apk)))
    names = ("FOREGROUND_SERVICE", "FOREGROUND_SERVICE_SPECIAL_USE", "POST_NOTIFICATIONS", "WAKE_LOCK")
    assert asked == {f"android.permission.{name}" for name in names}


def test_its_signature_holds(apk: Path, tmp_path: Path) -> None:
    said = called("java", "-jar", tools() / "apksigner.jar", "verify", "--verbose", apk)
    assert re.findall(r"using v([23]) scheme .*: true", said) == ["2", "3"]
    damaged = bytearray(apk.read_bytes())
    with zipfile.ZipFile(apk) as packed:
        damaged[offset(apk, packed.getinfo("classes.dex")) + 100] ^= 1
    (tmp_path / "damaged.apk").write_bytes(damaged)
    with pytest.raises(subprocess.CalledProcessError):
        called("java", "-jar", tools() / "apksigner.jar", "verify", tmp_path / "damaged.apk")


def test_native_libraries_can_be_mapped_with_large_pages(apk: Path) -> None:
    with zipfile.ZipFile(apk) as packed:
        libraries = [info for info in packed.infolist() if info.filename.endswith(".so")]
        names = {info.filename for info in libraries}
        assert {f"lib/{abi}/lib{name}.so" for abi in COMPILERS for name in ("executorch", "fbjni")} <= names
        assert {name.split("/")[1] for name in names} == set(COMPILERS)
        for info in libraries:
            assert info.compress_type == zipfile.ZIP_STORED and offset(apk, info) % PAGE == 0, info.filename
            assert loads(packed.read(info)) and all(align % PAGE == 0 for align in loads(packed.read(info)))
        stored = [info for info in packed.infolist() if info.compress_type == zipfile.ZIP_STORED]
        assert "resources.arsc" in {info.filename for info in stored}
        assert all(offset(apk, info) % 4 == 0 for info in stored)


def loads(library: bytes) -> list[int]:
    """The alignments of a 64-bit ELF file's segments that are loaded."""
    assert library[:6] == b"\x7fELF\x02\x01"
    start, size, count = *struct.unpack_from("<Q", library, 32), *struct.unpack_from("<HH", library, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", library, start + i * size) for i in range(count)]
    return [header[7] for header in headers if header[0] == 1]


def test_native_methods_have_their_code(runtime: tuple[Path, bool], tmp_path: Path) -> None:
    """Each native method's name stands in a library: as a symbol, or as the text with which it is registered."""
    seen = 0
    for aar in sorted(runtime[0].glob("*.aar")):
        with zipfile.ZipFile(aar) as packed:
            packed.extractall(tmp_path / aar.stem)
        with zipfile.ZipFile(tmp_path / aar.stem / "classes.jar") as classes:
            names = [name[:-6].replace("/", ".") for name in classes.namelist() if name.endswith(".class")]
        if not names:
            continue
        code = called("javap", "-p", "-cp", tmp_path / aar.stem / "classes.jar", *names)
        methods = set(re.findall(r" native .*?(\w+)\(", code))
        for abi in COMPILERS:
            text = b"".join(library.read_bytes() for library in (tmp_path / aar.stem / "jni" / abi).glob("*.so"))
            assert {name for name in methods if name.encode() not in text} == set(), f"{aar.name} {abi}"
        seen += len(methods)
    assert seen
    if not runtime[1]:
        pytest.skip(f"Maven has no ExecuTorch for Android: fbjni's {seen} methods were checked, ExecuTorch's were not")


@pytest.mark.skipif(not os.environ.get("PRGE_THOROUGH"), reason="PRGE_THOROUGH=1 runs it: minutes")
def test_the_same_sources_make_the_same_bytes(apk: Path, runtime: tuple[Path, bool], tmp_path: Path) -> None:
    assert made(tmp_path, runtime[0]).read_bytes() == apk.read_bytes()


def test_a_program_travels_inside_and_changes_nothing_else(
    apk: Path, runtime: tuple[Path, bool], tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.mkdir()
    for name in ("program.pte", "frozen.pte", "tokenizer.json"):
        (program / name).write_bytes(name.encode() * 1000)
    with (
        zipfile.ZipFile(made(tmp_path / "copy", runtime[0], "--program", program)) as packed,
        zipfile.ZipFile(apk) as plain,
    ):
        inside = {f"assets/program/{file.name}": file.read_bytes() for file in program.iterdir()}
        assert {name: packed.read(name) for name in inside} == inside
        # Signatures are of all entries.
        others = [n for n in packed.namelist() if n not in inside and not n.startswith("META-INF/")]
        assert others == [n for n in plain.namelist() if not n.startswith("META-INF/")]
        assert [n for n in others if packed.read(n) != plain.read(n)] == []


def test_a_missing_tool_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match="mvn is missing: install it"):
        build.apk(tmp_path / "prge.apk", None, None)
