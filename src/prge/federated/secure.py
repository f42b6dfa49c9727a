"""Secure aggregation (SecAgg+): of the parameters the server learns the devices' sum alone. It still sees each loss.

The protocol is Flower's (arXiv 2009.11248). Flower has it for its older interface alone, so messages are put into that
interface's form here, on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common import recorddict_compat as compat
from flwr.server import LegacyContext
from flwr.server.client_manager import ClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp import Grid
from numpy.typing import NDArray

from prge.federated.order import ARRAYS, CONFIG, EXAMPLES, METRICS, PARAMETERS
from prge.federated.rounds import Rounds

# Shares that a device's secret is cut into, and how many of them give it back, as shares of the devices.
_SHARES, _ENOUGH = 1.0, 0.5


def summed(grid: Grid, context: Context, rounds: Rounds, messages: Iterable[Message], timeout: float) -> list[Message]:
    """A round by the protocol, as one answer that is all devices' mean; none where too few took part to its end.

    Args:
        messages: one for each device of the round, as the strategy makes them.
    """
    found = list(messages)
    number = int(found[0].content.config_records[CONFIG]["round"])  # type: ignore[arg-type]
    strategy = _Mean(found, grid)
    legacy = LegacyContext(context, strategy=strategy, client_manager=_Nobody())
    legacy.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({Key.CURRENT_ROUND: number})
    legacy.state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(
        ndarrays_to_parameters([rounds.way.stands()]), False
    )
    over: Any = _Counted(grid, rounds)
    SecAggPlusWorkflow(_SHARES, _ENOUGH, timeout=timeout)(over, legacy)
    if strategy.mean is None:
        return []
    arrays = ArrayRecord({PARAMETERS: Array(strategy.mean)})
    metrics = MetricRecord({EXAMPLES: 1, "loss": strategy.loss, "round": number})
    return [Message(RecordDict({ARRAYS: arrays, METRICS: metrics}), reply_to=found[0])]


def masked(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Flower's mod on the device, around a device that speaks the newer interface."""
    return secaggplus_mod(message, context, lambda m, c: _older(call_next(_newer(m), c)))


class _Mean(FedAvg):
    """The older interface's strategy: it asks whom it is told to, and the protocol hands it the mean."""

    mean: NDArray[np.float32] | None = None
    loss = float("nan")

    def __init__(self, messages: list[Message], grid: Any):
        super().__init__()
        self._messages, self._grid = messages, grid

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[Any]:
        asked = []
        for message in self._messages:
            node = message.metadata.dst_node_id
            config: Any = dict(message.content.config_records[CONFIG])
            asked.append((GridClientProxy(node, self._grid, message.metadata.run_id), FitIns(parameters, config)))
        return asked

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[Any, dict[str, Any]]:
        if not results:
            return None, {}
        _, first = results[0]  # the protocol gives all of them the mean
        self.mean = parameters_to_ndarrays(first.parameters)[0].astype(np.float32)
        examples = [answer.num_examples for _, answer in results]
        losses = [float(answer.metrics["loss"]) for _, answer in results]
        self.loss = float(np.average(losses, weights=examples))
        return first.parameters, {}


class _Nobody(ClientManager):
    """No client manager: the newer interface's strategy has chosen the devices."""

    def num_available(self) -> int:
        return 0

    def register(self, client: Any) -> bool:
        return False

    def unregister(self, client: Any) -> None:
        return

    def all(self) -> dict[str, Any]:
        return {}

    def wait_for(self, num_clients: int, timeout: int) -> bool:
        return False

    def sample(self, num_clients: int, min_num_clients: int | None = None, criterion: Any = None) -> list[Any]:
        return []


class _Counted:
    """A grid whose messages are counted in the round."""

    def __init__(self, grid: Grid, rounds: Rounds):
        self._grid, self._rounds = grid, rounds

    def send_and_receive(self, messages: Iterable[Message], timeout: float | None = None) -> list[Message]:
        return self._rounds.noted(self._grid.send_and_receive(self._rounds.sent(messages), timeout=timeout))


def _newer(message: Message) -> Message:
    """A message of the older interface in the newer one's form."""
    asked = compat.recorddict_to_fitins(message.content, True)
    [array] = parameters_to_ndarrays(asked.parameters)
    config: Any = dict(asked.config)
    message.content = RecordDict({ARRAYS: ArrayRecord({PARAMETERS: Array(array)}), CONFIG: ConfigRecord(config)})
    return message


def _older(answer: Message) -> Message:
    """A device's answer in the older interface's form."""
    metrics = answer.content.metric_records[METRICS]
    [array] = [each.numpy() for each in answer.content.array_records[ARRAYS].values()]
    examples, loss = int(metrics[EXAMPLES]), float(metrics["loss"])  # type: ignore[arg-type]
    result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([array]), examples, {"loss": loss})
    answer.content = compat.fitres_to_recorddict(result, False)
    return answer
