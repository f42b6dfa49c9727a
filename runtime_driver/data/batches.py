"""Batches: which examples make a step, and their rows as tensors."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prge.examples.rows import Example, answer_position
from prge.manifest import Manifest

_BITS = 2**64 - 1


def batches(examples: Sequence[Example], size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches, as indices into ``examples``. They depend on the arguments alone.

    Every epoch is shuffled, and then sorted by length within windows of about 8 batches. So the rows of a batch are of
    like length and need little padding, and the batches of an epoch come in a random order of length.

    Every batch has the classes in the proportion of the whole data. Else a batch that has more of one class by chance
    would be the largest noise of the estimate.
    """
    classes: dict[int, list[int]] = {}
    for i, e in enumerate(examples):
        classes.setdefault(e.label, []).append(i)
    windows = max(1, len(examples) // (8 * size))
    for epoch in itertools.count():
        ranked: list[tuple[float, int]] = []
        for members in classes.values():
            n = len(members)
            order = enumerate(sorted(members, key=lambda i: scramble(seed, epoch, 0, i)))
            by_length = sorted(order, key=lambda item: (item[0] * windows // n, len(examples[item[1]].tokens)))
            ranked += [((rank + 0.5) / n, i) for rank, (_, i) in enumerate(by_length)]
        merged = [i for _, i in sorted(ranked, key=lambda item: item[0])]
        while len(merged) % size:  # fill the last batch up from the epoch's start
            merged.append(merged[len(merged) % len(examples)])
        groups = [merged[i : i + size] for i in range(0, len(merged), size)]
        for i in sorted(range(len(groups)), key=lambda i: scramble(seed, epoch, 1, i)):
            yield groups[i]


def scramble(*numbers: int) -> int:
    """64 bits that look random, made of some numbers. Every driver makes the same.

    It takes one number after the other through the finalizer of SplitMix64.
    """
    state = 0
    for number in numbers:
        state = (state ^ number) + 0x9E3779B97F4A7C15 & _BITS
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _BITS
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _BITS
        state ^= state >> 31
    return state


def collate(examples: Sequence[Example], manifest: Manifest) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The rows of n examples as tensors, padded on the right to the longest row or to the program's least T.

    Returns:
        tokens i64[n, T], and the objective's targets. With label words these are position i64[n, 1], of the token that
        predicts the label, and label i64[n], the class. Else they are position and target i64[n, M], and weight
        f32[n, M], which is one over the row's number of targets, and 0 where there is none.
    """
    longest = max(len(e.tokens) for e in examples)
    length = max(longest, manifest.min_tokens)
    tokens = torch.full((len(examples), length), manifest.pad_token, dtype=torch.int64)
    for row, e in zip(tokens, examples, strict=True):
        row[: len(e.tokens)] = torch.tensor(e.tokens)
    if manifest.objective == "label-words":
        at = [answer_position(e.tokens, manifest.answer_at, manifest.mask_token, "the text") for e in examples]
        position = torch.tensor(at).unsqueeze(1)
        return tokens, (position, torch.tensor([max(e.label, 0) for e in examples]))
    position = torch.zeros(len(examples), manifest.max_targets, dtype=torch.int64)
    target, weight = torch.zeros_like(position), torch.zeros(position.shape)
    for i, e in enumerate(examples):
        n = e.targets
        position[i, :n] = torch.tensor(e.target_positions)
        target[i, :n] = torch.tensor(e.tokens[len(e.tokens) - n :])
        weight[i, :n] = 1.0 / n
    return tokens, (position, target, weight)
