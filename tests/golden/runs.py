"""What is on disk: a packed file, a run's folder, and journals that were cut off or damaged."""

from __future__ import annotations

import json
import math
import random
import re
import tempfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from prge.errors import UserError
from prge.examples.rows import Example
from prge.manifest import Manifest
from prge.runtime_driver.data.hidden import HIDDEN_FILE, HiddenStates, write_hidden
from prge.runtime_driver.data.packed import digest, pack, unpack
from prge.runtime_driver.loop.evaluate import Evaluation
from prge.runtime_driver.loop.train import Guard, StepRecord, TrainConfig
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.folder import RunFolder
from prge.runtime_driver.run.journal import read_journal

from .steps import Case, exact, numbers
from .tokens import MANIFESTS, ROWS, Files, described, lines, read, row_case


def packed_files() -> Files:
    """A packed file per form, and what it holds."""
    cases, found = list[Case](), Files()
    for name in ("classification", "mask", "text", "choices"):
        examples = [read(e) for row in ROWS if row[0] == name for e in row_case(*row)["examples"]]
        train, dev = examples[:-1], examples[-1:]
        file = f"packed/{name}.prge"
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "packed"
            pack(path, MANIFESTS[name], train, dev, dropped=2)
            assert unpack(path, MANIFESTS[name]) == (train, dev, 2)
            found[file] = path.read_bytes()
        cases.append({
            "manifest": name, "file": file, "train": [described(e) for e in train],
            "dev": [described(e) for e in dev], "dropped": 2, "crc": digest(examples),
        })  # fmt: skip
    return found | {"packed.json": lines("packed files, byte for byte, and their examples", cases)}


def hidden_files() -> Files:
    """Files of hidden states, and the executions that made them."""
    cases, found = list[Case](), Files()
    for name, texts in HIDDEN.items():
        m, chance, groups = MANIFESTS[name], random.Random(name), list[Case]()
        train, dev = texts[:-2], texts[-2:]

        def give(
            tokens: Tensor, m: Manifest = m, chance: random.Random = chance, groups: list[Case] = groups
        ) -> Tensor:
            states = torch.tensor(numbers(chance, tokens.numel() * m.architecture.hidden))
            groups.append({"tokens": tokens.tolist(), "states": states.tolist()})
            return states.reshape(*tokens.shape, m.architecture.hidden)

        done, file = list[int](), f"hidden/{name}.safetensors"

        def note(tokens: int, of: int, done: list[int] = done) -> None:
            done.append(tokens)

        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / HIDDEN_FILE
            write_hidden(path, m, texts, give, note)
            found[file] = path.read_bytes()
            rows = [row for e in texts for row in e.rows]
            length = max(len(row.tokens) for row in rows)
            padded = [[*row.tokens, *[m.pad_token] * (length - len(row.tokens))] for row in rows]
            read = HiddenStates(path, m, texts).rows(torch.tensor(padded))
        assert read is not None
        cases.append({
            "manifest": name, "file": file, "train": [described(e) for e in train], "dev": [described(e) for e in dev],
            "crc": digest(texts), "groups": groups, "done": done, "read": read.flatten().tolist(),
        })  # fmt: skip
    return found | {"hidden.json": lines("the hidden states of examples: which rows go together, and the file", cases)}


# Rows that come twice, in other examples too; that differ in the padding token at their ends, which is 1; that are
# shorter than the program's least.
_CHOICES = (Example((5, 6, 7), -1, 1), Example((5, 6, 8, 9), -1, 2), Example((5, 6, 7, 8, 9, 10), -1, 3))
HIDDEN = {
    "classification": [
        Example((9, 8, 7, 6, 5), 0), Example((9, 8), 1), Example((7, 7, 7), 1), Example((9, 8, 7, 6, 5), 1),
        Example((9, 8, 1), 0), Example((4, 4, 4, 4, 1, 1), 0), Example((4, 4, 4, 4), 1), Example((7, 7, 7), 1),
        Example((3, 1, 2, 1), 0),
    ],
    "choices": [
        Example(_CHOICES[1].tokens, 1, 2, _CHOICES), Example(_CHOICES[0].tokens, 0, 1, _CHOICES[:2]),
        Example((6, 7, 8), 1, 1, (Example((8, 7, 6), -1, 1), Example((6, 7, 8), -1, 1))),
        Example(_CHOICES[2].tokens, 0, 3, (_CHOICES[2], Example((2, 2), -1, 1))),
    ],
}  # fmt: skip


# A run that began with a state of 40 steps, as it is after three of its own.
AFTER, STEPS = 40, 3
CONFIG = TrainConfig(steps=10, lr=0.02, eps=0.01, seed=3, eval_every=3, after=AFTER)
EXAMPLES = [Example((5 + i, 7, 9, 11, *[6] * (i % 3)), i % 2) for i in range(6)]
PROGRAM, DATA, FROM = "/programs/golden/program.pte", "/data/golden.prge", "/runs/before"


def run_files() -> Files:
    m, chance = MANIFESTS["classification"], random.Random("run")
    start, state, good = (torch.tensor(numbers(chance, m.state_size)) for _ in range(3))
    data = {
        "train": DATA, "dev": None, "dev_fraction": 0.0, "limit": None, "seed": CONFIG.seed, "truncate": False,
        "tokenizer": None, "from": FROM, "device": "cpu", "cache": HIDDEN_FILE, "examples": len(EXAMPLES), "dropped": 2,
        "crc": digest(EXAMPLES),
    }  # fmt: skip
    before, evaluation = (Evaluation(0.1 + 0.2, torch.empty(0), None, {"accuracy": n / 3}) for n in (1, 2))
    records = []
    for step in range(STEPS):
        losses = numbers(chance, m.batch) if step != 1 else [math.inf, numbers(chance, 1)[0]]
        records.append(StepRecord(
            step, sum(losses) / m.batch, CONFIG.lr_at(step, m), CONFIG.eps, CONFIG.seed_at(step, m.queries), 12,
            0.125 + step / 3, tuple(losses), (2 * step, 2 * step + 1), step == 1,
            evaluation if step == 2 else None,
        ))  # fmt: skip
    program = cast(StepProgram, SimpleNamespace(path=Path(PROGRAM), runtime="executorch", manifest=m))
    found = Files()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        run = RunFolder.begin(folder, program, CONFIG, data, start)
        found["run/begun.safetensors"] = (folder / "state.safetensors").read_bytes()
        for record in records:
            run.log(record, state, Guard(m.batch, len(m.labels), good), None if record.step else before)
        run.close()
        for name in ("config.json", "log.jsonl", "state.safetensors", "best.safetensors", "start.safetensors"):
            found[f"run/{name}"] = (folder / name).read_bytes()
    steps = []
    for record in records:
        row: dict[str, Any] = {k: v for k, v in vars(record).items() if k != "evaluation"}
        row |= {"loss": exact(record.loss), "losses": [exact(loss) for loss in record.losses]}
        due = {"dev": record.evaluation, "before": None if record.step else before}
        row |= {name: {"loss": e.loss, "accuracy": e.accuracy} for name, e in due.items() if e}
        steps.append(row)
    given: Case = {
        "manifest": "classification", "program": PROGRAM, "data": DATA, "from": FROM, "cache": HIDDEN_FILE,
        "dropped": 2, "examples": [described(e) for e in EXAMPLES], "train": vars(CONFIG), "start": start.tolist(),
        "steps": steps, "state": state.tolist(), "good": good.tolist(),
    }  # fmt: skip
    return found | {"run.json": lines("what the folder `run` was made of", [given])}


def line(row: dict[str, Any]) -> str:
    text = json.dumps(row, separators=(",", ":"))
    return f'{text[:-1]},"crc":"{zlib.crc32(text.encode()):08x}"}}\n'


def journal_files() -> Files:
    """Journals that were cut off or damaged."""
    rows = [{"step": i, "loss": 0.5 + i, "text": 'a "quoted","crc":"word'} for i in range(3)]
    written = [line(row) for row in rows]
    whole, cases = "".join(written), list[Case]()
    for about, text in {
        "empty": "",
        "whole": whole,
        "the last line is cut off": whole[:-1],
        "only the first letter of a line": written[0] + "{",
        "a digit is another one": whole.replace('"loss":1.5', '"loss":1.6'),
        "a checksum is another one": whole.replace('"crc":"' + written[1][-11:-3], '"crc":"00000000'),
        "a line without a checksum": written[0] + '{"step":1}\n' + written[2],
        "a line that is no JSON": written[0] + "\n" + written[1],
        "a step is missing": written[0] + written[2],
        "a step comes twice": written[0] + written[0],
        "a space in a line": written[0].replace(",", ", ", 1),
    }.items():
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "log.jsonl"
            path.write_bytes(text.encode())
            try:
                found: Case = {"rows": read_journal(path)[0]}
            except UserError as e:
                at = re.search(r"is damaged at byte ([\d,]+)", str(e))
                assert at
                found = {"damaged_at": int(at[1].replace(",", ""))}
        cases.append({"about": about, "text": text} | found)
    return {"journal.json": lines("journals, and their records or where they are damaged", cases)}


def files() -> Files:
    """The vectors of this part."""
    return packed_files() | hidden_files() | run_files() | journal_files()
