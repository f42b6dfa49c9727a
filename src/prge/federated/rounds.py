"""The server's folder: every round is on disk before the next begins, so that a killed server goes on where it was."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from torch import Tensor

from prge.errors import UserError
from prge.federated.admission import admitted
from prge.federated.order import ARRAYS, CONFIG, SLOPES, Order, identity
from prge.federated.settings import Settings
from prge.federated.way import Slopes, way_of
from prge.files.bounded import SETTINGS, read_bounded
from prge.files.checked import load_checked, replace, save_checked
from prge.files.folders import refuse_used
from prge.files.typed import parse_json
from prge.lora import ADAPTER_FOLDER
from prge.memory import return_freed
from prge.runtime_driver.data.hidden import Keeping
from prge.runtime_driver.loop.best import Best
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.step import StepProgram
from prge.runtime_driver.run.journal import Journal, read_journal

CONFIG_FILE, LOG_FILE, SNAPSHOT_FILE = "federation.json", "rounds.jsonl", "server.safetensors"
STATE_FILE, BEST_FILE = "state.safetensors", "best.safetensors"
# FedAdam's means, which Flower's strategy holds as attributes.
_MEANS = ("m_t", "v_t")
# Flower's own, which `flwr run --stream` and `flwr log` show.
_LOG = logging.getLogger("flwr")


class Rounds:
    """The rounds of a federation: those that are done, and what the next ones begin with.

    Attributes:
        way: the state, and what of it travels.
        rows: the journal's, one for each round that is done.
    """

    def __init__(self, settings: Settings):
        """Begin a federation in ``settings.output``, or go on with the one that is there.

        Raises:
            UserError: the program cannot be read, the folder holds something else, or another federation.
        """
        self.settings, self.folder = settings, Path(settings.output)
        self.program = StepProgram(Path(settings.program))
        self.program.truncate = settings.truncate
        self.manifest = self.program.manifest
        self._dev = self._read_dev()
        self._begin()
        self._has: dict[int, int] = {}  # where slopes travel: how many rounds a node has
        described = {**settings.described, "program": list(identity(self.program))}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / CONFIG_FILE).exists():
                refuse_used(self.folder, ("hidden", LOG_FILE, SNAPSHOT_FILE, CONFIG_FILE))
            self._journal = Journal(self.folder / LOG_FILE)
        except OSError as e:
            raise UserError(f"{self.folder} cannot be written: {e.strerror}") from e
        kept, metadata = self._kept(described)
        initial = self.program.initial_state()
        self.way = way_of(self.manifest, settings.steps, initial, kept)
        self._means = {name: kept[name].numpy() for name in _MEANS if name in kept} if kept else {}
        rows, ends = read_journal(self.folder / LOG_FILE)
        done = int(metadata.get("rounds", 0))
        if len(rows) < done:
            raise UserError(f"{self.folder / LOG_FILE} has {len(rows)} rounds, and the state is behind {done}")
        self.rows = rows[:done]
        self._journal.cut(ends[done - 1] if done else 0)
        self._best, self._best_state = Best(), kept["best"] if kept and "best" in kept else None
        for row in self.rows:
            self._best.note_row(row)
        if not (self.folder / CONFIG_FILE).exists():
            replace(self.folder / CONFIG_FILE, (json.dumps(described, indent=2) + "\n").encode())

    def __enter__(self) -> Rounds:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._journal.close()

    def left(self) -> Iterator[int]:
        """The numbers of the rounds that are left, from 1."""
        yield from range(len(self.rows) + 1, self.settings.rounds + 1)

    def restored(self, strategy: Strategy) -> Strategy:
        """Give a strategy the means back that it had when the server stopped."""
        inner = getattr(strategy, "strategy", strategy)  # privacy is wrapped around
        for name, value in self._means.items():
            setattr(inner, name, {self.way.name: value})
        return strategy

    @property
    def arrays(self) -> ArrayRecord:
        """What the strategy takes as the state: the parameters, or slopes of zero."""
        return ArrayRecord({self.way.name: Array(self.way.stands())})

    def order(self, number: int) -> ConfigRecord:
        """What devices are to do in a round."""
        return self._order(number).record()

    def sent(self, messages: Iterable[Message]) -> list[Message]:
        """The messages to send; where slopes travel, each with the rounds that its device lacks."""
        found = list(messages)
        if isinstance(self.way, Slopes):
            for message in found:
                since = min(self._has.get(message.metadata.dst_node_id, 0), self.way.rounds)
                config = ConfigRecord({**message.content.config_records[CONFIG], "since": since})
                arrays = ArrayRecord({SLOPES: Array(self.way.missed(since))})
                message.content = RecordDict({ARRAYS: arrays, CONFIG: config})
        self._down += [_bytes(message) for message in found]
        return found

    def noted(self, replies: Iterable[Message]) -> list[Message]:
        """The answers, with their bytes counted. An error may come of a lost memory: that device is told all again."""
        found = list(replies)
        self._up += [_bytes(message) for message in found]
        if isinstance(self.way, Slopes):
            for message in found:
                self._has[message.metadata.src_node_id] = 0 if message.has_error() else self.way.rounds
        return found

    def admitted(self, number: int, replies: Iterable[Message]) -> list[Message]:
        """The answers that count."""
        answers, refused = admitted(replies, number, self.way.name, self.way.stands())
        self._refused += refused
        return answers

    def take(self, number: int, arrays: ArrayRecord | None) -> None:
        """Go on by what the strategy made of the answers; None where none counted, and the state stays."""
        found = self.way.stands() if arrays is None else arrays[self.way.name].numpy()
        self.way.take(found, self._order(number))

    def close(
        self, number: int, strategy: Strategy, metrics: MetricRecord | None, told: MetricRecord | None
    ) -> dict[str, Any]:
        """Evaluate the state, and write it down with the round.

        Args:
            metrics: what the answers' losses came to.
            told: what the devices' evaluations came to.

        Returns:
            the journal's row.
        """
        row: dict[str, Any] = {
            "step": number - 1, "round": number, "seconds": time.perf_counter() - self._began,
            "sent": len(self._down), "heard": len(self._up), "refused": dict(self._refused),
            "bytes_down": sum(self._down), "bytes_up": sum(self._up),
            "most_down": max(self._down, default=0), "most_up": max(self._up, default=0),
        }  # fmt: skip
        row |= {"loss": metrics["loss"]} if metrics else {}
        row |= {"devices": dict(told)} if told else {}
        if self._dev:
            if number == 1:
                row["before"] = self._evaluated(self.program.initial_state())
                self._best.note(0, row["before"])
            row["dev"] = self._evaluated(self.way.state)
            if self._best.note(number, row["dev"]):
                self._best_state = self.way.state
        self._journal.append(row)
        self._journal.sync()
        inner = getattr(strategy, "strategy", strategy)
        means = {name: getattr(inner, name, None) for name in _MEANS}
        tensors = {name: torch.from_numpy(value[self.way.name]).float() for name, value in means.items() if value}
        tensors |= self.way.kept() | ({} if self._best_state is None else {"best": self._best_state})
        save_checked(self.folder / SNAPSHOT_FILE, tensors, {**self.manifest.identity, "rounds": str(number)})
        self.rows.append(row)
        _LOG.info("%s", said(row, self.settings.rounds))
        self._begin()
        return row

    def finish(self) -> Path:
        """Write the state, and the adapter of the best state on dev, or of the last one; the adapter's folder."""
        steps = len(self.rows) * self.settings.steps
        self.program.save_state(self.folder / STATE_FILE, self.way.state, steps)
        best = self.way.state
        if self._best.steps is not None:
            best = self.program.initial_state() if self._best_state is None else self._best_state
            self.program.save_state(self.folder / BEST_FILE, best, (self._best.steps or 0) * self.settings.steps)
        self.program.save_adapter(self.folder / ADAPTER_FOLDER, best)
        return self.folder / ADAPTER_FOLDER

    def _evaluated(self, state: Tensor) -> dict[str, float]:
        found = evaluate(self.program, state, self._dev)
        return {"loss": found.loss, **found.metrics}

    def _begin(self) -> None:
        self._began, self._down, self._up = time.perf_counter(), list[int](), list[int]()
        self._refused: Counter[str] = Counter()

    def _order(self, number: int) -> Order:
        s, (program, base) = self.settings, identity(self.program)
        eps = s.eps or self.manifest.eps
        return Order(program, base, number, (number - 1) * s.steps, s.steps, s.rounds * s.steps, s.lr, eps, s.seed)

    def _read_dev(self) -> list[Any]:
        if not self.settings.dev:
            return []
        examples = self.program.examples(self.settings.dev)
        file = Keeping(self.folder / "hidden").file(self.folder, self.manifest, examples)
        if file:
            self.program.keep(file, examples)
        return_freed()
        return examples

    def _kept(self, described: dict[str, Any]) -> tuple[dict[str, Tensor] | None, dict[str, str]]:
        """The snapshot of a federation that has begun, and its metadata.

        Raises:
            UserError: it is another federation's.
        """
        file = self.folder / CONFIG_FILE
        if not file.exists():
            return None, {}
        try:
            before = parse_json(read_bounded(file, SETTINGS))
        except ValueError as e:
            raise UserError(f"{file} is not a federation's: {e}") from e
        if before != described:
            other = [k for k in described if not isinstance(before, dict) or before.get(k) != described[k]]
            raise UserError(
                f"{self.folder} holds a federation with another {', '.join(other)}; set them back in the app's "
                "pyproject.toml, or choose another output"
            )
        if not (self.folder / SNAPSHOT_FILE).exists():
            return None, {}
        return load_checked(self.folder / SNAPSHOT_FILE, "a federation's state", required=True)


def _bytes(message: Message) -> int:
    """Of all parts that a message is sent in."""
    parts = get_all_nested_objects(message).values() if message.has_content() else []
    return sum(len(part.deflate()) for part in parts)


def said(row: dict[str, Any], rounds: int) -> str:
    """A round in a line, for people."""
    numbers = {"loss": row.get("loss"), **{f"dev {name}": value for name, value in row.get("dev", {}).items()}}
    numbers |= {f"devices' {name}": value for name, value in row.get("devices", {}).items()}
    text = ", ".join(f"{name} {value:.3f}" for name, value in numbers.items() if value is not None)
    refused = "".join(f"; refused {n}: {why}" for why, n in row["refused"].items())
    return f"round {row['round']} of {rounds}: {text}; at most {row['most_up']:,} bytes up{refused}"
