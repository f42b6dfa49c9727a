"""The journal and the snapshots: whole, cut anywhere, or damaged anywhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_training import examples

from prge.commands.replay import replay
from prge.errors import UserError
from prge.runtime_driver.loop.train import TrainConfig, fold
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.journal import Journal, read_journal
from prge.runtime_driver.run.snapshots import EARLIER_FILE, STATE_FILE, Snapshot, Snapshots, newest, read_snapshot

ROWS = [{"step": i, "loss": 0.1 * i, "text": 'a "quoted","crc":"word'} for i in range(4)]
FEW = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def written(path: Path) -> bytes:
    path.unlink(missing_ok=True)
    journal = Journal(path)
    for row in ROWS:
        journal.append(row)
    journal.close()
    return path.read_bytes()


def test_every_prefix_gives_the_records_before_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = written(path)
    _, ends = read_journal(path)
    assert ends[-1] == len(whole)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        records, found = read_journal(path)
        assert records == ROWS[: len(records)] and len(records) == sum(end <= size for end in ends)
        assert found == ends[: len(records)]


def test_appending_goes_on_behind_the_last_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(written(path)[:-7])
    records, ends = read_journal(path)
    assert records == ROWS[:3]
    journal = Journal(path)
    journal.cut(ends[-1])
    journal.append(ROWS[3])
    journal.sync()
    journal.close()
    assert read_journal(path)[0] == ROWS


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "log.jsonl")
    journal.append({"step": 0, "loss": float("nan"), "losses": (1.0, float("inf")), "dev": {"loss": float("-inf")}})
    records, _ = read_journal(tmp_path / "log.jsonl")
    assert records == [{"step": 0, "loss": None, "losses": [1.0, None], "dev": {"loss": None}}]


@FEW
@given(data=st.data())
def test_a_changed_byte_is_refused_or_cut_off(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    whole = bytearray(written(path))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    try:
        records, _ = read_journal(path)
    except UserError as e:
        assert "damaged at byte" in str(e)
    else:
        assert records == ROWS[:3] and at == len(whole) - 1


def snapshot(steps: int) -> Snapshot:
    generator = torch.Generator().manual_seed(steps)
    return Snapshot(steps, *torch.randn(2, 5, generator=generator))


def same(a: Snapshot, b: Snapshot) -> bool:
    assert a.good is not None and b.good is not None
    return a.steps == b.steps and torch.equal(a.state, b.state) and torch.equal(a.good, b.good)


def test_snapshots_come_back_as_they_were(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be resumed"):
        newest(tmp_path, 9)
    writer = Snapshots(tmp_path, {"base": "x"}, 7)
    synced = 0

    def sync_journal() -> None:
        nonlocal synced
        synced += 1

    earlier = []
    for steps in (1, 2, 3, 4, 5):
        writer._synced_at -= 10 * (steps == 3)  # time to write through
        writer.save(snapshot(steps), sync_journal)
        earlier.append(read_snapshot(tmp_path / EARLIER_FILE).steps if steps > 1 else None)
    assert synced == 2  # the first and the third, each of which was kept from the next one on
    assert earlier == [None, 1, 1, 3, 3]
    assert same(newest(tmp_path, 9), snapshot(5)) and same(newest(tmp_path, 4), snapshot(3))
    with pytest.raises(UserError, match="a snapshot of 5 steps has a journal of 1 beside it"):
        newest(tmp_path, 1)
    assert {p.name for p in tmp_path.iterdir()} == {STATE_FILE, EARLIER_FILE}
    writer.save(Snapshot(0, torch.zeros(5)), sync_journal)
    assert read_snapshot(tmp_path / STATE_FILE).good is None


@FEW
@given(data=st.data())
def test_a_damaged_snapshot_gives_the_earlier_one(data: st.DataObject, tmp_path: Path) -> None:
    writer = Snapshots(tmp_path, {"base": "x"}, 7)
    writer.save(snapshot(1), lambda: None)
    writer.save(snapshot(2), lambda: None)
    content = bytearray((tmp_path / STATE_FILE).read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / STATE_FILE).write_bytes(content)
    assert same(newest(tmp_path, 9), snapshot(1))
    with pytest.raises(UserError, match=STATE_FILE):
        read_snapshot(tmp_path / STATE_FILE)


def test_a_replay_is_the_run(weights_program: Path, demo_data: Path) -> None:
    """From seeds and losses alone."""
    program = StepProgram(weights_program)
    texts = examples(program, weights_program, demo_data / "train.tsv", 20)
    state, rows = program.initial_state(), []
    for new_state, record in fold(program, state, texts, [], TrainConfig(30, lr=1.0, eps=0.05)):
        state = new_state
        rows.append(json.loads(json.dumps(asdict(record))))
    assert state.norm() > 1.0
    *_, replayed = replay(program.manifest, program.initial_state(), rows)
    torch.testing.assert_close(replayed, state, rtol=1e-5, atol=1e-6)
