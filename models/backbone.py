"""A model between its tokens and its head: a frozen part below, the layers that train above."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from prge.models.context import Cores, Tables, run_layers
from prge.models.engine import Input
from prge.models.families import Kind
from prge.models.positions import Positions, places


class Backbone(nn.Module):
    """The embedding and the layers, with what they need to know of positions.

    Attributes:
        embedding: tokens to the first layer's input.
        layers: all of them.
        positions: makes the tables of masks and rotary positions.
        first: index of the first adapted layer.
        width: H, numbers in a hidden state.
    """

    def __init__(self, embedding: Input, layers: nn.ModuleList, positions: Positions, first: int, width: int):
        super().__init__()
        self.embedding, self.layers, self.positions = embedding, layers, positions
        self.first, self.width = first, width

    def frozen(self, tokens: Tensor) -> Tensor:
        """The embedding and the layers below the first adapted one: the same for the same tokens at every step.

        Args:
            tokens: i64[R, T].

        Returns:
            f32[R, T, H], the first adapted layer's input.
        """
        below, hidden = self._layers()[: self.first], self.embedding(tokens, places(tokens))
        return run_layers(below, hidden, self.positions(tokens)) if below else hidden

    def adapted(self, hidden: Tensor, tables: Mapping[Kind, Tables], cores: Cores) -> Tensor:
        """The layers from the first adapted one on: f32[R, T, H] -> f32[R, T, H]."""
        return run_layers(self._layers()[self.first :], hidden, tables, cores)

    def _layers(self) -> list[nn.Module]:
        return list(self.layers)  # a slice of the ModuleList itself would rename its modules in the trace


class FrozenPart(nn.Module):
    """The program of the frozen part: tokens i64[B, T] -> hidden states f32[B, T, H]."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, tokens: Tensor) -> Tensor:
        """As `Backbone.frozen`."""
        return self.backbone.frozen(tokens)
