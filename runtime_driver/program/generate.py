"""Continues text with a ``generate.pte``, token by token. The key-value cache is on the host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from prge.errors import UserError
from prge.runtime_driver.program.base import F32, I64, Program, Signature

# Positions of a new cache. It begins small and doubles when it is full, because attention reads all of it.
_FIRST = 64


class Cache:
    """Keys f32[kv, d, C] and values f32[kv, C, d] of every layer.

    Attributes:
        used: how many of the C positions hold a token.
        bound: the largest C.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], bound: int):
        """Make an empty one; ``shapes`` are the layers' (kv, d)."""
        self.bound, self.used = bound, 0
        size = min(_FIRST, bound)
        self.keys = [torch.zeros(kv, d, size) for kv, d in shapes]
        self.values = [torch.zeros(kv, size, d) for kv, d in shapes]

    def append(self, new: Sequence[Tensor]) -> None:
        """Add T positions: ``new`` holds all layers' keys f32[kv, d, T], then all layers' values f32[kv, T, d]."""
        count = new[0].shape[2]
        end, size = self.used + count, self.keys[0].shape[2]
        if end > size:
            more = min(max(end, 2 * size), self.bound) - size
            self.keys = [torch.nn.functional.pad(k, (0, more)) for k in self.keys]
            self.values = [torch.nn.functional.pad(v, (0, 0, 0, more)) for v in self.values]
        depth = len(self.keys)
        for cached, k in zip(self.keys, new[:depth], strict=True):
            cached[:, :, self.used : end] = k
        for cached, v in zip(self.values, new[depth:], strict=True):
            cached[:, self.used : end] = v
        self.used = end


class GenerateProgram(Program):
    """The program that continues text, `prge.models.generation.Generator`."""

    kind = "generate"

    def signature(self, sizes: Sequence[tuple[int, ...]]) -> tuple[Signature, Signature]:
        m = self.manifest
        self._shapes = [(shape[0], shape[1]) for shape in sizes[3 : 3 + m.architecture.layers] if len(shape) == 3]
        of_length = [
            [((kv, d, n), F32) for kv, d in self._shapes] + [((kv, n, d), F32) for kv, d in self._shapes]
            for n in (m.max_tokens, m.chunk)
        ]
        inputs: Signature = [((m.parameters,), F32), ((1, m.chunk), I64), ((1,), I64)]
        return [*inputs, *of_length[0]], [((1, m.architecture.vocabulary), F32), *of_length[1]]

    def new_cache(self) -> Cache:
        """An empty cache of this program's shapes."""
        return Cache(self._shapes, self.manifest.max_tokens)

    def read(self, state: Tensor, tokens: Sequence[int], cache: Cache) -> Tensor:
        """Append tokens to the cache, `Manifest.chunk` or fewer in an execution.

        Args:
            state: f32[state_size] of the step.
            tokens: at least one, and no more than the cache has room for.

        Returns:
            the logits after the last token, f32[V].
        """
        params, chunk = state[: self.manifest.parameters], self.manifest.chunk
        for at in range(0, len(tokens), chunk):
            row = torch.tensor([tokens[at : at + chunk]])
            logits, *new = self._call("forward", (params, row, torch.tensor([cache.used]), *cache.keys, *cache.values))
            cache.append(new)
        return logits[0]

    def generate(
        self,
        prompt: Sequence[int],
        state: Tensor,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[int]:
        """Yield the tokens that follow a prompt, up to a stop token, which is left out, or to the context's end.

        Args:
            prompt: tokens, at least one.
            state: f32[state_size] of the step that was exported with this program.
            max_new_tokens: the most to yield.
            temperature: as in `choose`.
            top_p: as in `choose`.
            seed: of the random draws.

        Raises:
            UserError: the prompt is empty, or leaves no room in the context.
        """
        m = self.manifest
        if not prompt:
            raise UserError("the prompt is empty; give some text to continue")
        if len(prompt) >= m.max_tokens:
            raise UserError(
                f"the prompt has {len(prompt)} tokens; {self.path} holds {m.max_tokens}, the answer included: "
                "shorten the prompt, or export with a larger --context"
            )
        cache, generator = self.new_cache(), torch.Generator().manual_seed(seed)
        unread = list(prompt)
        for _ in range(min(max_new_tokens, m.max_tokens - len(prompt))):
            token = choose(self.read(state, unread, cache), temperature, top_p, generator)
            if token in m.stop_tokens:
                return
            yield token
            unread = [token]


def choose(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """Choose a token: the most likely one, or a random one.

    Args:
        logits: f32[V].
        temperature: divides the logits before the draw; 0 takes the most likely token.
        top_p: the draw is among the fewest most likely tokens whose probabilities add up to this
            (nucleus sampling, arXiv 1904.09751).
    """
    if temperature < 1e-6:  # the quotient could overflow, and the draw would be certain anyway
        return int(logits.argmax())
    probabilities, order = torch.softmax(logits / temperature, dim=0).sort(descending=True)
    before = probabilities.cumsum(0) - probabilities
    probabilities[1:][before[1:] >= top_p] = 0.0
    return int(order[torch.multinomial(probabilities, 1, generator=generator)])
