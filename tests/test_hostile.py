"""Files from anywhere: mutated, through the commands that users call. No crash, hang, traceback or stray write.

With ``PRGE_THOROUGH=1`` 2,000 files instead of some.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import pytest
import torch
from edits import byte_edits, json_edits, resealed
from forked import Ended, Forks
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from prge.errors import UserError
from prge.files.checked import load_checked
from prge.files.seal import SIZE, seal
from prge.manifest import Manifest
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.journal import read_journal

THOROUGH = bool(os.environ.get("PRGE_THOROUGH"))


def mutated(share: float) -> settings:
    """Some of the files, or their share of 2,000; not one again to make a failure smaller, which takes minutes."""
    count = max(4, round(share * (2000 if THOROUGH else 60)))
    return settings(
        max_examples=count, deadline=None, phases=(Phase.explicit, Phase.generate), derandomize=not THOROUGH,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()
    print(f"{sum(forks.codes.values())} commands, by their exit codes: {dict(forks.codes)}")  # with pytest -s


@pytest.fixture(scope="module")
def whole(forks: Forks, export: Callable[..., Path], demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``program``, a ``run`` of it, ``data.tsv``."""
    folder = tmp_path_factory.mktemp("whole")
    adapter = AdapterConfig(rank=4, alpha=8.0, subspace="fisher", directions=3)
    program = export(step=StepConfig(2, 2, "weights", "sgd"), adapter=adapter, context=64)
    shutil.copytree(program, folder / "program")
    lines = (demo_data / "train.tsv").read_text().splitlines()[:24]
    (folder / "data.tsv").write_text("\n".join(lines) + "\n")
    command = ["train", folder / "program", "--data", folder / "data.tsv", "--steps", 4, "--lr", 0.01, "--truncate"]
    forks(*command, "-o", folder / "run", cwd=folder).check()
    return folder


@pytest.fixture
def case(whole: Path, tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Callable[..., Any]:
    """Copies a part of ``whole``, lets it be changed, and runs commands on it that may write into ``out`` alone."""

    def run(part: str, change: Callable[[Path], object], command: Sequence[object]) -> Ended:
        folder = tmp_path_factory.mktemp("case")
        place, out = folder / Path(part).name, folder / "out"
        (shutil.copytree if (whole / part).is_dir() else shutil.copy)(whole / part, place)
        change(place)
        own = place if "--resume" in command else out
        before = listing(folder, own)
        ended = forks(*[{"FILE": place, "OUT": out}.get(str(x), x) for x in command], cwd=folder)
        ended.check()
        assert listing(folder, own) == before
        shutil.rmtree(folder)
        return ended

    return run


def listing(folder: Path, but: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all files, but of those in a run's own folder."""
    found = {str(path): path.lstat() for path in folder.rglob("*") if but not in (path, *path.parents)}
    return {name: (stat.st_size, 0 if S_ISDIR(stat.st_mode) else stat.st_mtime_ns) for name, stat in found.items()}


def in_bytes(edit: Callable[[bytes], bytes], name: str = "") -> Callable[[Path], object]:
    return lambda path: (path / name if name else path).write_bytes(edit((path / name if name else path).read_bytes()))


def in_json(edit: Callable[[Any], Any], name: str = "") -> Callable[[Path], object]:
    def change(path: Path) -> None:
        file = path / name if name else path
        file.write_text(json.dumps(edit(json.loads(file.read_text()))))

    return change


@mutated(0.15)
@given(edit=byte_edits(), name=st.sampled_from(["program.pte", "generate.pte"]))
def test_a_changed_program_is_refused(case: Callable[..., Ended], whole: Path, edit: Any, name: str) -> None:
    data = (whole / "program" / name).read_bytes()
    command = (
        ["predict", "FILE", "a text"] if name == "program.pte" else ["generate", "FILE", "a", "--max-new-tokens", 1]
    )
    assert case("program", in_bytes(edit, name), command).code == int(edit(data) != data)


@mutated(0.15)
@given(edit=json_edits(), which=st.integers(0, 3))
def test_a_program_that_lies(case: Callable[..., Ended], whole: Path, edit: Any, which: int) -> None:
    """With a seal over it: whoever makes a program can seal it."""
    data = ["--data", whole / "data.tsv", "--truncate"]
    name, command = [
        ("program.pte", ["predict", "FILE", "a text"]),
        ("program.pte", ["train", "FILE", *data, "--steps", 1, "-o", "OUT"]),
        ("program.pte", ["predict", "FILE", *data, "--state", whole / "run"]),
        ("generate.pte", ["generate", "FILE", "a text", "--max-new-tokens", 3]),
    ][which]
    old = (whole / "program" / name).read_bytes()[:-SIZE]
    text = old[(start := old.index(b'{"model": ')) : old.index(b'"version": 5}', start) + len(b'"version": 5}')]
    fields = json.loads(text)
    fields["model"] = "m"  # leaves room
    new = json.dumps(edit(fields)).encode()
    if len(new) > len(text):
        return

    def change(folder: Path) -> None:
        (folder / name).write_bytes(old.replace(text, new.ljust(len(text))))
        seal(folder / name)

    case("program", change, command)


@mutated(0.5)
@given(edit=json_edits())
def test_a_manifest_is_usable_or_refused(whole: Path, edit: Any) -> None:
    fields = json.loads(StepProgram(whole / "program").manifest.to_json())
    try:
        m = Manifest.from_json(json.dumps(edit(fields)), "it")
    except UserError as e:
        assert str(e).startswith("it ")
        return
    assert m.rows > 0 and m.executions > 0 and m.parameters <= m.state_size
    assert Manifest.from_json(m.to_json(), "it") == m


def test_a_manifest_of_other_fields_says_which(whole: Path) -> None:
    text = StepProgram(whole / "program").manifest.to_json()
    for name, value in [
        ("queries", 0), ("batch", True), ("lr", float("nan")), ("gradient", "both"), ("labels", []), ("state_size", 61),
        ("betas", [0.9]), ("pad_token", -1), ("max_tokens", 2**31), ("special_tokens", {"eos_token": 1}),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=name.replace("pad_token", "a token")):
            Manifest.from_json(json.dumps(json.loads(text) | {name: value}), "it")


@mutated(0.06)
@given(edit=byte_edits(), kind=st.sampled_from(["predict", "verify"]))
def test_changed_adapter_weights(case: Callable[..., Ended], whole: Path, edit: Any, kind: str) -> None:
    predict = ["predict", whole / "program", "a text", "--state", "FILE"]
    command = predict if kind == "predict" else ["verify", "FILE"]
    case("run/adapter", in_bytes(edit, "adapter_model.safetensors"), command)


@mutated(0.07)
@given(edit=json_edits(), kind=st.sampled_from(["predict", "compare"]))
def test_changed_adapter_settings(case: Callable[..., Ended], whole: Path, edit: Any, kind: str) -> None:
    predict = ["predict", whole / "program", "a text", "--state", "FILE"]
    command = predict if kind == "predict" else ["compare", whole / "run", "FILE"]
    case("run/adapter", in_json(edit, "adapter_config.json"), command)


@mutated(0.08)
@given(edit=byte_edits(), summed=st.booleans(), which=st.integers(0, 2))
def test_changed_states(case: Callable[..., Ended], whole: Path, edit: Any, summed: bool, which: int) -> None:
    """Also with a checksum that is right again."""

    def change(path: Path) -> None:
        data = edit(path.read_bytes())
        path.write_bytes(resealed(data) if summed else data)

    train = ["train", whole / "program", "--data", whole / "data.tsv", "--truncate", "--steps", 1, "--lr", 0.01]
    command = [
        ["predict", whole / "program", "a text", "--state", "FILE"],
        ["verify", "FILE"],
        [*train, "--from", "FILE", "-o", "OUT"],
    ][which]
    case("run/state.safetensors", change, command)


RUNS = st.sampled_from([
    ["train", "--resume", "FILE"], ["train", "--resume", "FILE"], ["replay", "FILE", "-o", "OUT"], ["verify", "FILE"],
    ["compare", "FILE", "FILE"],
])  # fmt: skip


@mutated(0.07)
@given(
    shape=st.lists(st.integers(0, 70), max_size=2) | st.just([60]),
    dtype=st.sampled_from([torch.float32, torch.float32, torch.float64, torch.int8]),
    good=st.none() | st.integers(0, 70), fill=st.sampled_from([0.0, 1e38, float("nan"), float("inf")]),
    metadata=st.dictionaries(
        st.sampled_from(["base_sha256", "adapter_sha256", "steps", "run_steps"]), st.text(max_size=9) |
        st.sampled_from(["-1", "9" * 30, "{}", '{"scale": 1}', "null", "[" * 9999]), max_size=3
    ),
    command=RUNS,
)  # fmt: skip
def test_states_of_odd_tensors(
    case: Callable[..., Ended], shape: Any, dtype: Any, good: Any, fill: float, metadata: Any, command: list[object]
) -> None:
    """Under a checksum that is right."""

    def change(run: Path) -> None:
        _, said = load_checked(run / "state.safetensors", "a state")
        tensors = {"state": torch.full(shape, fill if dtype.is_floating_point else 0, dtype=dtype)}
        tensors |= {} if good is None else {"good": torch.zeros(good)}
        data = save(tensors, {**said, **metadata, "crc": "00000000"})
        (run / "state.safetensors").write_bytes(data.replace(b"00000000", b"%08x" % zlib.crc32(data), 1))

    case("run", change, command)


@mutated(0.07)
@given(edit=json_edits(), at=st.integers(0, 3), command=RUNS)
def test_journals_of_odd_steps(case: Callable[..., Ended], edit: Any, at: int, command: list[object]) -> None:
    """Under checksums that are right."""

    def change(run: Path) -> None:
        rows, _ = read_journal(run / "log.jsonl")
        rows[at] = odd if isinstance(odd := edit(rows[at]), dict) else {"step": at}
        lines = [json.dumps(row) for row in rows]
        sums = [zlib.crc32(line.encode()) for line in lines]
        written = [f'{line[:-1]},"crc":"{crc:08x}"}}\n' for line, crc in zip(lines, sums, strict=True)]
        (run / "log.jsonl").write_text("".join(written))

    case("run", change, command)


@mutated(0.06)
@given(edit=byte_edits(), name=st.sampled_from(["log.jsonl", "config.json"]), command=RUNS)
def test_changed_run_files(case: Callable[..., Ended], edit: Any, name: str, command: list[object]) -> None:
    case("run", in_bytes(edit, name), command)


@mutated(0.07)
@given(edit=json_edits(), command=RUNS)
def test_changed_settings_of_a_run(case: Callable[..., Ended], edit: Any, command: list[object]) -> None:
    case("run", in_json(edit, "config.json"), command)


@pytest.fixture(scope="module")
def own(whole: Path) -> Path:
    """The same examples in every form, as ``data.jsonl`` and so on."""
    rows = [line.split("\t") for line in (whole / "data.tsv").read_text().splitlines()]
    records = [{"text": text, "label": label, "n": i} for i, (text, label) in enumerate(rows)]
    (whole / "data.json").write_text(json.dumps(records))
    (whole / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    quoted = ['"' + text.replace('"', '""') + '",' + label for text, label in rows]
    (whole / "data.csv").write_text("\n".join(["text,label", *quoted]) + "\n")
    return whole


@mutated(0.14)
@given(edit=byte_edits(), kind=st.sampled_from(["tsv", "csv", "jsonl", "json"]), which=st.integers(0, 2))
def test_changed_data(case: Callable[..., Ended], own: Path, edit: Any, kind: str, which: int) -> None:
    data = ["--data", "FILE", "--truncate"]
    train = ["train", own / "program", *data, "--steps", 1, "--lr", 0.01, "-o", "OUT"]
    case(f"data.{kind}", in_bytes(edit), [train, ["predict", own / "program", *data], ["verify", "FILE"]][which])


@mutated(0.05)
@given(edit=json_edits(), kind=st.sampled_from(["eval", "predict"]))
def test_data_of_odd_values(case: Callable[..., Ended], own: Path, edit: Any, kind: str) -> None:
    case("data.json", in_json(edit), [kind, own / "program", "--data", "FILE", "--truncate"])


@mutated(0.03)
@given(edit=byte_edits())
def test_changed_tokenizers(case: Callable[..., Ended], whole: Path, edit: Any) -> None:
    data = (whole / "program" / "tokenizer.json").read_bytes()
    ended = case("program", in_bytes(edit, "tokenizer.json"), ["predict", "FILE", "a text"])
    assert ended.code == int(edit(data) != data)
    case("program/tokenizer.json", in_bytes(edit), ["verify", "FILE"])
