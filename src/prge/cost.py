"""What a program costs, by a manifest's sizes: multiply-adds, bytes of weights, peak memory, size of the cache.

A program has two parts. The frozen part runs once over all texts, the trained part at every step, and each is alone in
memory (`docs/how-it-works.md`).
"""

from __future__ import annotations

from dataclasses import replace

from prge.manifest import Manifest

# By quantization: bytes of a frozen weight, and how many weights share a scale; 0 for all of an output's, or no scales.
_WEIGHTS: dict[str, tuple[float, int]] = {
    "f32": (4.0, 0), "8da8w": (1.0, 0), "8da4w": (0.5, 32), "8da4w-64": (0.5, 64), "8da4w-128": (0.5, 128),
}  # fmt: skip


def _targets(m: Manifest) -> int:
    """M, the target positions of a row; label words have one."""
    return max(1, m.max_targets)


def ways(m: Manifest) -> int:
    """How often what trains or follows is there: an exact gradient needs it a second time, transposed."""
    return 1 if m.estimates else 2


def positions(m: Manifest, tokens: int) -> int:
    """Positions that one execution of a step runs through each layer but the last, for rows of ``tokens`` tokens.

    Where the targets run as copies, these come on top, and a causal model leaves out the last token.
    """
    if m.gradient in ("full", "weights"):
        return m.rows * tokens
    return m.batch * (tokens - (m.answer_at == "last")) + ends(m)


def ends(m: Manifest) -> int:
    """Positions at which the loss looks: so many run through the last layer, for which the others make keys alone."""
    return m.rows * _targets(m) * (1 + m.queries if m.gradient == "activations" else 1)


def inference_tokens(m: Manifest, tokens: int) -> int:
    """Tokens of a row of plain inference that has as many positions as a row of the step, copies included."""
    return positions(m, tokens) // m.rows


def multiply_adds(m: Manifest, tokens: int) -> int:
    """Multiply-adds of one step, without the frozen part, for rows of ``tokens`` tokens.

    Counted are the frozen linears and the LoRA pairs, scores and values of every pair of positions of a row, and the
    head at the targets. Embedding lookups and elementwise operations are left out. Back it is as much again, and twice
    as much for scores and values; all positions go back where the gradient is full, and the targets where it is exact.
    """
    a, every, last = m.architecture, positions(m, tokens), ends(m)
    keys_values, count = 2 * a.hidden * a.kv_heads * a.head, a.layers - m.first_layer
    pairs = 2 * a.heads * a.head * (every // m.rows)  # scores and values of a position

    def through(pairs: int) -> int:
        """Of all layers, one way."""
        ends = every * keys_values + last * (a.layer_weights - keys_values + pairs)
        return (count - 1) * every * (a.layer_weights + pairs) + ends

    back = {"full": through(2 * pairs), "exact": last * count * a.layer_weights}.get(m.gradient, 0)
    layers, heads = through(pairs) + back, last * _head(m) * (1 if m.estimates else 2)
    if m.adapter.head:  # forward, and back to the core and to the hidden states
        heads += 3 * last * m.adapter.head.size
    adapters = sum(
        (last if x.layer == a.layers - 1 else every)
        * (m.adapter.rank * (x.in_features + x.core[1]) + (x.core[1] * x.out_features if m.adapter.subspace else 0))
        for x in m.adapter.modules
    )
    return m.executions * (layers + adapters + heads)


def frozen_multiply_adds(m: Manifest, rows: int, tokens: int) -> int:
    """Multiply-adds of the frozen part on ``rows`` rows of ``tokens`` tokens."""
    a = m.architecture
    return m.first_layer * rows * tokens * (a.layer_weights + 2 * a.heads * a.head * tokens)


def inference_multiply_adds(m: Manifest, tokens: int) -> int:
    """Multiply-adds of the model alone, on as many rows and positions as one execution of the step has."""
    a, every = m.architecture, positions(m, tokens)
    layers = a.layers * every * (a.layer_weights + 2 * a.heads * a.head * (every // m.rows))
    return layers + m.rows * _targets(m) * _head(m)


def _head(m: Manifest) -> int:
    """Multiply-adds of the head, at one position."""
    return m.architecture.hidden * (len(m.labels) or m.architecture.vocabulary) + m.architecture.transform


def cache_bytes(m: Manifest, tokens: int) -> int:
    """Bytes of the hidden states of so many tokens."""
    return 4 * m.architecture.hidden * tokens


def weight_bytes(m: Manifest) -> int:
    """Bytes of all frozen weights in the two files of a program.

    Linears, embedding and, for language modelling, the head are stored as the quantization says, with their scales. In
    float32 are learned positions, the linears before the head, and the adapters' factors. A tied head is there beside
    the embedding, because they are in different files. For an exact gradient all that trains or follows is there a
    second time, transposed.
    """
    a = m.architecture
    times = ways(m)
    total = times * (_linear_bytes(m, _above(m)) + 4 * a.transform)
    if m.max_targets:
        total += times * head_bytes(m)
    return round(total + times * frozen_factor_bytes(m)) + frozen_weight_bytes(m)


def frozen_weight_bytes(m: Manifest) -> int:
    """As `weight_bytes`, of the frozen part alone."""
    a = m.architecture
    total = _linear_bytes(m, range(m.first_layer))
    return round(total + embedding_bytes(m) + 4 * a.learned_positions * m.max_tokens * a.hidden)


def _above(m: Manifest) -> range:
    """The layers of a step."""
    return range(m.first_layer, m.architecture.layers)


def _linear_bytes(m: Manifest, layers: range) -> float:
    """Bytes of some layers' linears, with their scales."""
    scaled = 0 if m.quantization == "f32" else sum(_int8_outputs(m, layer) for layer in layers)
    return _group_bytes(m, layers) + 4 * scaled


def _group_bytes(m: Manifest, layers: range) -> float:
    """Bytes of some layers' linears, with the scales of groups alone, which are in bfloat16."""
    a, (each, group) = m.architecture, _WEIGHTS[m.quantization]
    if not group:
        return len(layers) * a.layer_weights * each
    int8 = sum(a.layer_weights if layer == a.layers - 1 else _int8_outputs(m, layer) * a.hidden for layer in layers)
    return int8 + (len(layers) * a.layer_weights - int8) * (each + 2 / group)


def _int8_outputs(m: Manifest, layer: int) -> int:
    """How many outputs of a layer's linears have int8 weights.

    In a model in int4 those of the last layer, and keys and values that several queries share (`export.quantize`).
    """
    a = m.architecture
    if not _WEIGHTS[m.quantization][1] or layer == a.layers - 1:
        return a.layer_outputs
    return 2 * a.kv_heads * a.head if a.kv_heads < a.heads else 0


def embedding_bytes(m: Manifest) -> float:
    """Bytes of the embedding, with a scale for each row, or in int4 for every 32 numbers, in float16."""
    a, (each, group) = m.architecture, _WEIGHTS[m.quantization]
    return a.vocabulary * a.hidden * (each + 2 / 32) if group else head_bytes(m)


def head_bytes(m: Manifest) -> int:
    """Bytes of the head that predicts tokens, which is never in int4."""
    a = m.architecture
    return a.vocabulary * (a.hidden * 4 if m.quantization == "f32" else a.hidden + 4)


def frozen_factor_bytes(m: Manifest) -> int:
    """Bytes of the adapters' frozen factors."""
    columns = m.adapter.subspace is not None
    return 4 * sum(m.adapter.rank * x.in_features + columns * x.core[1] * x.out_features for x in m.adapter.modules)


# How many delegates the layers of a program are cut into. At load one at a time holds its weights twice, as in the file
# and packed.
DELEGATES = 4

# Bytes, measured as resident memory of the Python driver on Linux, x86-64: the pages of code that loading touches,
# those that an execution touches, what packing adds for each input of a matrix of few outputs, and what is held at the
# peak for every position and every output of a layer's linears; of all layers, where the gradient is full.
_CODE, _KERNELS, _NARROW, _HELD, _WAITING = 11e6, 3e6, 100.0, 4.9, 7.0
# The same where the gradient is exact: its way back has code and narrow matrices of its own.
_EXACT_CODE, _EXACT_NARROW, _EXACT_HELD = 6e6, 215.0, 6.7
# Of answers of text, with the exact gradient in int8: bytes that wait for the way back at each target, for every output
# of a layer's linears; how much more than once the way back has the head, which is packed for each of three parts; and
# what the head's delegates hold, in logits.
_TARGET_WAITING, _HEAD_AGAIN, _HEAD_HELD = 5.9, 3.0, 1.56


def peak_bytes(m: Manifest, tokens: int) -> float:
    """An estimate of the driver's peak memory above its imports, in bytes, for rows of ``tokens`` tokens.

    It is the greater of two: that of the frozen part, and that of a step.
    """
    return max(frozen_peak_bytes(m, tokens), step_peak_bytes(m, tokens))


def frozen_peak_bytes(m: Manifest, tokens: int) -> float:
    """As `peak_bytes`, of the frozen part alone."""
    a = m.architecture
    below = range(m.first_layer)
    resting = embedding_bytes(m) + _packed(m, below) + 8.0 * m.frozen_rows * m.max_tokens * a.hidden
    return _peak(m, below, resting, m.frozen_rows * tokens)


def step_peak_bytes(m: Manifest, tokens: int) -> float:
    """As `peak_bytes`, of a step alone."""
    a, layers, times = m.architecture, _above(m), ways(m)
    resting = times * (_packed(m, layers) + frozen_factor_bytes(m)) + _NARROW * sum(
        x.in_features for x in m.adapter.modules
    )
    held, head = _HELD, 0.0
    if m.max_targets:
        logits, in_parts = 4.0 * ends(m) * a.vocabulary, times == 2 and m.quantization != "f32"
        resting += (times + _HEAD_AGAIN * in_parts) * head_bytes(m) + times * logits
        head = _HEAD_HELD * logits
    # What the runtime sets aside for the longest rows: hidden states between delegates, the mask, and noise.
    longest = positions(m, m.max_tokens)
    resting += 11.0 * longest * a.hidden
    if m.gradient in ("activations", "exact") and (_targets(m) > 1 or m.answer_at != "last"):  # every row has a mask
        resting += 5.1 * longest * a.heads * (longest // m.rows)
    if m.gradient == "exact":  # keys and values wait for the way back, and so do the narrow matrices behind the cores
        narrow = sum(
            _EXACT_NARROW * (x.in_features + x.out_features) - _NARROW * x.in_features for x in m.adapter.modules
        )
        resting += 8.0 * len(layers) * longest * a.kv_heads * a.head + narrow + _EXACT_CODE
        held = _EXACT_HELD
        if m.max_targets:
            shares = 4.0 * m.batch * a.heads * _targets(m) * (longest // m.rows)
            resting += len(layers) * (_TARGET_WAITING * ends(m) * a.layer_outputs + shares)
    if m.gradient == "full":  # most of what the layers computed waits for the way back
        shares = 4.0 * a.heads * (longest // m.rows)
        resting += len(layers) * longest * (_WAITING * a.layer_outputs + shares)
    copies = 4.0 * (m.queries if m.outer else 1) * m.parameters if m.gradient == "weights" else 0.0
    return _peak(m, layers, resting + 5.0 * copies, positions(m, tokens), held, head) + 7.5 * copies


def _packed(m: Manifest, layers: range) -> float:
    """Bytes of some layers' packed linears, and of their norms' means."""
    return _group_bytes(m, layers) + 2 * _NARROW * len(layers) * m.architecture.hidden


def _peak(m: Manifest, layers: range, resting: float, at_once: int, held: float = _HELD, head: float = 0.0) -> float:
    """The peak of a part that holds ``resting`` bytes, with some layers and so many positions in an execution.

    It is the greater of that at load, when the last delegate packs its weights, and that of an execution.

    Args:
        head: bytes that the head's delegates hold beside the layers'.
    """
    running = _KERNELS + held * m.architecture.layer_outputs * at_once + head
    return _CODE + resting + max(_packed(m, layers) / DELEGATES, running)


def largest_batch(m: Manifest, tokens: int, budget: float) -> int:
    """The largest B, up to 1,024, whose `peak_bytes` on rows of ``tokens`` are within ``budget``; 0 for none."""
    batch = 0
    while batch < 1024 and peak_bytes(replace(m, batch=batch + 1), tokens) <= budget:
        batch += 1
    return batch
