"""Which answers of a round count: a device may send anything, and the strategy sees what is well formed and bounded."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from numpy.typing import NDArray

from prge.federated.order import ARRAYS, EXAMPLES, METRICS, SLOPES

# An answer moves at most so many times as far as the round's median one: it is shortened to that.
_FAR = 2.0
# More examples than these count no more: a device's own word must not outweigh all others.
_MOST_EXAMPLES = 1000
# Characters of a device's own sentence that the journal keeps.
_LONGEST = 300
# Bytes of an array beside its numbers: the header of NumPy's format.
_HEADER = 256


def admitted(
    replies: Iterable[Message], number: int, name: str, stands: NDArray[np.float32]
) -> tuple[list[Message], Counter[str]]:
    """The answers that count, in an order that does not depend on when they came, and how many were refused, by why.

    An answer is refused unless it is of this round and holds finite numbers of the right shape. What is left moves at
    most twice as far as the median answer, and stands for at most 1,000 examples.

    Args:
        number: of the round.
        name: of the array that an answer holds.
        stands: what an answer is a change of; of its shape.
    """
    refused: Counter[str] = Counter()
    found: list[tuple[Message, NDArray[np.float32], int, float]] = []
    for message in replies:
        try:
            found.append((message, *_read(message, number, name, stands.shape)))
        except ValueError as e:
            refused[str(e)] += 1
    moved = [float(np.linalg.norm(array - stands)) for _, array, _, _ in found]
    most = _FAR * float(np.median([m for m in moved if m] or [0.0]))
    for i, (message, array, examples, loss) in enumerate(found):
        if moved[i] > most:
            found[i] = message, (stands + (array - stands) * (most / moved[i])).astype(np.float32), examples, loss
    for message, array, examples, loss in found:
        arrays = ArrayRecord({name: Array(array)})
        metrics = MetricRecord({EXAMPLES: min(examples, _MOST_EXAMPLES), "loss": loss})
        message.content = RecordDict({ARRAYS: arrays, METRICS: metrics})
    found.sort(key=lambda each: each[1].tobytes())
    return [message for message, _, _, _ in found], refused


def _read(message: Message, number: int, name: str, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], int, float]:
    """An answer's array, how many examples it is of, and their loss.

    Raises:
        ValueError: why it does not count.
    """
    if message.has_error():
        raise ValueError((message.error.reason or "the device sent an error and no reason")[:_LONGEST])
    numbers, metrics = _numbers(message.content, name, shape), dict(message.content.metric_records.get(METRICS, {}))
    examples, loss = metrics.get(EXAMPLES), metrics.get("loss")
    if metrics.get("round") != number:
        raise ValueError(f"is of round {metrics.get('round')}")
    if not isinstance(examples, int) or examples < 1 or not isinstance(loss, float):
        raise ValueError("does not say its number of examples and their loss")
    if not (np.isfinite(numbers).all() and math.isfinite(loss)):
        raise ValueError("holds numbers that are not finite")
    return numbers, examples, loss


def _numbers(content: RecordDict, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The numbers of an answer: an array, or the bytes of slopes.

    Raises:
        ValueError: there are none, or they have another form.
    """
    records = content.config_records if name == SLOPES else content.array_records
    if list(records) != [ARRAYS] or list(records[ARRAYS]) != [name]:
        raise ValueError(f"does not hold the array {name!r} alone")
    found, size, odd = records[ARRAYS][name], 4 * math.prod(shape), ValueError(f"its array is not {shape} of float32")
    if name == SLOPES:
        if not isinstance(found, bytes) or len(found) != size:
            raise odd
        return np.frombuffer(found, np.dtype("<f4")).reshape(shape)
    assert isinstance(found, Array)
    if found.dtype != "float32" or tuple(found.shape) != shape or len(found.data) > size + _HEADER:
        raise odd
    try:
        numbers = found.numpy()
    except Exception as e:  # NumPy's reader says it in many ways
        raise ValueError("its array cannot be read") from e
    if numbers.dtype != np.float32 or numbers.shape != shape:
        raise odd
    return numbers


def evaluations(replies: Iterable[Message]) -> list[Message]:
    """The evaluations that count: of finite numbers, with the metrics that most have, and at most 1,000 examples."""
    found: list[tuple[Message, dict[str, float]]] = []
    for message in replies:
        if message.has_content() and list(message.content) == [METRICS]:
            metrics = dict(message.content.metric_records.get(METRICS, {}))
            numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)}
            if len(numbers) == len(metrics) and numbers.get(EXAMPLES, 0) >= 1:
                found.append((message, numbers | {EXAMPLES: min(numbers[EXAMPLES], _MOST_EXAMPLES)}))
    names = Counter(tuple(sorted(numbers)) for _, numbers in found).most_common(1)
    kept = [(message, numbers) for message, numbers in found if tuple(sorted(numbers)) == names[0][0]]
    for message, numbers in kept:
        message.content = RecordDict({METRICS: MetricRecord({**numbers})})
    return [message for message, _ in kept]
