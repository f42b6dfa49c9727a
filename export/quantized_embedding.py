"""The embedding in int8 or int4. Both are looked up by the plain embedding operator, which every runtime has."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prge.models.stored import pieces, read

# Numbers of a row in int4 that share a scale.
GROUP = 32


class Int8Embedding(nn.Module):
    """An embedding in int8 with one scale per row.

    Attributes:
        weight: i8[V, H].
        scale: f32[V, 1].
    """

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.weight = nn.Buffer(torch.empty(embedding.weight.shape, dtype=torch.int8))
        self.scale = nn.Buffer(torch.empty(embedding.num_embeddings, 1))
        first = 0
        for piece in pieces(embedding.weight):
            rows, at = read(piece), slice(first, first + len(piece))
            self.scale[at] = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127.0
            self.weight[at] = torch.round(rows / self.scale[at]).to(torch.int8)
            first += len(piece)

    def forward(self, tokens: Tensor) -> Tensor:
        """i64[R, T] -> f32[R, T, H]."""
        return F.embedding(tokens, self.weight).to(torch.float32) * F.embedding(tokens, self.scale)


class Int4Embedding(nn.Module):
    """An embedding in int4 with a scale for every `GROUP` numbers. H is a multiple of it.

    A group's number of the greatest size becomes -8, and its scale has the sign for that, so that all 16 numbers are
    of use. (llama.cpp's Q4_0 chooses its scales so.)

    Attributes:
        weight: u8[V, H / 2]. A byte holds a number of the row's first half, and 16 times one of its second half, each
            of them 8 more than it is.
        scale: f16[V, H / GROUP].
    """

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        count, size = embedding.weight.shape
        self.weight = nn.Buffer(torch.empty(count, size // 2, dtype=torch.uint8))
        self.scale = nn.Buffer(torch.empty(count, size // GROUP, dtype=torch.float16))
        first = 0
        for piece in pieces(embedding.weight):
            groups, at = read(piece).unflatten(1, (-1, GROUP)), slice(first, first + len(piece))
            low, high = groups.aminmax(dim=2, keepdim=True)
            scale = (torch.where(-low >= high, low, high) / -8.0).to(torch.float16)
            self.scale[at] = scale.squeeze(2)
            numbers = torch.round(groups / torch.where(scale == 0, 1, scale)).clamp(-8, 7).flatten(1) + 8
            left, right = numbers.chunk(2, 1)
            self.weight[at] = (left + 16 * right).to(torch.uint8)
            first += len(piece)

    def forward(self, tokens: Tensor) -> Tensor:
        """i64[R, T] -> f32[R, T, H]."""
        packed = F.embedding(tokens, self.weight).to(torch.float32)
        right = torch.floor(packed / 16)
        numbers = torch.cat((packed - 16 * right, right), -1) - 8
        scale = F.embedding(tokens, self.scale).to(torch.float32).unsqueeze(-1)
        return (numbers.unflatten(-1, (-1, GROUP)) * scale).flatten(-2)
