"""What a step costs, by a manifest's sizes: multiply-adds, bytes of weights, peak memory."""

from __future__ import annotations

from dataclasses import replace

from prge.manifest import Manifest

# By quantization: bytes of a frozen weight, and how many weights share a scale; 0 for all of an output's, or no scales.
_WEIGHTS: dict[str, tuple[float, int]] = {"f32": (4.0, 0), "8da8w": (1.0, 0), "8da4w": (0.5, 32)}


def first_adapted(m: Manifest) -> int:
    """Index of the first adapted layer."""
    return min(module.layer for module in m.adapter.modules)


def positions(m: Manifest, tokens: int) -> tuple[int, int]:
    """Positions that one execution runs through each layer below the first adapted one, and through each from it on.

    For rows of ``tokens`` tokens. Perturbed activations add the copies of the targets to the latter.
    """
    if m.perturb == "weights":
        return m.rows * tokens, m.rows * tokens
    copies = (1 + m.queries) * max(1, m.max_targets)
    return m.batch * tokens, m.batch * (tokens + copies)


def inference_tokens(m: Manifest, tokens: int) -> int:
    """Tokens of a row of plain inference that has as many positions as a row of the step, copies included."""
    return positions(m, tokens)[1] // m.rows


def multiply_adds(m: Manifest, tokens: int) -> int:
    """Multiply-adds of one step, for rows of ``tokens`` tokens.

    Counted are the frozen linears and the LoRA pairs at every position, scores and values of every pair of positions of
    a row, and the head at the targets, of which perturbed activations have ``R (1 + q) M``. Embedding lookups and
    elementwise operations are left out.
    """
    below, above = positions(m, tokens)
    adapters = above * sum(
        m.adapter.rank * (x.in_features + x.core[1]) + (x.core[1] * x.out_features if m.adapter.subspace else 0)
        for x in m.adapter.modules
    )
    copies = 1 + m.queries if m.perturb == "activations" else 1
    return m.executions * (_decoder(m, below, above) + adapters + _head(m, copies))


def inference_multiply_adds(m: Manifest, tokens: int) -> int:
    """Multiply-adds of the model alone, on as many rows and positions as one execution of the step has."""
    _, above = positions(m, tokens)
    return _decoder(m, above, above) + _head(m, 1)


def _decoder(m: Manifest, below: int, above: int) -> int:
    """Multiply-adds of the layers, for what `positions` gives."""
    a, lower = m.architecture, first_adapted(m)
    width = 2 * a.heads * a.head  # scores and values
    return lower * below * (a.layer_weights + width * (below // m.rows)) + (a.layers - lower) * above * (
        a.layer_weights + width * (above // m.rows)
    )


def _head(m: Manifest, copies: int) -> int:
    """Multiply-adds of the head, at so many copies of each target."""
    a = m.architecture
    each = a.hidden * (len(m.labels) or a.vocabulary) + a.transform
    return m.rows * copies * max(1, m.max_targets) * each


def weight_bytes(m: Manifest) -> int:
    """Bytes of all frozen weights in a program.

    Linears, embedding and, for language modelling, the head are stored as the quantization says, with their scales. In
    float32 are learned positions, the linears before the head, and the adapters' factors. A tied head takes no bytes of
    its own in float32, where it reads the embedding's table.
    """
    a = m.architecture
    each, group = _WEIGHTS[m.quantization]

    def linear(weights: int, outputs: int) -> float:
        scales = 0 if m.quantization == "f32" else weights // group if group else outputs
        return weights * each + 4 * scales

    total = a.layers * linear(a.layer_weights, a.layer_outputs)
    table = a.vocabulary * a.hidden
    total += 4 * table if m.quantization == "f32" else table + 4 * a.vocabulary
    if m.max_targets and not (a.tied and m.quantization == "f32"):
        total += linear(table, a.vocabulary)
    total += 4 * (a.transform + a.learned_positions * m.max_tokens * a.hidden)
    return round(total + _factor_bytes(m))


# Bytes, measured as resident memory of the Python driver on Linux, x86-64, with SmolLM2-135M in three quantizations and
# 1 to 64 rows of 8 to 128 tokens, and checked on a Llama of 1.1 billion parameters: the pages of code that loading
# touches, those that a step touches, what packing adds to the weights, and what is held at the peak for every position
# and every output of a layer's linears.
_CODE, _KERNELS, _PACKING, _HELD = 5e6, 12e6, 12e6, 10.6
# How many delegates the layers are cut into. At load one at a time holds its weights twice, as in the file and packed.
DELEGATES = 4


def peak_bytes(m: Manifest, tokens: int) -> float:
    """An estimate of the driver's peak memory above its imports, in bytes, for rows of ``tokens`` tokens.

    It is the greater of two: at load, when the last delegate packs its weights, and in a step.
    """
    a = m.architecture
    each, group = _WEIGHTS[m.quantization]
    linears = a.layers * (a.layer_weights * (each + (2 / group if group else 0)))
    table = a.vocabulary * a.hidden * (4 if m.quantization == "f32" else 1)
    packed = linears + _PACKING + _factor_bytes(m)
    if m.max_targets and m.quantization != "f32":
        packed += linears / a.layers / a.layer_weights * a.vocabulary * a.hidden
    # What the runtime sets aside for the longest rows: hidden states between delegates, the mask, and noise.
    _, longest = positions(m, m.max_tokens)
    planned = 8.0 * longest * a.hidden
    if m.perturb == "activations":
        planned += 4.0 * longest * a.heads * (longest // m.rows)
    copies = 4.0 * (m.queries if m.outer else 1) * m.parameters if m.perturb == "weights" else 0.0
    resting = table + _CODE + packed + planned + 5.0 * copies
    held = _HELD * a.layer_outputs * positions(m, tokens)[1] + 7.5 * copies
    return max(resting + linears / DELEGATES, resting + _KERNELS + held)


def largest_batch(m: Manifest, tokens: int, budget: float) -> int:
    """The largest B, up to 1,024, whose `peak_bytes` on rows of ``tokens`` are within ``budget``; 0 for none."""
    batch = 0
    while batch < 1024 and peak_bytes(replace(m, batch=batch + 1), tokens) <= budget:
        batch += 1
    return batch


def _factor_bytes(m: Manifest) -> int:
    """Bytes of the adapters' frozen factors."""
    columns = m.adapter.subspace is not None
    return 4 * sum(m.adapter.rank * x.in_features + columns * x.core[1] * x.out_features for x in m.adapter.modules)
