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
    """

    def __init__(self, embedding: Input, layers: nn.ModuleList, positions: Positions, first: int):
        super().__init__()
        self.embedding, self.layers, self.positions, self.first = embedding, layers, positions, first

    def frozen(self, tokens: Tensor, tables: Mapping[Kind, Tables]) -> Tensor:
        """The embedding and the layers below the first adapted one: the same for the same tokens at every step.

        Args:
            tokens: i64[R, T].
            tables: as `Positions` makes them of the tokens.

        Returns:
            f32[R, T, H], the first adapted layer's input.
        """
        hidden = self.embedding(tokens, places(tokens))
        return run_layers(self._layers()[: self.first], hidden, tables)

    def adapted(self, hidden: Tensor, tables: Mapping[Kind, Tables], cores: Cores) -> Tensor:
        """The layers from the first adapted one on: f32[R, T, H] -> f32[R, T, H]."""
        return run_layers(self._layers()[self.first :], hidden, tables, cores)

    def _layers(self) -> list[nn.Module]:
        return list(self.layers)  # a slice of the ModuleList itself would rename its modules in the trace
