"""Federated rounds: against averages and a run's steps, with Flower's strategies and a grid in one process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", reason="Flower takes Python 3.11 or newer")
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.supercore.task_identity import TaskIdentity

from prge.errors import UserError
from prge.examples.read import read_records
from prge.examples.rows import Example
from prge.federated.admission import admitted
from prge.federated.app import client_app, server_app
from prge.federated.order import ARRAYS, METRICS, PARAMETERS, SLOPES
from prge.federated.rounds import Rounds
from prge.federated.settings import Settings
from prge.federated.shares import shares
from prge.federated.way import advance
from prge.lora import read_lora
from prge.models.adapter import AdapterConfig
from prge.models.step import StepConfig
from prge.runtime_driver.data.batches import batches, collate
from prge.runtime_driver.loop.train import corrected
from prge.runtime_driver.program.step import StepProgram

# Who makes a message; Flower's processes set it when they begin.
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1

Tamper = Callable[[int, Message], Message | None]
DEFAULTS: dict[str, Any] = {
    "dev": "", "split": "even", "rounds": 3, "steps": 2, "lr": 0.01, "eps": 0.0, "seed": 3, "devices": 4,
    "truncate": True, "fraction": 1.0, "evaluating": 0.0, "strategy": "fedavg", "server-lr": 0.01, "outliers": 0.2,
    "privacy": "none", "clip": 0.5, "noise": 0.1, "epsilon": 8.0, "delta": 1e-5, "timeout": 60.0,
}  # fmt: skip


class OneProcess:
    """A grid whose devices answer in this process, one after the other, as a simulation's do.

    Args:
        tamper: (node, answer) -> what arrives of it.
    """

    def __init__(self, run: dict[str, Any], tamper: Tamper = lambda node, answer: answer, of: int | None = None):
        self.run, self.tamper, self.of = run, tamper, of or run["devices"]
        self.asked: list[Message] = []
        self.contexts = {
            node: Context(7, node, {"partition-id": node - 1, "num-partitions": self.of}, RecordDict(), run)
            for node in range(1, self.of + 1)
        }

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def send_and_receive(self, messages: Iterable[Message], timeout: float | None = None) -> list[Message]:
        answers = []
        for message in messages:
            self.asked.append(message)
            node = message.metadata.dst_node_id
            # As it comes over the wire: nothing is shared.
            message.content = recorddict_from_proto(recorddict_to_proto(message.content))
            answer = self.tamper(node, client_app.app(message, self.contexts[node]))
            answers += [answer] if answer else []
        return answers


@pytest.fixture(scope="session")
def exact_program(export: Callable[..., Path]) -> Path:
    """The gradient that is exact, with Adam, on batches of 4."""
    adapter = AdapterConfig(rank=4, alpha=8.0, subspace="fisher", directions=3)
    return export(step=StepConfig(1, 4, "exact"), adapter=adapter)


@pytest.fixture
def settings(tmp_path: Path, exact_program: Path, demo_data: Path) -> dict[str, Any]:
    """A run's settings, as Flower hands them over."""
    data = str(demo_data / "train.tsv")
    return DEFAULTS | {"program": str(exact_program), "data": data, "output": str(tmp_path / "out")}


def federate(run: dict[str, Any], **grid: Any) -> tuple[Rounds, OneProcess]:
    """All rounds that are left, and the server's folder as it is then."""
    over = OneProcess(run, **grid)
    server_app.app(over, Context(7, 0, {}, RecordDict(), run))  # type: ignore[arg-type]
    with Rounds(Settings.read(run)) as rounds:
        return rounds, over


def test_fedavg_is_the_mean_of_what_each_device_reaches(settings: dict[str, Any]) -> None:
    rounds, _ = federate(settings | {"rounds": 1})
    program = StepProgram(Path(settings["program"]))
    program.truncate = True
    m, examples = program.manifest, program.examples(settings["data"])
    reached = []
    for device, share in enumerate(shares(examples, 4, None, 3)):
        mine, state = [examples[i] for i in share], program.initial_state()
        for step, batch in zip(range(2), batches(mine, m.batch, 3 + device), strict=False):
            lr = corrected(0.01 * (1 - step / 2), step, m)
            state, _ = program.step(state, *collate([mine[i] for i in batch], m), 0, lr, m.eps)
        reached.append((state[: m.parameters].double(), len(mine)))
    total = sum(n for _, n in reached)
    mean = torch.stack([state * (n / total) for state, n in reached]).sum(0).float()
    torch.testing.assert_close(rounds.way.state[: m.parameters], mean, rtol=1e-5, atol=1e-6)
    assert not rounds.way.state[m.parameters :].any()  # the optimizer's means are nobody else's


def test_a_federation_s_adapter_is_a_peft_folder(settings: dict[str, Any], demo_data: Path) -> None:
    rounds, _ = federate(settings | {"dev": str(demo_data / "test.tsv")})
    lora = read_lora(rounds.folder / "adapter")
    assert len(lora.pairs) == len(rounds.manifest.adapter.modules)
    assert (rounds.folder / "rounds.png").read_bytes().startswith(b"\x89PNG")
    assert [row["round"] for row in rounds.rows] == [1, 2, 3]
    assert all({"loss", "accuracy"} <= row["dev"].keys() for row in rounds.rows)


@pytest.mark.parametrize("strategy", ["fedadam", "trimmed-mean", "krum"])
def test_flower_s_strategies(settings: dict[str, Any], strategy: str) -> None:
    rounds, _ = federate(settings | {"strategy": strategy})
    assert len(rounds.rows) == 3 and rounds.way.state.isfinite().all()
    assert not torch.equal(rounds.way.state, rounds.program.initial_state())


def test_slopes_alone_rebuild_the_state(settings: dict[str, Any], weights_program: Path) -> None:
    """The devices' memories hold what the server has, made of slopes; and a mean of slopes is a mean of gradients."""
    rounds, grid = federate(settings | {"program": str(weights_program)})
    state = rounds.program.initial_state()
    for number, slopes in enumerate(rounds.way.kept()["history"], 1):
        before = state
        state = advance(rounds.manifest, state, slopes, rounds._order(number))
    torch.testing.assert_close(state, rounds.way.state, rtol=0, atol=0)
    for context in grid.contexts.values():  # behind the round before the last
        held = torch.from_numpy(context.state.array_records["state"]["state"].numpy())
        torch.testing.assert_close(held, before, rtol=0, atol=0)
    assert max(row["most_up"] for row in rounds.rows) < 1000 and not torch.equal(state, rounds.program.initial_state())


def test_slopes_of_one_device_train_as_a_run_does(settings: dict[str, Any], weights_program: Path) -> None:
    """One device that sends slopes makes the steps that the program itself makes."""
    run = settings | {"program": str(weights_program), "devices": 1, "rounds": 2}
    rounds, _ = federate(run)
    program = rounds.program
    m, examples = program.manifest, program.examples(settings["data"])
    state = program.initial_state()
    share = [examples[i] for i in shares(examples, 1, None, 3)[0]] if len(examples) else []
    for step, batch in zip(range(4), batches(examples or share, m.batch, 3), strict=False):
        lr = corrected(0.01 * (1 - step / 4), step, m)
        tensors = collate([examples[i] for i in batch], m)
        state, _ = program.step(state, *tensors, (3 << 32) + step * m.queries, lr, m.eps)
    torch.testing.assert_close(rounds.way.state, state, rtol=1e-3, atol=1e-5)


def test_a_device_that_was_away_is_told_what_it_missed(settings: dict[str, Any], weights_program: Path) -> None:
    run = settings | {"program": str(weights_program), "rounds": 4}
    seen: dict[int, int] = {}

    def away(node: int, answer: Message) -> Message | None:
        seen[node] = seen.get(node, 0) + 1
        lost = node == 2 and seen[node] in (2, 3)
        return None if lost else answer

    rounds, grid = federate(run, tamper=away)
    held = [c.state.array_records["state"]["state"].numpy() for c in grid.contexts.values()]
    assert all(np.array_equal(held[0], each) for each in held[1:])
    assert [row["heard"] for row in rounds.rows] == [4, 3, 3, 4]
    grid.contexts[1].state.clear()  # and one that lost its memory says so, and is told all again
    longer = run | {"output": run["output"] + "2", "rounds": 5}

    def forgets(node: int, answer: Message) -> Message:
        seen[node] = seen.get(node, 0) + 1
        if node == 1 and seen[node] == 7:
            over.contexts[1].state.clear()
        return answer

    over = OneProcess(longer, forgets)
    seen.clear()
    server_app.app(over, Context(7, 0, {}, RecordDict(), longer))  # type: ignore[arg-type]
    held = [c.state.array_records["state"]["state"].numpy() for c in over.contexts.values()]
    assert all(np.array_equal(held[0], each) for each in held[1:])


def test_another_program_is_turned_away_by_name(
    settings: dict[str, Any], program_folder: Path, exact_program: Path
) -> None:
    class Mixed(OneProcess):
        def __init__(self, run: dict[str, Any]):
            super().__init__(run)
            self.contexts[2].node_config["program"] = str(program_folder)

    grid = Mixed(settings)
    server_app.app(grid, Context(7, 0, {}, RecordDict(), settings))  # type: ignore[arg-type]
    with Rounds(Settings.read(settings)) as rounds:
        [(why, count)] = rounds.rows[-1]["refused"].items()
    assert count == 1 and "this device has program" in why and "copy the server's program" in why


def reply_of(
    array: np.ndarray, number: int = 1, examples: Any = 10, loss: Any = 0.5, name: str = PARAMETERS
) -> Message:
    ask = Message(RecordDict(), dst_node_id=1, message_type="train")
    metrics = MetricRecord({"num-examples": examples, "loss": loss, "round": number})
    return Message(RecordDict({ARRAYS: ArrayRecord({name: Array(array)}), METRICS: metrics}), reply_to=ask)


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers, dtype=np.float32)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (reply_of(f32(1, np.nan)), "not finite"),
        (reply_of(f32(1, np.inf)), "not finite"),
        (reply_of(f32(1, 2, 3)), "its array is not (2,)"),
        (reply_of(np.array([1.0, 2.0])), "of float32"),
        (reply_of(np.array(["a", "b"])), "of float32"),
        (reply_of(f32(1, 2), name="other"), "alone"),
        (reply_of(f32(1, 2), number=4), "is of round 4"),
        (reply_of(f32(1, 2), examples=0), "number of examples"),
        (reply_of(f32(1, 2), examples=-5), "number of examples"),
        (reply_of(f32(1, 2), examples=[1, 2]), "number of examples"),
        (reply_of(f32(1, 2), loss=float("nan")), "not finite"),
    ],
)
def test_what_does_not_count_is_refused(reply: Message, why: str) -> None:
    kept, refused = admitted([reply, reply_of(f32(1, 1))], 1, PARAMETERS, f32(0, 0))
    assert len(kept) == 1 and list(refused.values()) == [1]
    assert why in next(iter(refused))


def test_bytes_that_lie_are_refused() -> None:
    """An array that says one shape and holds another, or no array at all, or more bytes than numbers."""
    whole = Array(f32(1, 2))
    for data in (Array(f32(1, 2, 3)).data, b"no array", whole.data + b"x" * 1000, whole.data[:-3]):
        reply = reply_of(f32(1, 2))
        reply.content[ARRAYS] = ArrayRecord({PARAMETERS: Array("float32", (2,), "numpy.ndarray", data)})
        kept, refused = admitted([reply], 1, PARAMETERS, f32(0, 0))
        assert not kept and sum(refused.values()) == 1


def test_a_far_answer_is_shortened_and_a_large_claim_too() -> None:
    replies = [reply_of(f32(x, 0)) for x in (1.0, 1.5, 1e9)] + [reply_of(f32(1, 0), examples=10**12)]
    kept, refused = admitted(replies, 1, PARAMETERS, f32(0, 0))
    arrays = sorted(float(m.content.array_records[ARRAYS][PARAMETERS].numpy()[0]) for m in kept)
    assert not refused and arrays == [1.0, 1.0, 1.5, 2.5]  # twice the median of 1.25
    assert max(m.content.metric_records[METRICS]["num-examples"] for m in kept) == 1000


def test_the_order_of_the_answers_does_not_matter() -> None:
    found = []
    for numbers in ((0.1, 0.7, 0.3, 0.2), (0.2, 0.3, 0.7, 0.1)):
        kept, _ = admitted([reply_of(f32(x, -x)) for x in numbers], 1, PARAMETERS, f32(0, 0))
        found.append([m.content.array_records[ARRAYS][PARAMETERS].numpy().tolist() for m in kept])
    assert found[0] == found[1] and len(found[0]) == 4


def wrong(share: float, seed: int = 0) -> Tamper:
    """Devices of which some answer NaN, nothing new, huge numbers or an old state; and one in five stays away."""
    old: dict[int, Message] = {}
    chance = random.Random(seed)

    def tamper(node: int, answer: Message) -> Message | None:
        if chance.random() < 0.2:
            return None
        if answer.has_error() or node > share * 10:
            return answer
        array = answer.content.array_records[ARRAYS][PARAMETERS].numpy()
        kind = [np.full_like(array, np.nan), np.zeros_like(array), array * 1e6, -10 * array][node % 4]
        answer.content[ARRAYS] = ArrayRecord({PARAMETERS: Array(kind)})
        return old.setdefault(node, answer) if node % 4 == 3 else answer

    return tamper


def test_rounds_go_on_with_wrong_answers_and_absent_devices(settings: dict[str, Any]) -> None:
    run = settings | {"devices": 10, "strategy": "trimmed-mean", "rounds": 6, "lr": 0.003}
    rounds, _ = federate(run, tamper=wrong(0.2))
    sound, _ = federate(run | {"output": run["output"] + "2"})
    assert len(rounds.rows) == 6 and rounds.way.state.isfinite().all()
    moved, meant = (r.way.state - r.program.initial_state() for r in (rounds, sound))
    assert torch.cosine_similarity(moved, meant, 0) > 0.7
    assert moved.norm() < 2 * meant.norm()


def test_a_killed_server_goes_on(settings: dict[str, Any], tmp_path: Path) -> None:
    """Killed at random moments, and begun again: the same rounds, each once, and the same state."""
    kills = 20 if os.environ.get("PRGE_THOROUGH") else 2
    run = settings | {"rounds": 15 * kills, "strategy": "fedadam", "devices": 2}
    whole, _ = federate(run)
    again = run | {"output": str(tmp_path / "killed")}
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[2]); from test_federated import *\n"
        "run = json.loads(sys.argv[1]); server_app.app(OneProcess(run), Context(7, 0, {}, RecordDict(), run))"
    )
    command = [sys.executable, "-c", code, json.dumps(again), str(Path(__file__).parent)]
    log, chance = tmp_path / "killed" / "rounds.jsonl", random.Random(1)

    def size() -> int:
        return log.stat().st_size if log.exists() else 0

    for _ in range(kills):
        before = size()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and size() <= before:
            time.sleep(0.001)  # until the first of its rounds is being written
        time.sleep(chance.uniform(0.0, 0.2))
        assert process.poll() is None, "the rounds were over before the kill"
        process.kill()
        process.wait()
    assert subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode == 0
    with Rounds(Settings.read(again)) as found:
        assert [row["round"] for row in found.rows] == list(range(1, run["rounds"] + 1))
        assert torch.equal(found.way.state, whole.way.state)


def test_another_federation_s_folder_is_refused(settings: dict[str, Any]) -> None:
    federate(settings | {"rounds": 1})
    with pytest.raises(UserError, match=r"another federation|another lr"):
        Rounds(Settings.read(settings | {"rounds": 1, "lr": 0.5}))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"lr": 0.0}, "lr = 0"), ({"rounds": 0}, "rounds = 0"), ({"split": "dirichlet-x"}, "split = 'dirichlet-x'"),
        ({"strategy": "best"}, "strategy"), ({"fraction": 1.5}, "fraction = 1.5"), ({"steps": "ten"}, "steps"),
        ({"unknown": 1}, "unknown"),
    ],
)  # fmt: skip
def test_settings_are_checked(settings: dict[str, Any], change: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Settings.read(settings | change)


@pytest.mark.parametrize("privacy", ["central", "local"])
def test_privacy_bounds_what_a_device_sends(settings: dict[str, Any], privacy: str) -> None:
    """With central privacy no answer moves the parameters by more than the clip; local noise has Flower's deviation."""
    sent: list[np.ndarray] = []

    def look(node: int, answer: Message) -> Message:
        sent.append(answer.content.array_records[ARRAYS][PARAMETERS].numpy())
        return answer

    run = settings | {"privacy": privacy, "clip": 0.01, "noise": 0.5, "rounds": 1, "epsilon": 1.0}
    rounds, _ = federate(run, tamper=look)
    start = rounds.program.initial_state()[: rounds.manifest.parameters].numpy()
    norms = [float(np.linalg.norm(each - start)) for each in sent]
    if privacy == "central":
        assert max(norms) <= 0.01 * 1.0001
    else:
        expected = 0.02 * np.sqrt(2 * np.log(1.25 / 1e-5)) * np.sqrt(len(start))
        assert np.mean(norms) == pytest.approx(expected, rel=0.2)


def test_secure_aggregation_hides_a_device_and_keeps_the_mean(settings: dict[str, Any]) -> None:
    """The same state as without it, within the protocol's rounding; one device leaves the round before it ends."""
    plain, _ = federate(settings | {"rounds": 2})
    sent: list[Message] = []

    def look(node: int, answer: Message) -> Message:
        sent.append(answer)
        return answer

    run = settings | {"rounds": 2, "privacy": "secure", "output": settings["output"] + "2"}
    secure, _ = federate(run, tamper=look)
    torch.testing.assert_close(secure.way.state, plain.way.state, rtol=0, atol=1e-4)
    assert not any(record for answer in sent for record in answer.content.array_records.values())
    assert [row["loss"] for row in secure.rows] == pytest.approx([row["loss"] for row in plain.rows], rel=1e-4)
    count = 0

    def leaves(node: int, answer: Message) -> Message | None:
        nonlocal count
        count += node == 2
        return None if node == 2 and count == 3 else answer  # after it had given its keys

    alone, _ = federate(run | {"rounds": 1, "output": settings["output"] + "3"}, tamper=leaves)
    assert alone.way.state.isfinite().all()
    assert not torch.equal(alone.way.state, alone.program.initial_state())


def test_slopes_refuse_what_is_for_parameters(settings: dict[str, Any], weights_program: Path) -> None:
    with pytest.raises(UserError, match="where slopes travel"):
        federate(settings | {"program": str(weights_program), "strategy": "fedadam"})


def test_what_leaves_a_device(settings: dict[str, Any], demo_data: Path) -> None:
    """The answer's bytes on the wire: no text of the data, no token row, and no more than numbers and a little."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

    wire: list[bytes] = []

    def look(node: int, answer: Message) -> Message:
        wire.append(b"".join(part.deflate() for part in get_all_nested_objects(answer).values()))
        return answer

    rounds, _ = federate(settings | {"rounds": 1}, tamper=look)
    texts = [record["text"] for _, record in read_records(demo_data / "train.tsv")]
    words = {word.encode() for text in texts for word in text.split() if len(word) > 5}
    for sent in wire:
        assert not [word for word in words if word in sent]
        assert str(demo_data).encode() not in sent
        assert len(sent) < 4 * rounds.manifest.parameters + 1500


def test_slopes_are_less_than_a_kilobyte(settings: dict[str, Any], weights_program: Path) -> None:
    """The whole answer, as the journal counts it; one of another size is refused."""

    def shortens(node: int, answer: Message) -> Message:
        if node == 1:
            sent = answer.content.config_records[ARRAYS]
            sent[SLOPES] = sent[SLOPES][:-4]  # type: ignore[index]
        return answer

    rounds, _ = federate(settings | {"program": str(weights_program), "rounds": 1}, tamper=shortens)
    (row,) = rounds.rows
    numbers = settings["steps"] * rounds.manifest.queries
    assert 4 * numbers < row["most_up"] < 4 * numbers + 700
    assert list(row["refused"]) == [f"its array is not {(settings['steps'], rounds.manifest.queries)} of float32"]


def test_shares_hold_every_example_once() -> None:
    examples = [Example((1,), label=i % 3) for i in range(600)]
    for concentration in (None, 0.3):
        found = shares(examples, 10, concentration, 1)
        assert sorted(i for share in found for i in share) == list(range(600))
    skew = [max(sum(examples[i].label == k for i in share) / len(share) for k in range(3)) for share in found]
    assert np.mean(skew) > 0.6  # an even split has 0.33
    with pytest.raises(UserError, match="cannot be shared by"):
        shares(examples[:5], 10, None, 1)
    with pytest.raises(UserError, match="have none"):
        shares([Example((1,))] * 100, 10, 0.3, 1)


def test_the_devices_evaluate(settings: dict[str, Any]) -> None:
    def lies(node: int, answer: Message) -> Message:
        if node == 1 and list(answer.content) == [METRICS]:
            answer.content[METRICS] = MetricRecord({"num-examples": 5, "loss": float("nan")})
        return answer

    rounds, _ = federate(settings | {"evaluating": 1.0, "rounds": 2}, tamper=lies)
    assert all(0 <= row["devices"]["accuracy"] <= 1 and row["heard"] == 8 for row in rounds.rows)


def test_init_writes_an_app_that_flower_takes(
    prge: Callable[..., tuple[int, Any]], tmp_path: Path, exact_program: Path, demo_data: Path
) -> None:
    from flwr.cli.build import build_fab_from_disk
    from flwr.cli.config_utils import load_and_validate

    data = demo_data / "train.tsv"
    code, result = prge("federated", "init", exact_program, "-o", tmp_path / "app", "--data", data, "--devices", 3)
    assert code == 0 and result["travels"] == "parameters"
    config, warnings = load_and_validate(tmp_path / "app" / "pyproject.toml")
    assert not warnings and build_fab_from_disk(tmp_path / "app")
    found = Settings.read(config["tool"]["flwr"]["app"]["config"])
    assert found.devices == 3 and found.data == str(data) and Path(found.program) == exact_program
    code, result = prge("federated", "init", exact_program, "-o", tmp_path / "app")
    assert code == 1 and "not empty" in result["error"]
    code, result = prge("federated", "init", exact_program, "-o", tmp_path / "an_app")
    assert code == 1 and "letters, digits and hyphens" in result["error"]
