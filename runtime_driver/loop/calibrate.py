"""Measures how good a program's gradients are on some data, and proposes lr, and eps, q and B of an estimate."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

import torch
from torch import Tensor

from prge.cost import largest_batch, peak_bytes
from prge.errors import UserError
from prge.examples.rows import Example
from prge.manifest import Manifest
from prge.memory import peak_megabytes
from prge.runtime_driver.data.batches import batches, collate
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.program.step import StepProgram

# Octaves around the program's eps. Below them rounding decides the estimate, above them curvature.
_OCTAVES = (-3, -2, -1, 0, 1, 2, 3)
# Share of the way to the least loss that the first step goes. The search has the mean of four gradients, and a step has
# one, whose noise moves it sideways. Measured: of an estimate on SST-2; and on chats where the answer is text, as their
# batches are small and differ more. With an exact gradient of classes it is the whole way, by five tasks.
_ESTIMATE, _TEXT, _CLASSES = 0.5, 0.125, 1.0
# Ways to try, in octaves above an eighth of the program's own lr. For classes a quarter of it is the longest: a first
# direction that is good for a longer way, as that of the demo's 280 messages, says little of the next ones. More than
# ten classes learn more with a larger lr, whatever the first direction says: theirs are a half and all (docs/bench.md).
_WAYS, _CLASSES_WAYS, _MANY_CLASSES_WAYS, _FEW_CLASSES = range(16), range(2), range(2, 4), 10
# Of them the first to try: the program's own lr, as the way to the least loss is mostly near it; or the last.
_START = 3
# Rounding of a mean loss in int8, which the line search must not take for a rise.
_ROUNDING = 1e-2
# Seeds of batches and directions that no run reaches.
_SEED = 2**31 - 1
_DIRECTIONS = (_SEED << 32) + 2**31


@dataclass(frozen=True)
class Calibration:
    """What was measured, and what it proposes.

    Attributes:
        eps: the one whose estimates agree best with exact ones.
        correlation: of its estimates with exact ones.
        by_eps: (eps, correlation) of all that were tried.
        lr: proposed for the first step.
        along: (way, loss) of the line search along the optimizer's first direction.
        signal: share of an estimate's squared length that is the gradient's.
        directions: share that is noise, because the directions are few.
        examples: share that is noise, because the examples are few.
        queries: q of the shape with the least noise, for the time of the program's step.
        batch: its B.
        seconds_per_step: median.
        longest: tokens of the longest text.
        peak_megabytes: of the process, after a step of the program on texts of that length.
    """

    eps: float
    correlation: float
    by_eps: list[tuple[float, float]]
    lr: float
    along: list[tuple[float, float]]
    signal: float
    directions: float
    examples: float
    queries: int
    batch: int
    seconds_per_step: float
    longest: int
    peak_megabytes: float

    def largest_batch(self, manifest: Manifest, megabytes: float) -> int:
        """The largest B whose step on the longest texts, with the proposed q, stays within; 0 for none.

        The peak was measured. What another q and another B add to it is the estimate of `prge.cost.peak_bytes`.

        Args:
            manifest: of the program that was measured.
        """
        spare = 1e6 * (megabytes - self.peak_megabytes)
        budget = peak_bytes(manifest, self.longest) + spare
        return largest_batch(replace(manifest, queries=self.queries), self.longest, budget)


class Estimates:
    """Gradient estimates of a program, all at the same parameters.

    Attributes:
        batches: eight, which no run draws.
        seconds: of each estimate so far.
    """

    def __init__(self, program: StepProgram, examples: Sequence[Example], state: Tensor | None = None):
        self.program, m = program, program.manifest
        self.state = (program.initial_state() if state is None else state).clone()
        self.state[m.parameters :] = 0.0
        self.batches = [[examples[i] for i in batch] for batch in islice(batches(examples, m.batch, _SEED), 8)]
        self.seconds: list[float] = []

    def gradient(self, batch: int, seed: int, eps: float) -> Tensor:
        """An estimate, f32[parameters].

        Args:
            batch: which one of the batches.
            seed: which directions.

        Raises:
            UserError: it is not finite.
        """
        m, state = self.program.manifest, self.state
        tokens, targets = collate(self.batches[batch], m)
        began = time.perf_counter()
        new, _ = self.program.step(state, tokens, targets, _DIRECTIONS + seed * m.queries, 1.0, eps)
        self.seconds.append(time.perf_counter() - began)
        if not bool(new.isfinite().all()):
            raise UserError(f"the estimate is not finite at eps {eps:g}")
        size = m.parameters
        # The first mean of an optimizer that has one is its share of the gradient; else the step itself.
        return (state - new)[:size] if m.optimizer == "sgd" else new[size : 2 * size] / (1.0 - m.betas[0])


def propose_lr(estimates: Estimates, eps: float) -> tuple[float, list[tuple[float, float]]]:
    """Propose the lr of the first step: a share of the way to the lowest loss along the optimizer's first direction.

    Half of the batches give the direction, the other half the losses.

    Returns:
        lr, and (way, loss) of every way that was tried.
    """
    program, m = estimates.program, estimates.program.manifest
    half = len(estimates.batches) // 2
    gradients = torch.stack([estimates.gradient(i, i, eps) for i in range(half)]).double()
    direction = gradients.mean(0)
    if m.optimizer == "adam":
        direction = direction / (gradients.square().mean(0).sqrt() + 1e-12)
    # Of choices the right one alone: its loss is the example's, and the others would take as long each.
    held = [replace(example, candidates=()) for batch in estimates.batches[half:] for example in batch]

    def loss_at(way: float) -> float:
        state = estimates.state.clone()
        state[: len(direction)] -= way * direction
        return evaluate(program, state, held).loss

    share, octaves = _TEXT, _WAYS
    if m.estimates:
        share = _ESTIMATE
    elif m.labels:
        share, octaves = _CLASSES, _MANY_CLASSES_WAYS if len(m.labels) > _FEW_CLASSES else _CLASSES_WAYS
    ways = [m.lr / 8 * 2.0**i for i in octaves]
    way, along = search_lr(ways, min(_START, len(ways) - 1), loss_at)
    return way * share, along


def search_lr(
    ways: Sequence[float], start: int, loss_at: Callable[[float], float]
) -> tuple[float, list[tuple[float, float]]]:
    """Search along a direction: down from one way until the loss rises, and up from it if no other was better.

    Args:
        ways: each twice the one before.
        start: index of the first to try.
        loss_at: the loss at a way. What is not a number counts as infinite.

    Returns:
        the way to the lowest loss; and (way, loss) of every way that was tried, the shortest first.
    """
    losses: dict[int, float] = {}

    def lowest() -> int:
        return min(sorted(losses), key=losses.__getitem__)

    def falls(i: int) -> bool:
        loss = loss_at(ways[i])
        losses[i] = math.inf if math.isnan(loss) else loss
        return losses[i] <= losses[lowest()] + _ROUNDING

    for i in range(start, -1, -1):
        if not falls(i):
            break
    if lowest() == start:
        for i in range(start + 1, len(ways)):
            if not falls(i):
                break
    along = [(ways[i], losses[i]) for i in sorted(losses)]
    return bottom(along), along


def bottom(points: Sequence[tuple[float, float]]) -> float:
    """The way at the bottom of a parabola through the lowest of some (way, value) and its two neighbours.

    Each way is twice the one before, and the parabola is over their logarithms.
    """
    at = min(range(len(points)), key=lambda i: points[i][1])
    if not 0 < at < len(points) - 1:
        return points[at][0]
    (_, left), (way, middle), (_, right) = points[at - 1 : at + 2]
    bend = left - 2 * middle + right
    octaves = 0.5 * (left - right) / bend if math.isfinite(bend) and bend > 0 else 0.0
    return float(way * 2**octaves)


def fit_reliability(grams: Tensor, eps: Sequence[float], order: int) -> list[float]:
    """Correlation of the estimates at each eps with the exact ones, which nobody has to know.

    An estimate at eps e is ``g + h c + n / e`` with ``h = e^order``: the exact one, curvature, and rounding, which is
    independent at every eps. So the inner product of two is ``S + (h_i + h_j) X + h_i h_j C + [i = j] N / e_i^2``.
    Least squares, relative to the estimates' lengths, give S, X, C and N.

    Args:
        grams: f64[E, E], inner products of the estimates at every two eps, along the same directions.
        eps: E of them.
        order: 1 for one-sided differences, 2 for central ones.
    """
    rows, right = [], []
    for i, j in product(range(len(eps)), repeat=2):
        scale = float((grams[i, i] * grams[j, j]).sqrt())
        a, b = eps[i] ** order, eps[j] ** order
        rows.append([1 / scale, (a + b) / scale, a * b / scale, (eps[i] ** -2 if i == j else 0.0) / scale])
        right.append(float(grams[i, j]) / scale)
    solution = torch.linalg.lstsq(torch.tensor(rows, dtype=torch.float64), torch.tensor(right, dtype=torch.float64))
    s, x = (float(v) for v in solution.solution[:2])
    lengths = [math.sqrt(max(s, 1e-30) * float(grams[i, i])) for i in range(len(eps))]
    return [min(1.0, max(0.0, (s + x * e**order) / length)) for e, length in zip(eps, lengths, strict=True)]


def calibrate(
    program: StepProgram, examples: Sequence[Example], progress: Callable[[str], None] = lambda text: None
) -> Calibration:
    """Measure a program's estimates on a few batches.

    Args:
        progress: hears what is measured now.

    Raises:
        UserError: an estimate is not finite, or the examples make fewer than 8 batches.
    """
    m = program.manifest
    if len(examples) < 8 * m.batch:
        raise UserError(f"calibration takes 8 batches of {m.batch} examples; the data has {len(examples)} examples")
    longest, peak = peak_of_step(program, examples)
    estimates = Estimates(program, examples)
    correlations, tried = [1.0], [m.eps]
    if m.estimates:
        tried = [m.eps * 2.0**octave for octave in _OCTAVES]
        correlations = _reliabilities(estimates, tried, progress)
    correlation, eps = max(zip(correlations, tried, strict=True))
    progress("signal and noise")
    pairs = torch.stack([torch.stack([estimates.gradient(b, 2 * b + s, eps) for s in (0, 1)]) for b in range(8)])
    signal, directions, shares = noise_shares(pairs)
    length = statistics.mean(len(e.tokens) for e in examples)
    queries, batch = propose_shape(m, directions, shares, length)
    progress("learning rate")
    lr, along = propose_lr(estimates, eps)
    return Calibration(
        eps, correlation, list(zip(tried, correlations, strict=True)), lr, along, signal, directions, shares,
        queries, batch, statistics.median(estimates.seconds), longest, peak,
    )  # fmt: skip


def _reliabilities(estimates: Estimates, tried: Sequence[float], progress: Callable[[str], None]) -> list[float]:
    """The correlation of the estimates at each eps with the exact ones."""
    grams = torch.zeros(len(tried), len(tried), dtype=torch.float64)
    for batch in range(4):
        progress(f"eps, batch {batch + 1} of 4")
        stacked = torch.stack([estimates.gradient(batch, batch, eps) for eps in tried]).double()
        grams += stacked @ stacked.T
    one_sided = estimates.program.manifest.gradient == "activations"
    return fit_reliability(grams, tried, order=1 if one_sided else 2)


def peak_of_step(program: StepProgram, examples: Sequence[Example]) -> tuple[int, float]:
    """(tokens of the longest example, the process's peak MB after a step on a batch of it)."""
    m, longest = program.manifest, max(examples, key=lambda e: len(e.tokens))
    rows, targets = collate([longest] * m.batch, m)
    program.step(program.initial_state(), rows, targets, _DIRECTIONS, 0.0, m.eps)
    return rows.shape[1], peak_megabytes()


def noise_shares(pairs: Tensor) -> tuple[float, float, float]:
    """What estimates consist of: (signal, noise of directions, noise of examples), shares of their mean squared length.

    Two estimates of one batch share signal and the examples' noise, so their inner product holds these two. The inner
    product of estimates of different batches holds the signal alone.

    Args:
        pairs: f32[batches, 2, S], two estimates of each batch, with independent directions.
    """
    n = pairs.shape[0]
    total = float(pairs.square().sum(2).mean())
    same = float((pairs[:, 0] * pairs[:, 1]).sum(1).mean())
    gram = pairs[:, 0] @ pairs[:, 1].T
    other = float(gram.sum() - gram.diagonal().sum()) / (n * (n - 1))
    signal = max(other, 0.0) / total
    return signal, max(total - same, 0.0) / total, max(same - max(other, 0.0), 0.0) / total


def propose_shape(manifest: Manifest, directions: float, examples: float, length: float) -> tuple[int, int]:
    """(q, B) of the least noise, for the cost of the program's step; as they are where the gradient is exact.

    The noise of B examples with q directions each is ``(V_d / q + V_e) / B``. With perturbed activations a step costs
    ``B (T + (1 + q) M)`` positions, for M target tokens, so the best q is ``sqrt(V_d / V_e (T / M + 1))``. With
    perturbed weights it costs ``2 q B T``: a query costs as much as an example, and examples are worth more.

    Args:
        directions: V_d / q of the program's q, or anything in proportion.
        examples: V_e likewise.
        length: T.
    """
    m, targets = manifest, max(1, manifest.max_targets)
    if not m.estimates:
        return 1, m.batch
    if m.gradient == "weights":
        return 1, m.queries * m.batch
    per_direction = directions * m.queries
    q = math.sqrt(per_direction / max(examples, 1e-6) * (length / targets + 1))
    queries = max(1, min(64, 2 ** round(math.log2(max(q, 1.0)))))
    cost, other = (length + (1 + count) * targets for count in (m.queries, queries))
    return queries, max(1, round(m.batch * cost / other))
