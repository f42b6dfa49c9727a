"""The training loop: a fold of the step over batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from prge.errors import UserError
from prge.manifest import Manifest
from prge.runtime_driver.data import Example, batches, collate
from prge.runtime_driver.evaluate import Evaluation, evaluate
from prge.runtime_driver.program import StepProgram


@dataclass(frozen=True)
class TrainConfig:
    """A run's settings.

    Attributes:
        steps: how many.
        lr, eps: of the first step; lr falls linearly to zero at the last.
        seed: of the batches and the directions.
        eval_every: steps between evaluations; 0 for none but the last.
    """

    steps: int
    lr: float
    eps: float
    seed: int = 0
    eval_every: int = 0

    def lr_at(self, step: int, manifest: Manifest) -> float:
        """The program's lr of a step: with the decay, and the correction that the optimizer's young means need."""
        lr = self.lr * (1.0 - step / self.steps)
        mean, square = (1.0 - beta ** (step + 1) for beta in manifest.betas)
        if manifest.optimizer == "sgd":
            return lr
        return lr / mean if manifest.optimizer == "momentum" else lr * math.sqrt(square) / mean

    def seed_at(self, step: int, queries: int) -> int:
        """The program's seed of a step: runs and steps never share a direction."""
        return (self.seed << 32) + step * queries


@dataclass(frozen=True)
class StepRecord:
    """What one step was and gave; ``evaluation`` where one followed it."""

    step: int
    loss: float
    lr: float
    eps: float
    seed: int
    tokens: int
    seconds: float
    evaluation: Evaluation | None = None


def train(
    program: StepProgram,
    state: Tensor,
    train_examples: Sequence[Example],
    dev_examples: Sequence[Example],
    config: TrainConfig,
    first_step: int = 0,
    evaluating: Callable[[int], None] = lambda done: None,
) -> Iterator[tuple[Tensor, StepRecord]]:
    """Yield (state, record) after every step from ``first_step`` on.

    A pure function of its arguments: a run cut at any step and continued from that step's
    state ends with the same bits.

    Raises:
        UserError: when a loss is not finite; the last state yielded is the last good one.
    """
    m = program.manifest
    order = batches(train_examples, m.batch, config.seed)
    for step, batch in enumerate(islice(order, first_step, config.steps), first_step):
        began = time.perf_counter()
        tokens, targets = collate(batch, m)
        lr, seed = config.lr_at(step, m), config.seed_at(step, m.queries)
        new_state, loss = program.step(state, tokens, targets, seed, lr, config.eps)
        seconds = time.perf_counter() - began
        if not math.isfinite(loss) or not bool(new_state.isfinite().all()):
            raise UserError(f"step {step + 1}: the loss is {loss}; the state before it is kept. Try a smaller --lr")
        state = new_state
        evaluation = None
        last = step + 1 == config.steps
        if dev_examples and (last or (config.eval_every and (step + 1) % config.eval_every == 0)):
            evaluation = evaluate(program, state, dev_examples, evaluating)
        size = tokens.numel() * m.copies
        yield state, StepRecord(step, loss, lr, config.eps, seed, size, seconds, evaluation)
