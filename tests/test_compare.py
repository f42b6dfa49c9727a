"""`prge compare`: the numbers of runs made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from prge.runtime_driver.run.folder import VERSION
from prge.runtime_driver.run.journal import Journal


def hand_made_run(folder: Path, losses: Sequence[float], dev: dict[str, float], pair: Any, **settings: Any) -> Path:
    (folder / "adapter").mkdir(parents=True)
    train = {"lr": 0.1, "eps": 0.1, "steps": 3} | settings
    base = train.pop("base", "1")
    data = {"crc": "", "device": "cpu", "from": None, "cache": None}
    config = {"version": VERSION, "program": "p", "runtime": "x", "base": "b", "exported": {"queries": 2}}
    config |= {"train": train, "data": data}
    (folder / "config.json").write_text(json.dumps(config))
    same = {"losses": [], "lr": 0.1, "eps": 0.1, "seed": 0, "examples": [], "backed_off": False}
    rows: list[dict[str, Any]] = [{"step": i, "loss": x, "seconds": 0.5 + i, **same} for i, x in enumerate(losses)]
    rows[-1]["dev"] = dev
    journal = Journal(folder / "log.jsonl")
    for row in rows:
        journal.append(row)
    journal.close()
    a, b = pair
    tensors = {"base_model.model.x.lora_A.weight": a, "base_model.model.x.lora_B.weight": b}
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors", {"base_sha256": str(base)})
    lora = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "b"}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(lora))
    return folder


def test_runs_side_by_side(prge: Callable[..., tuple[int, Any]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    one, two = ((torch.randn(2, 5), torch.randn(4, 2)) for _ in range(2))
    first = hand_made_run(tmp_path / "one", [3.0, 1.0, 2.0], {"loss": 0.5, "accuracy": 0.75}, one)
    second = hand_made_run(tmp_path / "two", [4.0, 2.0], {"loss": 0.25}, two, lr=0.2)
    third = hand_made_run(tmp_path / "three", [4.0], {"loss": 0.25}, two, base="2")
    code, found = prge("compare", first, second, third, "-o", tmp_path / "curves.png")
    assert code == 0 and (tmp_path / "curves.png").stat().st_size > 5000
    a, b, _ = found["runs"]
    assert (a["steps"], a["first_loss"], a["last_loss"], a["seconds_per_step"]) == (3, 3.0, 2.0, 1.5)
    assert (b["steps"], b["first_loss"], b["last_loss"], b["dev_loss"], b["dev_accuracy"]) == (2, 4.0, 3.0, 0.25, None)
    assert a["dev_accuracy"] == 0.75 and found["settings"]["train.lr"] == [0.1, 0.2, 0.1]
    assert "exported.queries" not in found["settings"]
    x, y = ((b @ a).flatten() for a, b in (one, two))
    assert found["cosine"][0][1] == pytest.approx(float(x @ y / x.norm() / y.norm()), abs=1e-6)
    assert found["cosine"][1][1] == pytest.approx(1.0) and found["cosine"][0][2] is None
    for folders, message in [([first], "at least two"), ([first, tmp_path], "no run folder")]:
        code, refused = prge("compare", *folders)
        assert code == 1 and message in refused["error"]
    (second / "log.jsonl").write_text("")
    code, refused = prge("compare", first, second)
    assert code == 1 and "holds no step" in refused["error"]
