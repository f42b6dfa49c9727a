"""A model between its tokens and its head: a frozen part below, the layers that train above."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from prge.models.attention import Attention
from prge.models.context import Context, Cores, Record, Tables, run_layers, running
from prge.models.engine import Input
from prge.models.parts import Kind, Parts
from prge.models.positions import Positions, places


class Backbone(nn.Module):
    """The embedding and the layers, with what they need to know of positions.

    Attributes:
        embedding: tokens to the first layer's input.
        layers: all of them.
        positions: makes the tables of masks and rotary positions.
        first: index of the first adapted layer.
        width: H, numbers in a hidden state.
        causal: whether a token sees only those before it.
    """

    def __init__(self, embedding: Input, parts: Parts, positions: Positions, first: int):
        super().__init__()
        self.embedding, self.layers, self.positions = embedding, parts.layers, positions
        self.first, self.width = first, int(parts.config.hidden_size)
        self.causal = parts.family.causal
        self._attention, self._norm = parts.family.attention, parts.attention_norm

    def frozen(self, tokens: Tensor) -> Tensor:
        """The embedding and the layers below the first adapted one: the same for the same tokens at every step.

        Args:
            tokens: i64[R, T].

        Returns:
            f32[R, T, H], the first adapted layer's input.
        """
        below, hidden = self._layers()[: self.first], self.embedding(tokens, places(tokens))
        return run_layers(below, hidden, self.positions(tokens)) if below else hidden

    def seen(self, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows f32[R, T, H] and i64[R, T], what copies of the targets may see beside themselves.

        In a causal model they see what stands before them, so nothing sees the last token.
        """
        if not self.causal:
            return hidden, tokens
        tokens = tokens[:, :-1]
        return hidden.index_select(1, places(tokens)[0]), tokens

    def adapted(self, hidden: Any, tables: Mapping[Kind, Tables], cores: Cores) -> Any:
        """The layers from the first adapted one to the last but one: f32[R, T, H] -> f32[R, T, H], or `Traced` both."""
        return run_layers(self._layers()[self.first : -1], hidden, tables, cores)

    def last(
        self,
        hidden: Any,
        tables: Mapping[Kind, Tables],
        cores: Cores,
        ends: Any,
        end_tables: Mapping[Kind, Tables],
        end_cores: Cores,
    ) -> Any:
        """The last layer, for the positions alone at which the loss looks.

        The other positions need keys and values there, and nothing more.

        Args:
            hidden: f32[R, T, H], of all positions.
            tables: of all positions.
            cores: for all positions.
            ends: f32[R, E, H], those of ``hidden`` at which the loss looks; both or none are `Traced`.
            end_tables: of these, each of which sees some of all positions.
            end_cores: for these.

        Returns:
            f32[R, E, H].
        """
        record = Record(0)
        self._meet_last(hidden, tables, cores, record)
        return run_layers(self._layers()[-1:], ends, end_tables, end_cores, record)

    def read(self, hidden: Tensor, tables: Mapping[Kind, Tables], cores: Cores, record: Record) -> None:
        """All adapted layers, as far as `follow` needs them: the last one makes keys and values, and nothing more.

        Args:
            hidden: f32[R, T, H], of all positions, the targets first.
            record: is filled.
        """
        hidden = run_layers(self._layers()[self.first : -1], hidden, tables, cores, record, record)
        self._meet_last(hidden, tables, cores, record)

    def follow(self, ends: Any, tables: Mapping[Kind, Tables], cores: Cores, record: Record) -> Any:
        """All adapted layers, for a `Traced` of the targets alone, f32[R, M, H] -> f32[R, M, H], after `read`."""
        return run_layers(self._layers()[self.first :], ends, tables, cores, record, record)

    def _meet_last(self, hidden: Tensor, tables: Mapping[Kind, Tables], cores: Cores, record: Record) -> None:
        """Put the last layer's keys and values of all positions into the record."""
        layer = self._layers()[-1]
        norm = nn.Identity() if self._norm is None else layer.get_submodule(self._norm)
        with running(Context(hidden.shape[0], tables, cores, None, record)):
            attention = cast(Attention, layer.get_submodule(self._attention))
            record.join(attention.layer, *attention.keys_values(norm(hidden)))

    def _layers(self) -> list[nn.Module]:
        return list(self.layers)  # a slice of the ModuleList itself would rename its modules in the trace


class FrozenPart(nn.Module):
    """The program of the frozen part: tokens i64[B, T] -> hidden states f32[B, T, H]."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        # Of the layers above, each weight would be an input of the traced graph that nothing reads, and every later
        # pass would look at it.
        self.backbone = copy.copy(backbone)
        self.backbone._modules = backbone._modules | {"layers": backbone.layers[: backbone.first]}

    def forward(self, tokens: Tensor) -> Tensor:
        """As `Backbone.frozen`."""
        return self.backbone.frozen(tokens)
