"""The numbers of a run: batches, learning rates and seeds, the guard, the lr search, loops, evaluations, noise."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor

from prge.examples.rows import Example
from prge.manifest import Manifest
from prge.models.noise import Noise, noise
from prge.runtime_driver.data.batches import batches
from prge.runtime_driver.loop.calibrate import search_lr
from prge.runtime_driver.loop.evaluate import evaluate
from prge.runtime_driver.loop.train import TrainConfig
from prge.runtime_driver.program.step import StepProgram

from .tokens import HOST, MANIFESTS, Files, described, lines, manifest

Case = dict[str, Any]


def exact(number: float) -> float | str:
    """A float64 as JSON, from which it comes back to the bit."""
    return number if math.isfinite(number) else str(number)


def numbers(chance: random.Random, count: int) -> list[float]:
    """Float32s."""
    return torch.tensor([chance.uniform(-2.0, 2.0) for _ in range(count)]).tolist()


def batch_cases() -> Iterator[Case]:
    """(examples, classes, B, seed, first step, batches)"""
    for n, classes, size, seed, first, count in (
        (10, 1, 3, 0, 0, 12),
        (50, 3, 4, 7, 0, 39),
        (100, 2, 2, 2**31 - 1, 40, 25),
        (5, 2, 8, 1, 0, 3),
        (1, 1, 1, 5, 0, 2),
        (64, 5, 4, 42, 1000, 20),
    ):
        chance = random.Random(n)
        labels = [min(chance.randrange(classes), chance.randrange(classes)) if classes > 1 else -1 for _ in range(n)]
        lengths = [chance.randrange(1, 30) for _ in range(n)]
        examples = [Example((1,) * length, label) for length, label in zip(lengths, labels, strict=True)]
        found = list(islice(batches(examples, size, seed), first, first + count))
        yield {
            "labels": labels, "lengths": lengths, "batch": size, "seed": seed, "first": first, "batches": found,
        }  # fmt: skip


def schedule_cases() -> Iterator[Case]:
    runs = (((0.9, 0.99), 10, 0, 0), ((0.9, 0.999), 300, 3, 0), ((0.5, 0.9), 7, 2**31 - 1, 290))
    for optimizer, (betas, steps, seed, after) in product(("sgd", "momentum", "adam"), runs):
        m, config = manifest("bpe", optimizer=optimizer, betas=betas), TrainConfig(steps, 0.02, 0.01, seed, 0, after)
        some = sorted({0, 1, 2, 5, steps // 2, steps - 1})
        made = [[step, config.lr_at(step, m), config.seed_at(step, m.queries)] for step in some]
        yield {
            "optimizer": optimizer, "betas": betas, "queries": m.queries, "steps": steps, "lr": config.lr,
            "seed": seed, "after": after, "made": made,
        }  # fmt: skip


def guarded(batch: int, classes: int, steps: Sequence[tuple[float, bool]]) -> list[Case]:
    """What the guard makes of (loss, whether the new state is finite): docs/run-folder.md's rules, written again.

    States have numbers: step s makes state s + 1, unless the run goes back to its good state.
    """
    first = mean = best = math.inf
    span = max(10, math.ceil(40 / batch))
    scale, good, at, losses, found = 1.0, -1, 0, list[float](), list[Case]()
    for number, (loss, finite) in enumerate(steps):
        if number == 0:
            if not math.isfinite(loss):
                return [{"loss": exact(loss), "finite": finite, "error": True}]
            first = best = max(loss, math.log(classes)) if classes else loss
            mean, good = loss, 0
        reached = mean + (loss - mean) / span
        back = not math.isfinite(loss) or not finite or reached > first + max(first, 1.0)
        if back:
            scale, mean, losses = scale / 2, best, []
        else:
            mean, losses = reached, [*losses, loss]
        if len(losses) == span:
            average, losses = math.fsum(losses) / span, []
            if average < best:
                best, good = average, at
        at = good if back else number + 1
        found.append({
            "loss": exact(loss), "finite": finite, "backed_off": back, "scale": scale, "first": first, "mean": mean,
            "best": best, "good": good, "state": at,
        })  # fmt: skip
        if scale <= 2**-8:
            break
    return found


def best_cases() -> Iterator[Case]:
    """Which evaluations' states a run keeps: docs/run-folder.md's rule, written again."""
    made: dict[str, list[tuple[float, float | None]]] = {
        "the highest accuracy, whatever the loss": [(0.7, 0.5), (0.9, 0.75), (0.25, 0.625), (1.0, 1.0)],
        "the last one that is nearly as good": [(0.5, 0.75), (0.7, 0.74), (0.4, 0.765625), (0.3, 0.74), (0.4, 0.75)],
        "nearly as the highest, which need not be the last": [(0.5, 0.5), (0.5, 0.515625), (0.5, 0.5), (0.5, 0.484375)],
        "without a choice the lowest loss": [(2.0, None), (1.5, None), (1.75, None), (0.5, None)],
        "never one whose loss is not finite": [(0.7, 0.5), (math.nan, 1.0), (math.inf, 1.0), (0.9, 0.625)],
        "but at the beginning": [(math.nan, 0.5), (math.nan, 1.0), (3.0, 0.0), (math.nan, 1.0)],
        "nothing is better than the start": [(0.5, 0.5), (0.5, 0.25), (0.25, 0.25)],
    }
    for about, evaluations in made.items():
        found, reached = list[Case](), (-1.0, 0.0)
        for loss, accuracy in evaluations:
            score = (accuracy or 0.0, -loss) if math.isfinite(loss) else (-0.5, 0.0)
            highest, reached = score > reached, max(score, reached)
            near = accuracy is not None and score[0] >= max(0.0, reached[0] - 0.02)
            found.append({"loss": exact(loss), "accuracy": accuracy, "best": highest or near})
        yield {"about": about, "evaluations": found}


def guard_cases() -> Iterator[Case]:
    """Losses are multiples of 1/1024, so that the sum of ten is the same in every order."""
    chance = random.Random(0)

    def around(mean: float, count: int) -> list[tuple[float, bool]]:
        return [(round((mean + chance.uniform(-0.2, 0.2)) * 1024) / 1024, True) for _ in range(count)]

    def single(count: int) -> list[tuple[float, bool]]:
        """Losses of one example each: mostly small, some very large."""
        return [(round(1024 * chance.expovariate(4.0) ** 2 * 6) / 1024, True) for _ in range(count)]

    falling = [pair for i in range(6) for pair in around(0.7 - 0.1 * i, 5)]
    for batch, classes, about, steps in (
        (16, 0, "the loss falls", falling),
        (8, 0, "it rises slowly and far", falling + around(1.5, 10) + around(4.0, 20) + around(0.5, 12)),
        (16, 0, "a single step far off is no divergence", [*around(0.7, 5), (3.5, True), *around(0.7, 5)]),
        (16, 0, "a loss, then a state, that is not finite", [
            *around(0.7, 12), (math.nan, True), *around(0.7, 3), (math.inf, False), (0.5, False), *around(0.6, 11),
        ]),
        (16, 0, "the first state is not finite", [(0.75, False), *around(0.7, 12)]),
        (16, 0, "nor are the next", [(0.75, False), (0.75, False), (math.inf, True), *around(0.7, 3)]),
        (16, 0, "a large first loss may double", [(8.0, True), *around(15.0, 60)]),
        (16, 0, "smaller learning rates do not help", [*around(0.7, 3), *[(math.nan, True)] * 12]),
        (16, 0, "the first loss is not finite", [(math.inf, True)]),
        (16, 0, "the first loss is not a number", [(math.nan, False)]),
        (16, 2, "a lucky first loss", [(0.0625, True), *around(0.6, 30)]),
        (1, 6, "one example a step", [(0.03125, True), *single(170)]),
        (3, 2, "three, and it diverges", [*around(0.7, 40), *around(6.0, 30), *around(0.6, 30)]),
    ):  # fmt: skip
        yield {"about": about, "batch": batch, "classes": classes, "steps": guarded(batch, classes, steps)}


def search_cases() -> Iterator[Case]:
    nan, inf = math.nan, math.inf
    many, two = [0.001 / 4 * 2**i for i in range(16)], [0.001 / 4, 0.001 / 2]
    for about, ways, start, losses in (
        ("a valley at the start", many, 3, [0.5, 0.52, 0.58]),
        ("a valley above", many, 3, [0.65, 0.7, 0.55, 0.5, 0.52]),
        ("a valley below", many, 3, [0.65, 0.52, 0.5, 0.6]),
        ("it only falls upwards", many, 3, [0.75, 0.77, *(0.75 - 0.01 * i for i in range(1, 13))]),
        ("it only falls downwards", many, 3, [0.75, 0.74, 0.73, 0.72]),
        ("flat within the rounding of int8", many, 3, [0.755, 0.752, 0.758, 0.751]),
        ("flat, the start is the lowest", many, 3, [0.75, 0.752, 0.758, 0.751, *[0.7505] * 12]),
        ("not a number above the least", many, 3, [0.7, 0.75, 0.6, nan]),
        ("not a number at the start", many, 3, [nan, nan, 0.65, 0.6]),
        ("nowhere a number", many, 3, [nan] * 4),
        ("infinite beside the least", many, 3, [0.6, 0.7, inf]),
        ("the shorter of two", two, 1, [0.705, 0.65]),
        ("the longer of two", two, 1, [0.65, 0.705]),
    ):
        given, tried = iter(losses), list[float]()

        def loss_at(way: float, given: Iterator[float] = given, tried: list[float] = tried) -> float:
            tried.append(way)
            return next(given)

        lowest, _ = search_lr(ways, start, loss_at)
        assert len(tried) == len(losses)
        yield {
            "about": about, "ways": ways, "start": start, "losses": [exact(y) for y in losses], "tried": tried,
            "lowest": lowest,
        }  # fmt: skip


class Recorded(StepProgram):
    """A program that gives what it is told, and remembers what it was asked."""

    def __init__(self, m: Manifest, give: Any):
        self.manifest, self.give, self.asked = m, give, list[Case]()

    def states(self, tokens: Tensor) -> Tensor:
        return torch.zeros(*tokens.shape, 1)

    def execute(
        self, state: Tensor, tokens: Tensor, targets: Sequence[Tensor], seed: int, lr: float, eps: float,
        hidden: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        found: tuple[Tensor, Tensor, Tensor] = self.give(state, tokens, seed, lr, eps)
        return found


def loop_cases() -> Iterator[Case]:
    for name in ("classification", *(name for name, m in MANIFESTS.items() if m.gradient == HOST["gradient"])):
        m, chance, executions = MANIFESTS[name], random.Random(name), list[Case]()

        def give(
            state: Tensor, tokens: Tensor, seed: int, lr: float, eps: float, m: Manifest = m,
            chance: random.Random = chance, executions: list[Case] = executions,
        ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
            new, losses = numbers(chance, m.state_size), numbers(chance, m.rows)
            executions.append({"seed": seed, "lr": lr, "eps": eps, "state": new, "losses": losses})
            return torch.tensor(new), torch.tensor(losses), torch.empty(0)

        before, seed, lr, eps = numbers(chance, m.state_size), (5 << 32) + 12, 0.05, 0.01
        tokens, targets = torch.ones(m.batch, 4, dtype=torch.int64), (torch.zeros(m.batch, 1, dtype=torch.int64),)
        state, losses = Recorded(m, give).step(torch.tensor(before), tokens, targets, seed, lr, eps)
        yield {
            "manifest": name, "before": before, "seed": seed, "lr": lr, "eps": eps, "executions": executions,
            "state": state.tolist(), "losses": losses.tolist(),
        }  # fmt: skip


def evaluation_cases() -> Iterator[Case]:
    for name, count in (("classification", 7), ("both on the host", 1), ("text", 6), ("choices", 5)):
        m, chance, executions = MANIFESTS[name], random.Random(name), list[list[int]]()
        rows = 0

        def example(inner: bool = False, m: Manifest = m, chance: random.Random = chance) -> Example:
            nonlocal rows
            candidates = () if inner or not m.choices else tuple(example(True) for _ in range(chance.randrange(2, 5)))
            if not candidates:
                rows += 1  # a row is known by its first token
            label = chance.randrange(len(candidates or m.labels) or 1) if (m.labels or candidates) else -1
            tokens = candidates[label].tokens if candidates else (rows, *[9] * chance.choice((2, 5, 5, 8)))
            return Example(tokens, label, 0 if m.labels else 1, candidates)

        examples = [example() for _ in range(count)]
        losses = numbers(chance, rows)
        scores = [numbers(chance, len(m.labels)) for _ in range(rows)]

        def give(
            state: Tensor, tokens: Tensor, seed: int, lr: float, eps: float, executions: list[list[int]] = executions,
            losses: list[float] = losses, scores: list[list[float]] = scores,
        ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
            assert (seed, lr, eps) == (0, 0.0, 0.0)
            part = [int(row[0]) - 1 for row in tokens]
            executions.append(part)
            return state, torch.tensor([losses[i] for i in part]), torch.tensor([scores[i] for i in part])

        found = evaluate(Recorded(m, give), torch.zeros(m.state_size), examples)
        yield {
            "manifest": name, "examples": [described(e) for e in examples], "losses": losses, "scores": scores,
            "executions": executions, "loss": found.loss, "accuracy": found.accuracy,
        }  # fmt: skip


def noise_cases() -> Iterator[Case]:
    kinds: tuple[Noise, ...] = ("rademacher", "gaussian")
    for kind in kinds:
        for seed, queries, size in ((0, 1, 70), (7, 2, 40), (2**32 - 1, 3, 16), ((5 << 32) + 12, 2, 33), (-3, 1, 20)):
            z = noise(torch.tensor([seed]), queries, size, kind)
            signs = ["".join("+" if number > 0 else "-" for number in row) for row in z.tolist()]
            bits = [row.numpy().astype("<f4").tobytes().hex() for row in z]
            yield {
                "noise": kind, "seed": seed, "queries": queries, "size": size,
                "directions": signs if kind == "rademacher" else bits,
            }  # fmt: skip


def files() -> Files:
    """The vectors of this part."""
    return {
        "batches.json": lines("which examples make the batches of a run, from step `first` on", [*batch_cases()]),
        "schedule.json": lines("[step, lr, seed] of a run's steps", [*schedule_cases()]),
        "guard.json": lines("what the guard decides after each step", [*guard_cases()]),
        "best.json": lines("which evaluations of a run are the best so far", [*best_cases()]),
        "search.json": lines("which ways the lr search tries, and the one to the lowest loss", [*search_cases()]),
        "loops.json": lines("the executions of a step, and how their results are put together", [*loop_cases()]),
        "evaluation.json": lines("which rows share an execution, and what follows", [*evaluation_cases()]),
        "noise.json": lines("the directions of a step, inside the program", [*noise_cases()]),
    }
