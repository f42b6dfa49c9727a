"""The training loop: batches in, a state and a record out after every step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor

from prge.errors import UserError
from prge.examples.rows import Example
from prge.manifest import Manifest
from prge.runtime_driver.data.batches import batches, collate
from prge.runtime_driver.loop.calibrate import Estimates, propose_lr
from prge.runtime_driver.loop.evaluate import Evaluation, evaluate
from prge.runtime_driver.program.step import StepProgram


def corrected(lr: float, behind: int, manifest: Manifest) -> float:
    """An lr that makes up for the optimizer's means, which begin at zero and have ``behind`` steps behind them."""
    if manifest.optimizer == "sgd":
        return lr
    mean, square = (1.0 - beta ** (behind + 1) for beta in manifest.betas)
    return lr / mean if manifest.optimizer == "momentum" else lr * math.sqrt(square) / mean


@dataclass(frozen=True)
class TrainConfig:
    """A run's settings.

    Attributes:
        steps: how many steps it makes.
        lr: learning rate of the first step. It falls linearly to zero at the end.
        eps: size of the perturbation.
        seed: of the batches and the directions.
        eval_every: steps between evaluations; 0 for one at the end alone.
        after: how many steps made the state that the run begins with. It goes on behind their batches and directions.
    """

    steps: int
    lr: float
    eps: float
    seed: int = 0
    eval_every: int = 0
    after: int = 0

    def lr_at(self, step: int, manifest: Manifest) -> float:
        """The lr that the program is given: decayed, and corrected for the optimizer's means, which begin at zero."""
        return corrected(self.lr * (1.0 - step / self.steps), self.after + step, manifest)

    def seed_at(self, step: int, queries: int) -> int:
        """The seed that the program is given. No two steps of any two runs share a direction, if their seeds differ."""
        return (self.seed << 32) + (self.after + step) * queries


@dataclass(frozen=True)
class StepRecord:
    """What a step was given, and what came of it.

    Attributes:
        step: its number, from 0.
        loss: mean over the batch, of the state before the step.
        lr, eps, seed: what the program was given.
        tokens: rows times their length, of one execution.
        seconds: without the evaluation.
        losses: of each example or copy, as `StepProgram.step` returns them.
        examples: the batch, as indices of training examples.
        backed_off: the step was thrown away, and the state is the best one so far.
        evaluation: of the state after the step, where one was due.
    """

    step: int
    loss: float
    lr: float
    eps: float
    seed: int
    tokens: int
    seconds: float
    losses: tuple[float, ...]
    examples: tuple[int, ...]
    backed_off: bool = False
    evaluation: Evaluation | None = None


@dataclass
class Guard:
    """Remembers which state of a run was the best, and throws away the steps of a run that has diverged.

    A small batch's loss says little. So the guard looks at `span` steps at a time, and a first loss below that of
    guessing counts as that of guessing.

    Attributes:
        batch: examples in a step.
        classes: with label words; 0 where the answer is text.
        good: the best state so far: the last of those `span` steps whose mean loss is the lowest. Until such steps have
            a lower one than `first`, it is the state that the run began with.
        scale: factor of lr; halved whenever a step is thrown away.
        first: the first loss, but at least that of guessing, ln(classes).
        mean: a running mean of the loss over about `span` steps.
        best: the lowest mean of `span` losses, or `first`.
        losses: those since the last `span`.
    """

    batch: int
    classes: int
    good: Tensor | None = None
    scale: float = 1.0
    first: float = math.inf
    mean: float = math.inf
    best: float = math.inf
    losses: list[float] = field(default_factory=list)

    @property
    def span(self) -> int:
        """Ten steps, or as many as have 40 examples."""
        return max(10, -(-40 // self.batch))

    def watch(self, state: Tensor, loss: float, new_state: Tensor) -> tuple[Tensor, bool]:
        """Decide from where to go on after a step.

        The step is thrown away if its loss or its new state is not finite, or if the run is far above where it began:
        its running mean is twice `first`, and more than 1 nat above it.

        Args:
            state: before the step.
            loss: of that state.
            new_state: after the step.

        Returns:
            the new state and False; or, when the step is thrown away, the best state and True.

        Raises:
            UserError: the run's first loss is not finite.
        """
        if self.first == math.inf and not math.isfinite(loss):
            raise UserError("the first loss is not finite; is --eps far from what `prge calibrate` proposes?")
        mean = self.mean + (loss - self.mean) / self.span  # NaN at the first step (inf - inf), whose loss is never far
        far = not math.isfinite(loss) or mean > self.first + max(self.first, 1.0)
        diverged = far or not bool(new_state.isfinite().all())
        if self.note(loss, diverged):
            self.good = state
        if not diverged:
            return new_state, False
        assert self.good is not None
        return self.good, True

    def note(self, loss: float, backed_off: bool) -> bool:
        """Count a step, as the journal tells of it. Returns whether the state before it is the best so far."""
        fresh = self.first == math.inf
        if fresh:
            self.first = self.best = max(loss, math.log(self.classes or 1))
            self.mean = loss
        if backed_off:
            self.scale, self.mean = self.scale / 2, self.best
            self.losses.clear()
            return fresh
        self.mean += (loss - self.mean) / self.span
        self.losses.append(loss)
        if len(self.losses) < self.span:
            return fresh
        # Several, because a single low loss may be luck of the batch, in a state that is lost already.
        average, before = mean_of(self.losses), self.best
        self.losses.clear()
        self.best = min(average, before)
        return average < before


class RunningMean:
    """A mean of about the last 20 losses, for people to look at. It leaves out what is not finite.

    Attributes:
        value: NaN before the first finite loss.
    """

    value = math.nan

    def __init__(self) -> None:
        self._count = 0

    def add(self, loss: float) -> float:
        """Count a loss; the mean with it."""
        if math.isfinite(loss):
            self._count = min(self._count + 1, 20)
            self.value = loss if self._count == 1 else self.value + (loss - self.value) / self._count
        return self.value


def mean_of(losses: Sequence[float]) -> float:
    """Their mean, added one by one, as in every language. Python's `sum` rounds otherwise since 3.12."""
    total = 0.0
    for loss in losses:
        total += loss
    return total / len(losses)


def fold(
    program: StepProgram,
    state: Tensor,
    train_examples: Sequence[Example],
    dev_examples: Sequence[Example],
    config: TrainConfig,
    first_step: int = 0,
    guard: Guard | None = None,
    evaluating: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[Tensor, StepRecord]]:
    """Yield (state, record) after every step from ``first_step`` on.

    A pure function of its arguments. A run that is cut at any step, and continued with that step's state and guard,
    ends with the same bits. When it diverges, it goes back to its best state and halves lr (`Guard`).

    Raises:
        UserError: halving lr eight times did not help; the last state that was yielded is the best one.
    """
    m, guard = program.manifest, guard or Guard(program.manifest.batch, len(program.manifest.labels))
    order = batches(train_examples, m.batch, config.seed)
    for step, batch in enumerate(islice(order, config.after + first_step, config.after + config.steps), first_step):
        began = time.perf_counter()
        tokens, targets = collate([train_examples[i] for i in batch], m)
        lr, seed = guard.scale * config.lr_at(step, m), config.seed_at(step, m.queries)
        new_state, losses = program.step(state, tokens, targets, seed, lr, config.eps)
        each = losses.tolist()
        loss = mean_of(each)
        seconds = time.perf_counter() - began
        state, backed_off = guard.watch(state, loss, new_state)
        evaluation = None
        last = step + 1 == config.steps
        if dev_examples and (last or (config.eval_every and (step + 1) % config.eval_every == 0)):
            evaluation = evaluate(program, state, dev_examples, evaluating)
        size = tokens.numel() * m.copies
        yield state, StepRecord(
            step, loss, lr, config.eps, seed, size, seconds, tuple(each),
            tuple(batch), backed_off, evaluation,
        )  # fmt: skip
        if guard.scale <= 2**-8:
            raise UserError(
                f"step {step + 1}: smaller learning rates did not help; the best state is kept. "
                "Is --eps or --lr far from what `prge calibrate` proposes?"
            )


def settle(
    program: StepProgram, examples: Sequence[Example], state: Tensor, *, steps: int, lr: float | None,
    eps: float | None, seed: int, eval_every: int, after: int = 0,
) -> TrainConfig:  # fmt: skip
    """The settings of a run from ``state``: eps is the program's and lr is measured where they are None."""
    eps = program.manifest.eps if eps is None else eps
    if lr is None:
        lr = propose_lr(Estimates(program, examples, state), eps)[0]
    return TrainConfig(steps, lr, eps, seed, eval_every, after)


def train(
    program: StepProgram,
    examples: Sequence[Example],
    dev: Sequence[Example] = (),
    *,
    steps: int = 300,
    lr: float | None = None,
    eps: float | None = None,
    seed: int = 0,
    eval_every: int = 50,
    state: Tensor | None = None,
    evaluating: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[Tensor, StepRecord]]:
    """Fine-tune: yields the state f32[state_size] and a record after every step. Nothing is written.

    A pure function of its arguments, so that a run can be made again to the same bits::

        program = prge.load("sst2")
        for state, record in prge.train(program, program.examples("train.tsv"), steps=100):
            print(record.step, record.loss)

    Where the loss diverges, the run goes back to its best state at half the learning rate.

    Args:
        dev: examples to evaluate on every ``eval_every`` steps and at the end; the record has the result.
        lr: of the first step, falling linearly to zero; None to measure it on a few batches.
        eps: size of the perturbation; None for the program's.
        seed: of batches and directions.
        eval_every: 0 for the end alone.
        state: where to begin, with the optimizer's slots; None for the program's initial state.
        evaluating: hears how many dev examples are done.

    Raises:
        UserError: the losses are not finite, or halving the learning rate eight times did not help; the last state
            that was yielded is the best one.
    """
    state = program.initial_state() if state is None else state
    with program.kept([*examples, *dev]):
        config = settle(program, examples, state, steps=steps, lr=lr, eps=eps, seed=seed, eval_every=eval_every)
        yield from fold(program, state, examples, dev, config, evaluating=evaluating)
