"""What a step costs, counted from the model's sizes: multiply-adds, and bytes of weights."""

from __future__ import annotations

from prge.manifest import Manifest

# Bytes of a frozen linear's weight, and of a scale for how many of them; 0: one per output.
_WEIGHTS: dict[str, tuple[float, int]] = {"f32": (4.0, 0), "8da8w": (1.0, 0), "8da4w": (0.5, 32)}


def first_adapted(m: Manifest) -> int:
    """Index of the first layer that trains."""
    return min(module.layer for module in m.adapter.modules)


def positions(m: Manifest, tokens: int) -> tuple[int, int]:
    """(rows of hidden states in the layers below the adapted ones, in those from there on) of one execution."""
    if m.perturb == "weights":
        return m.rows * tokens, m.rows * tokens
    copies = (1 + m.queries) * max(1, m.max_targets)
    return m.batch * tokens, m.batch * (tokens + copies)


def inference_tokens(m: Manifest, tokens: int) -> int:
    """Length of rows with as many positions as the step's, copied targets included."""
    return positions(m, tokens)[1] // m.rows


def multiply_adds(m: Manifest, tokens: int) -> int:
    """Of one step with T = ``tokens``; embedding lookups and elementwise operations are left out.

    Frozen linears and low-rank pairs of every position, scores and values of every pair of a
    row's positions, and the head at the targets (``R (1 + q) M`` of them for perturbed activations).
    """
    below, above = positions(m, tokens)
    adapters = above * sum(
        m.adapter.rank * (x.in_features + x.core[1]) + (x.core[1] * x.out_features if m.adapter.subspace else 0)
        for x in m.adapter.modules
    )
    copies = 1 + m.queries if m.perturb == "activations" else 1
    return m.executions * (_decoder(m, below, above) + adapters + _head(m, copies))


def inference_multiply_adds(m: Manifest, tokens: int) -> int:
    """Of the model alone on as many rows and positions as an execution of the step has."""
    _, above = positions(m, tokens)
    return _decoder(m, above, above) + _head(m, 1)


def _decoder(m: Manifest, below: int, above: int) -> int:
    """``below`` positions of R rows in the layers under the adapted ones, ``above`` in the others."""
    a, lower = m.architecture, first_adapted(m)
    width = 2 * a.heads * a.head  # scores and values
    return lower * below * (a.layer_weights + width * (below // m.rows)) + (a.layers - lower) * above * (
        a.layer_weights + width * (above // m.rows)
    )


def _head(m: Manifest, copies: int) -> int:
    a = m.architecture
    each = a.hidden * (len(m.labels) or a.vocabulary) + a.transform
    return m.rows * copies * max(1, m.max_targets) * each


def weight_bytes(m: Manifest) -> int:
    """Of all that is frozen: linears as quantized with their scales, embedding, the head for language modelling,
    and in float32 learned positions, what stands before the head, and the adapters' factors.

    A tied head costs nothing of its own in float32, where it reads the embedding's table.
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


# Measured on SmolLM2-135M in three quantizations, with 1 to 64 rows of 8 to 128 tokens (resident memory of the
# Python driver on Linux, x86-64), and checked on a Llama of 1.1 billion parameters:
# pages of code, once loaded and once run; what packing adds to the weights; and of every output of a layer's
# linears, per position, the bytes that are held at the peak.
_CODE, _KERNELS, _PACKING, _HELD = 5e6, 12e6, 12e6, 10.6
# Into how many delegates a decoder is cut; one at a time holds its weights as in the file and packed.
DELEGATES = 4


def peak_bytes(m: Manifest, tokens: int) -> float:
    """Estimate of the driver's peak memory above its imports, on rows of ``tokens``.

    The greater of two: at load, when the last delegate packs its weights, and in a step.
    """
    a = m.architecture
    each, group = _WEIGHTS[m.quantization]
    linears = a.layers * (a.layer_weights * (each + (2 / group if group else 0)))
    table = a.vocabulary * a.hidden * (4 if m.quantization == "f32" else 1)
    packed = linears + _PACKING + _factor_bytes(m)
    if m.max_targets and m.quantization != "f32":
        packed += linears / a.layers / a.layer_weights * a.vocabulary * a.hidden
    # What the runtime plans for the longest rows: hidden states between delegates, the mask, and noise.
    _, longest = positions(m, m.max_tokens)
    planned = 8.0 * longest * a.hidden
    if m.perturb == "activations":
        planned += 4.0 * longest * a.heads * (longest // m.rows)
    copies = 4.0 * (m.queries if m.outer else 1) * m.parameters if m.perturb == "weights" else 0.0
    resting = table + _CODE + packed + planned + 5.0 * copies
    held = _HELD * a.layer_outputs * positions(m, tokens)[1] + 7.5 * copies
    return max(resting + linears / DELEGATES, resting + _KERNELS + held)


def _factor_bytes(m: Manifest) -> int:
    columns = m.adapter.subspace is not None
    return 4 * sum(m.adapter.rank * x.in_features + columns * x.core[1] * x.out_features for x in m.adapter.modules)
