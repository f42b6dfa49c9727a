"""The step written again, the slow way: no code of prge's, no batching, no padding.

Every copy of every example is one unpadded run of transformers' own model, with the adapter
folded into its weights; noise bits come from Python integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

MASK = 2**32 - 1


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x21F0AAAD & MASK
    x ^= x >> 15
    x = x * 0x735A2D97 & MASK
    return x ^ x >> 15


def hash_words(seed: int, count: int) -> list[int]:
    first = mix(mix(seed & MASK) ^ (seed >> 32) & MASK)
    second = mix(first + 0x1E3779B9 & MASK)
    return [mix(mix(i ^ first) ^ second) for i in range(count)]


def rademacher(seed: int, size: int) -> Tensor:
    words = hash_words(seed, size // 32 + 1)
    return torch.tensor([2.0 * (words[i // 32] >> i % 32 & 1) - 1.0 for i in range(size)])


def adapted_weights(model: Any, manifest: Any, frozen: Tensor, state: Tensor) -> dict[str, Tensor]:
    """Full weights ``W + alpha / r * B A`` of the adapted modules."""
    rank, at, weights = manifest.adapter.rank, 0, {}
    for module in manifest.adapter.modules:
        a = frozen[at : at + rank * module.in_features].view(rank, module.in_features)
        at += a.numel()
        core = state[module.offset :][: module.core[0] * module.core[1]].view(*module.core)
        b = core.T
        if manifest.adapter.subspace:
            columns = module.core[1]
            us = frozen[at : at + module.out_features * columns].view(module.out_features, columns)
            at += us.numel()
            b = us @ core.T
        w, moved = model.get_parameter(f"{module.name}.weight"), manifest.adapter.alpha / rank * (b @ a)
        weights[f"{module.name}.weight"] = w + (moved.T if manifest.adapter.fan_in_fan_out else moved)
    if head := manifest.adapter.head:
        added = head.gain * state[head.offset :][: head.core[0] * head.core[1]].view(*head.core).T
        words = torch.tensor([label.token for label in manifest.labels])
        weights[f"{head.name}.weight"] = model.get_output_embeddings().weight.index_add(0, words, added)
    return weights


def logits(model: Any, weights: dict[str, Tensor], tokens: Sequence[int]) -> Tensor:
    """f32[T, V] of one unpadded row; of a plain encoder, with the ``label_rows`` and ``label_bias`` it was given."""
    # A tied head that trains is no embedding any more.
    out = torch.func.functional_call(model, weights, (torch.tensor([tokens]),), tie_weights=False)
    if hasattr(model, "label_rows"):
        return out.last_hidden_state[0] @ model.label_rows.T + model.label_bias
    result: Tensor = out.logits[0]
    return result


def example_loss(manifest: Any, rows: Tensor, example: Any) -> Tensor:
    """Cross-entropy of one example's logits: over the label words, or over its target tokens."""
    if manifest.objective == "label-words":
        (position,) = target_positions(manifest, example)
        candidates = rows[position, [label.token for label in manifest.labels]]
        return torch.nn.functional.cross_entropy(candidates, torch.tensor(example.label))
    n = example.targets
    return torch.nn.functional.cross_entropy(rows[-n - 1 : -1], torch.tensor(example.tokens[-n:]))


def loss(model: Any, manifest: Any, frozen: Tensor, state: Tensor, example: Any) -> Tensor:
    return example_loss(
        manifest, logits(model, adapted_weights(model, manifest, frozen, state), example.tokens), example
    )


def target_positions(manifest: Any, example: Any) -> list[int]:
    """Where the loss reads the hidden states."""
    end = len(example.tokens)
    if manifest.answer_at == "mask":
        return [example.tokens.index(manifest.mask_token)]
    if manifest.objective == "label-words":
        return [0 if manifest.answer_at == "first" else end - 1]
    return list(range(end - example.targets - 1, end - 1))


def single_targets(manifest: Any, example: Any) -> list[Any]:
    """An example per target, which is the last token of each."""
    if manifest.objective == "label-words":
        return [example]
    start = len(example.tokens) - example.targets + 1
    return [replace(example, tokens=example.tokens[: start + j], targets=1) for j in range(example.targets)]


def shifted_loss(
    model: Any, manifest: Any, frozen: Tensor, weights: dict[str, Tensor], example: Any, shifts: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """The loss when the adapters' cores put out ``shifts`` [M, D] more at the target positions.

    Also each core's inputs there, [n targets, rank]. Where tokens see those after them, all others stay as if
    nothing had been shifted.

    Args:
        weights: of `adapted_weights`, made once for all runs at one state.
    """
    rank, at, handles = manifest.adapter.rank, 0, []
    columns = output_directions(manifest)
    positions = target_positions(manifest, example)
    if manifest.answer_at != "last":
        handles += keep_others(model, manifest, weights, example.tokens, positions)
    inputs: dict[int, Tensor] = {}
    for i, module in enumerate(manifest.adapter.modules):
        a = frozen[at : at + rank * module.in_features].view(rank, -1)
        us = frozen[at + a.numel() :][: module.out_features * columns].view(-1, columns)
        at += a.numel() + us.numel()

        def hook(_: Any, x: Any, y: Tensor, a: Tensor = a, us: Tensor = us, i: int = i) -> Tensor:
            inputs[i] = manifest.adapter.alpha / rank * x[0].flatten(0, -2)[positions] @ a.T
            moved = y.clone()
            moved.flatten(0, -2)[positions] += shifts[: len(positions), i * columns : (i + 1) * columns] @ us.T
            return moved

        handles.append(model.get_submodule(module.name).register_forward_hook(hook))
    rows = logits(model, weights, example.tokens)
    for handle in handles:
        handle.remove()
    return example_loss(manifest, rows, example), [inputs[i] for i in range(len(inputs))]


def keep_others(
    model: Any, manifest: Any, weights: dict[str, Tensor], tokens: Sequence[int], positions: list[int]
) -> list[Any]:
    """Hooks that set every layer's outputs at all but ``positions`` to those of a run now, without shifts."""
    first = manifest.adapter.modules[0]
    layers = model.get_submodule(first.name.split(f".{first.layer}.")[0])
    clean: list[Tensor] = []
    watching = [layer.register_forward_hook(lambda m, x, y: clean.append(y)) for layer in layers]
    logits(model, weights, tokens)
    for handle in watching:
        handle.remove()

    def keep(y: Tensor, kept: Tensor) -> Tensor:
        whole = kept.clone()
        whole[0, positions] = y[0, positions]
        return whole

    return [
        layer.register_forward_hook(lambda m, x, y, kept=kept: keep(y, kept))
        for layer, kept in zip(layers, clean, strict=True)
    ]


def output_directions(manifest: Any) -> int:
    """Columns of a core; all have the same."""
    (columns,) = {module.core[1] for module in manifest.adapter.modules}
    return int(columns)


def rank_one_sum(inputs: Sequence[Tensor], outputs: Tensor) -> Tensor:
    """The cores' gradients in state order, from inputs [n, rank] and output gradients [n, D] at n positions."""
    each = outputs.split(outputs.shape[1] // len(inputs), dim=1)
    return torch.cat([(a.T @ d[: len(a)]).reshape(-1) for a, d in zip(inputs, each, strict=True)])


def activation_estimate(
    model: Any, manifest: Any, frozen: Tensor, state: Tensor, batch: Sequence[Any], seed: int, eps: float
) -> tuple[Tensor, Tensor]:
    """(gradient estimate, each example's unperturbed loss) of perturbed activations."""
    q = manifest.queries
    m = 1 if manifest.objective == "label-words" else manifest.max_targets
    columns = output_directions(manifest) * len(manifest.adapter.modules)
    z = torch.stack([rademacher(seed + i, len(batch) * m * columns) for i in range(q)]).view(q, len(batch), m, columns)
    weights = adapted_weights(model, manifest, frozen, state)
    total, plain = torch.zeros_like(state), torch.zeros(len(batch))
    for b, example in enumerate(batch):
        parts = single_targets(manifest, example)
        for j, part in enumerate(parts):
            own = z[:, b, j : j + 1]
            zero, inputs = shifted_loss(model, manifest, frozen, weights, part, torch.zeros(1, columns))
            moved = [shifted_loss(model, manifest, frozen, weights, part, eps * own[i])[0] for i in range(q)]
            mean = torch.stack([zero, *moved]).mean()
            output_gradient = sum((moved[i] - mean) / eps * own[i] for i in range(q)) * (1 + q) / q / q
            total += rank_one_sum(inputs, output_gradient) / len(batch) / len(parts)
            plain[b] += zero / len(parts)
    return total, plain


def exact_activation_estimate(
    model: Any, manifest: Any, frozen: Tensor, state: Tensor, batch: Sequence[Any], seed: int
) -> Tensor:
    """The same with autograd's directional derivatives for differences, in the model's precision."""
    q = manifest.queries
    m = 1 if manifest.objective == "label-words" else manifest.max_targets
    columns = output_directions(manifest) * len(manifest.adapter.modules)
    z = torch.stack([rademacher(seed + i, len(batch) * m * columns) for i in range(q)])
    z = z.view(q, len(batch), m, columns).to(state.dtype)
    weights = adapted_weights(model, manifest, frozen, state)
    total = torch.zeros_like(state)
    for b, example in enumerate(batch):
        parts = single_targets(manifest, example)
        for j, part in enumerate(parts):
            shifts = torch.zeros(1, columns, dtype=state.dtype, requires_grad=True)
            value, inputs = shifted_loss(model, manifest, frozen, weights, part, shifts)
            (outputs,) = torch.autograd.grad(value, shifts)
            slopes = [(outputs * z[i, b, j : j + 1]).sum() for i in range(q)]
            mean = sum(slopes) / (1 + q)
            estimate = sum((slopes[i] - mean) * z[i, b, j : j + 1] for i in range(q)) * (1 + q) / q / q
            total += rank_one_sum([x.detach() for x in inputs], estimate) / len(batch) / len(parts)
    return total


def exact_weight_estimate(
    model: Any, manifest: Any, frozen: Tensor, state: Tensor, batch: Sequence[Any], seed: int
) -> Tensor:
    """The paper's mean of g_i z_i with autograd's directional derivatives for g_i."""
    exact = gradient(model, manifest, frozen, state, batch)
    z = torch.stack([rademacher(seed + i, len(state)) for i in range(manifest.queries)]).to(state.dtype)
    return (z @ exact) @ z / manifest.queries


def weight_estimate(
    model: Any, manifest: Any, frozen: Tensor, state: Tensor, batch: Sequence[Any], seed: int, eps: float
) -> tuple[Tensor, Tensor]:
    """(gradient estimate, losses of all copies) of perturbed weights: the paper's mean of g_i z_i."""
    total, losses = torch.zeros_like(state), []
    for i in range(manifest.queries):
        z = rademacher(seed + i, len(state))
        sides = []
        for sign in (1.0, -1.0):
            moved = state + sign * eps * z
            sides.append(torch.stack([loss(model, manifest, frozen, moved, e) for e in batch]).mean())
        total += (sides[0] - sides[1]) / (2 * eps) * z / manifest.queries
        losses += sides
    return total, torch.stack(losses)


def target_gradient(
    model: Any, manifest: Any, frozen: Tensor, state: Tensor, batch: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """(autograd's gradient in the cores of what they do at the targets, expected squared error of one direction).

    With a the cores' inputs and d the gradient at all D outputs of an example, ``z z^T d`` errs by
    ``|d|^2`` (less one term in D) at every output, and the core's gradient by ``|a|^2`` times as much.
    """
    weights = adapted_weights(model, manifest, frozen, state)
    total, error = torch.zeros_like(state), torch.zeros(())
    for example in batch:
        n = len(target_positions(manifest, example))
        shifts = torch.zeros(n, output_directions(manifest) * len(manifest.adapter.modules), requires_grad=True)
        value, inputs = shifted_loss(model, manifest, frozen, weights, example, shifts)
        (outputs,) = torch.autograd.grad(value, shifts)
        total += rank_one_sum([x.detach() for x in inputs], outputs) / len(batch)
        lengths = torch.stack([x.detach().square().sum() for x in inputs]).sum()
        error += output_directions(manifest) * lengths * outputs.square().sum() / len(batch) ** 2
    return total, error


def path_gradient(
    model: Any, manifest: Any, frozen: Tensor, state: Tensor, batch: Sequence[Any]
) -> tuple[Tensor, Tensor]:
    """(autograd's gradient along the targets' own path, each example's loss): every target is the last of its row."""
    total, losses = torch.zeros_like(state), torch.zeros(len(batch), dtype=state.dtype)
    weights = adapted_weights(model, manifest, frozen, state)
    columns = output_directions(manifest) * len(manifest.adapter.modules)
    for b, example in enumerate(batch):
        parts = single_targets(manifest, example)
        for part in parts:
            shifts = torch.zeros(1, columns, dtype=state.dtype, requires_grad=True)
            value, inputs = shifted_loss(model, manifest, frozen, weights, part, shifts)
            (outputs,) = torch.autograd.grad(value, shifts)
            total += rank_one_sum([x.detach() for x in inputs], outputs) / len(batch) / len(parts)
            losses[b] += value.detach() / len(parts)
    return total, losses


def gradient(model: Any, manifest: Any, frozen: Tensor, state: Tensor, batch: Sequence[Any]) -> Tensor:
    """Autograd's gradient of the batch's mean loss in the state."""
    variable = state.clone().requires_grad_()
    total = torch.stack([loss(model, manifest, frozen, variable, e) for e in batch]).mean()
    (result,) = torch.autograd.grad(total, variable)
    return result


def rounded(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Symmetric rounding of groups of inputs to ``bits``."""
    groups = weight.reshape(weight.shape[0], -1, group)
    scale = groups.abs().amax(2, keepdim=True) / (2 ** (bits - 1) - 0.5)
    steps = (groups / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (steps * scale).reshape(weight.shape)


def signed_int4(groups: Tensor) -> Tensor:
    """Groups of weights [n, size] in int4, each with a scale of either sign by which its greatest number is -8."""
    low, high = groups.aminmax(dim=1, keepdim=True)
    scale = (torch.where(-low >= high, low, high) / -8).half().float()
    return torch.where(scale == 0, 0, (groups / scale).round().clamp(-8, 7) * scale)


def round_weights(model: Any, quantization: str) -> None:
    """Give a causal LM the weights that a quantized program computes with, in float32."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        if quantization == "8da8w":
            scale = embedding.abs().amax(1, keepdim=True) / 127
            embedding.copy_((embedding / scale).round() * scale)
        else:
            embedding.copy_(torch.cat([signed_int4(part) for part in embedding.split(32, 1)], 1))
        grouped = model.config.num_key_value_heads < model.config.num_attention_heads
        last = f"layers.{model.config.num_hidden_layers - 1}."
        for name, linear in model.model.named_modules():
            if not isinstance(linear, torch.nn.Linear):
                continue
            shared = grouped and name.endswith(("k_proj", "v_proj"))
            int8 = quantization == "8da8w" or shared or name.startswith(last)
            bits, group = (8, linear.in_features) if int8 else (4, 32)
            linear.weight.copy_(rounded(linear.weight, bits, group))
