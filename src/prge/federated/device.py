"""A device's side: its program, its examples, and what it answers. The examples stay on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from torch import Tensor

from prge.errors import UserError
from prge.examples.rows import Example
from prge.federated.order import ARRAYS, CONFIG, EXAMPLES, METRICS, PARAMETERS, SLOPES, Order
from prge.federated.settings import Settings, dirichlet
from prge.federated.shares import shares
from prge.federated.way import advance, caught_up, fresh
from prge.files.system import lock
from prge.runtime_driver.data.batches import batches, collate
from prge.runtime_driver.data.hidden import Keeping
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.loop.train import corrected, mean_of
from prge.runtime_driver.program.step import StepProgram

# Names of what a device keeps between rounds, where slopes travel.
_STATE, _ROUNDS = "state", "rounds"
# Of Flower's: the app refused. Its text goes to the server's log.
_REFUSED = 2


class Device:
    """A device in a round.

    Attributes:
        program: the same on all devices.
        train, held: its examples, and those of them that it only evaluates on.
        number: tells its batches and directions from those of others.
    """

    def __init__(self, context: Context):
        """Raises: UserError, program or data are not there, or cannot be read."""
        settings, own = Settings.read(context.run_config), context.node_config
        self.number = int(own.get("partition-id", context.node_id)) % 2**31
        # A device that names no file of its own is one of a simulation's, which share file and folder.
        alone = "data" in own
        kept = own.get("cache") if alone else str(Path(settings.output) / "hidden")
        path, data = str(own.get("program", settings.program)), str(own.get("data", settings.data))
        if not data:
            raise UserError("this device has no examples: start its SuperNode with --node-config 'data=\"FILE\"'")
        opened = path, data, str(kept) if kept else None, settings.truncate
        self.program, examples = _opened(*opened)
        of = 1 if alone else int(own.get("num-partitions", 1))
        if of > 1:
            share = _shares(opened, of, settings.split, settings.seed)[self.number % of]
            examples = [examples[i] for i in share]
        aside = len(examples) // 5 if settings.evaluating else 0
        self.train, self.held = examples[: len(examples) - aside], examples[len(examples) - aside :]

    def answer_training(self, content: RecordDict, memory: RecordDict) -> RecordDict:
        """k steps on this device's examples. The answer holds parameters or slopes, their loss, and how many examples.

        Args:
            memory: the device's own between rounds; only where slopes travel.
        """
        order, (name, arrays) = self._read(content)
        if name == SLOPES:
            found, losses = self._slopes(order, self._caught_up(arrays, order, memory))
        else:
            found, losses = self._parameters(order, fresh(self.program.manifest, arrays))
        if not found.isfinite().all():
            raise UserError("the losses of this device's examples are not finite; its answer is left out")
        metrics = {EXAMPLES: len(self.train), "loss": mean_of(losses), "round": order.round}
        return RecordDict({ARRAYS: _sent(name, found), METRICS: MetricRecord({**metrics})})

    def answer_evaluation(self, content: RecordDict, memory: RecordDict) -> RecordDict:
        """Loss and metrics of the server's parameters on examples that this device does not train on."""
        order, (name, arrays) = self._read(content)
        m = self.program.manifest
        state = self._caught_up(arrays, order, memory) if name == SLOPES else fresh(m, arrays)
        if not self.held:
            raise UserError("this device has too few examples to evaluate on")
        found = evaluate(self.program, state, self.held)
        metrics = {EXAMPLES: len(self.held), "loss": found.loss, **found.metrics}
        return RecordDict({METRICS: MetricRecord({**metrics})})

    def _read(self, content: RecordDict) -> tuple[Order, tuple[str, Tensor]]:
        """The order, and the array's name and numbers.

        Raises:
            UserError: it is another program's, or not of this app's form.
        """
        order = Order.read(content.config_records[CONFIG])
        order.check(self.program)
        m = self.program.manifest
        [(name, array)] = content.array_records[ARRAYS].items()
        found = torch.from_numpy(np.array(array.numpy(), dtype=np.float32))
        wanted = SLOPES if m.gradient == "weights" else PARAMETERS
        if name != wanted or (name == PARAMETERS and found.shape != (m.parameters,)):
            raise UserError(f"the server sent {name} {tuple(found.shape)}; this program takes {wanted}")
        return order, (name, found)

    def _caught_up(self, missed: Tensor, order: Order, memory: RecordDict) -> Tensor:
        """The state behind all rounds before this one; the device keeps it for the next."""
        m, have = self.program.manifest, 0
        state = self.program.initial_state()
        if _STATE in memory:
            have = int(memory.config_records[_ROUNDS][_ROUNDS])  # type: ignore[arg-type]
            state = torch.from_numpy(memory.array_records[_STATE][_STATE].numpy())
        if have < order.since:
            raise UserError(f"this device has {have} rounds, and the server's message begins behind {order.since}")
        missed = missed[have - order.since :]
        state = caught_up(m, state, list(missed), Order(**{**vars(order), "since": have}))
        memory[_STATE] = _record(_STATE, state)
        memory[_ROUNDS] = ConfigRecord({_ROUNDS: have + len(missed)})
        return state

    def _batches(self, order: Order) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """The round's batches, as tensors. Rounds go on behind each other, as a run's steps do."""
        m = self.program.manifest
        wanted = islice(batches(self.train, m.batch, order.seed + self.number), order.first, order.first + order.steps)
        for batch in wanted:
            yield collate([self.train[i] for i in batch], m)

    def _parameters(self, order: Order, state: Tensor) -> tuple[Tensor, list[float]]:
        """The parameters f32[parameters] behind the round's steps from ``state``, and the steps' losses."""
        m, losses = self.program.manifest, []
        for step, (tokens, targets) in enumerate(self._batches(order)):
            seed = order.seed_at(step, m.queries) + (self.number << 20)  # the others' directions add to these
            lr = corrected(order.lr_at(step), step, m)
            state, each = self.program.step(state, tokens, targets, seed, lr, order.eps)
            losses.append(mean_of(each.tolist()))
        return state[: m.parameters], losses

    def _slopes(self, order: Order, state: Tensor) -> tuple[Tensor, list[float]]:
        """The slopes f32[k, q] along the round's directions from ``state``, and the steps' losses."""
        m, slopes, losses = self.program.manifest, [], []
        for step, (tokens, targets) in enumerate(self._batches(order)):
            _, each = self.program.step(state, tokens, targets, order.seed_at(step, m.queries), 0.0, order.eps)
            plus, minus = each.reshape(2, m.queries)
            slopes.append((plus - minus) / (2.0 * order.eps))
            losses.append(mean_of(each.tolist()))
            only = Order(**{**vars(order), "first": order.first + step})
            state = advance(m, state, slopes[-1].unsqueeze(0), only)
        return torch.stack(slopes), losses


def reply(message: Message, context: Context, work: Callable[[Device], RecordDict]) -> Message:
    """The device's answer to a message; one that says why where there is none."""
    try:
        return Message(work(Device(context)), reply_to=message)
    except UserError as e:
        return Message(Error(_REFUSED, str(e)), reply_to=message)


@cache
def _opened(program: str, data: str, kept: str | None, truncate: bool) -> tuple[StepProgram, list[Example]]:
    """A program and the examples of a file, once in each process."""
    found = StepProgram(Path(program))
    found.truncate = truncate
    examples = found.examples(data)
    file = Keeping(Path(kept)).file(Path(kept), found.manifest, examples) if kept else None
    if file:
        with file.with_suffix(".lock").open("w") as held:  # the first of a machine's processes makes it for all
            lock(held.fileno())
            found.keep(file, examples)
    return found, examples


@cache
def _shares(opened: tuple[str, str, str | None, bool], devices: int, split: str, seed: int) -> list[list[int]]:
    return shares(_opened(*opened)[1], devices, dirichlet(split), seed)


def _sent(name: str, numbers: Tensor) -> ArrayRecord | ConfigRecord:
    """What goes to the server: of slopes the bytes alone, as an array's names and checksums are many times as long."""
    return ConfigRecord({name: numbers.numpy().tobytes()}) if name == SLOPES else _record(name, numbers)


def _record(name: str, tensor: Tensor) -> ArrayRecord:
    return ArrayRecord({name: Array(tensor.numpy())})
