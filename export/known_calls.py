"""Looking at each kind of call of an operator once, however often a model repeats it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses import FakeTensor
from torch._subclasses.fake_impls import fast_detach
from torch.fx import Graph, GraphModule, Interpreter, Node, Proxy
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import py_sym_types


class _Other(Exception):
    """A call that has to be looked at again."""


class _Place(int):
    """The number of a node among those that a call is given and, behind them, those that it wrote."""


@dataclass(frozen=True)
class _Written:
    """What torch made of a call.

    Attributes:
        nodes: of each node that it wrote the target, the arguments by `_Place`, the name and the metadata.
        result: a `_Place`, or several as the operator gives them.
    """

    nodes: list[tuple[Any, Any, str, dict[str, Any]]]
    result: Any


def known_calls() -> Callable[..., Any]:
    """Stands in for torch's `proxy_call`, by which `make_fx` writes down each call of an operator.

    The layers of a model make the same calls, of tensors of the same sizes. What torch makes of the first of them is
    written down for all. Calls that change a tensor or whose results are known numbers stay torch's own.
    """
    first, known = proxy_tensor.proxy_call, dict[Any, _Written]()

    def call(mode: Any, op: OpOverload, pre_dispatch: bool, args: Any, kwargs: Any) -> Any:
        tracer, given = mode.tracer, list[Node]()

        def kind(tensor: Tensor) -> Any:
            node = _node(tensor, tracer)
            if node not in given:
                given.append(node)
            found = node.meta["tensor_meta"]
            return given.index(node), found.shape, found.stride, found.dtype

        try:
            key = op, _like((args, kwargs), kind)
        except _Other:
            return first(mode, op, pre_dispatch, args, kwargs)
        if key in known:
            return _again(tracer, given, known[key])
        before = tracer.graph._root.prev
        out = first(mode, op, pre_dispatch, args, kwargs)
        with suppress(_Other):
            known[key] = _seen(tracer, given, before, out)
        return out

    return call


class KnownSizes(Interpreter):
    """Works out what a call gives once for all calls of tensors of the same sizes, which share it.

    For graphs of fake tensors, whose operators change nothing.
    """

    def __init__(self) -> None:
        super().__init__(GraphModule(nn.Module(), Graph()))
        self.known = dict[Any, Any]()

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator."""
        try:
            key = target, _like((args, kwargs), _sizes)
        except _Other:
            return super().call_function(target, args, kwargs)
        if key not in self.known:
            self.known[key] = super().call_function(target, args, kwargs)
        return self.known[key]


def _sizes(tensor: Tensor) -> Any:
    if type(tensor) is not FakeTensor:
        raise _Other
    return tensor.shape, tensor.stride(), tensor.dtype


def _like(value: Any, kind: Callable[[Tensor], Any]) -> Any:
    """What arguments are like, to compare them with those of another call.

    Args:
        kind: what a tensor among them is like.

    Raises:
        _Other: an argument is neither a tensor nor a plain value, or ``kind`` refuses it.
    """
    if isinstance(value, Tensor):
        return kind(value)
    if isinstance(value, tuple | list):
        return tuple(_like(each, kind) for each in value)
    if isinstance(value, dict):
        return tuple(value), _like(tuple(value.values()), kind)
    if isinstance(value, py_sym_types):
        raise _Other
    return type(value), repr(value)  # 0, 0.0, -0.0 and False are equal


def _node(tensor: Tensor, tracer: Any) -> Node:
    """The node that a tensor is the result of.

    Raises:
        _Other: there is none, or its numbers are known.
    """
    slot = tracer.tensor_tracker.get(tensor)
    if slot is None or slot.constant is not None:
        raise _Other
    node: Node = slot.proxy.node
    return node


def _seen(tracer: Any, given: list[Node], before: Node, out: Any) -> _Written:
    """What a call wrote down behind the node ``before``, and gave as ``out``.

    Raises:
        _Other: it wrote something that is no call or changes a tensor, or gave what it was given.
    """
    places, written, node = {node: _Place(i) for i, node in enumerate(given)}, [], before.next
    while node.op != "root":
        target: Any = node.target
        if node.op != "call_function" or (isinstance(target, OpOverload) and target._schema.is_mutable):
            raise _Other
        name = getattr(target, "overloadpacket", target).__name__
        meta: dict[str, Any] = {field: x for field, x in node.meta.items() if field in ("val", "tensor_meta")}
        written.append((target, _replaced((node.args, node.kwargs), places), name, meta))
        places[node] = _Place(len(places))
        node = node.next

    def place(tensor: Any) -> _Place:
        found = places.get(_node(tensor, tracer)) if type(tensor) is FakeTensor else None
        if found is None or found < len(given):
            raise _Other
        return found

    return _Written(written, type(out)(map(place, out)) if isinstance(out, tuple | list) else place(out))


def _again(tracer: Any, given: list[Node], written: _Written) -> Any:
    """Write down a call like one before; returns its results."""
    nodes = list(given)
    for target, arguments, name, meta in written.nodes:
        args, kwargs = _replaced(arguments, nodes)
        node = tracer.create_node("call_function", target, args, kwargs, tracer.graph._target_to_str(name))
        node.meta |= meta
        nodes.append(node)

    def tensor(place: _Place) -> Tensor:
        node = nodes[place]
        value: FakeTensor = node.meta["val"]
        out = fast_detach(value.fake_mode, value)
        tracer.tensor_tracker[out] = proxy_tensor._ProxyTensor(Proxy(node, tracer), None)
        return out

    result = written.result
    return tensor(result) if isinstance(result, _Place) else type(result)(map(tensor, result))


def _replaced(value: Any, by: Any) -> Any:
    """Arguments with the place of each node, where ``by`` are the places by node; or the other way."""
    if isinstance(value, Node | _Place):
        return by[value]
    if isinstance(value, tuple | list):
        return type(value)(_replaced(each, by) for each in value)
    if isinstance(value, dict):
        return {key: _replaced(each, by) for key, each in value.items()}
    return value
