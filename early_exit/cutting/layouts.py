"""What the values of a traced model are: vectors, tokens, or maps, and which of their axes holds the channels.

Sizes alone cannot tell where the channels of 7 × 7 × 7 are. So axes are followed through the graph: a convolution, a
norm, a pooling or a linear layer fixes the axis of its channels, and operations that move axes say where they go.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, Literal

from torch import Tensor, fx, nn

from layercache.early_exit.model.tracing import Graph

#: A value's axes without the batch: one vector, tokens × channels, or a map with its channels first or last.
Layout = Literal["vector", "tokens", "chw", "hwc"]

_NORM_FIRST: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)
_POOLS = tuple(
    getattr(nn, f"{adaptive}{kind}Pool{dimensions}d")
    for adaptive in ("", "Adaptive")
    for kind in ("Max", "Avg")
    for dimensions in (1, 2)
)
_FIRST: tuple[type[nn.Module], ...] = (nn.modules.conv._ConvNd, *_NORM_FIRST, *_POOLS)
#: Functions whose inputs and outputs have their channels on axis 1, and on the last axis.
_FIRST_NAMES = {"conv1d", "conv2d", "batch_norm", "group_norm", "instance_norm", "interpolate", "pixel_shuffle"}
_FIRST_NAMES |= {f"{kind}_pool{d}d" for kind in ("max", "avg", "adaptive_max", "adaptive_avg") for d in (1, 2)}
_LAST_NAMES = {"layer_norm", "rms_norm"}
#: Functions through which axes are not followed.
_MIXING = {"matmul", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention", "expand", "unfold", "unbind", "stack"}
_RESHAPING = {"reshape", "view", "flatten", "unflatten"}


#: For each value: the values one operation away, and which of their axes each of its own axes becomes.
_Moves = dict[fx.Node, list[tuple[fx.Node, Mapping[int, int]]]]


def layouts(graph: Graph, values: Mapping[fx.Node, Any], static: frozenset[fx.Node]) -> dict[fx.Node, Layout | None]:
    """The layout of every value that is computed from the frames; None for values that no head can read.

    No head reads values of more than three axes, windows of a map, or tokens whose channels come first. ``values`` are
    the nodes' tensors (of any batch size). If nothing in the graph says where the channels are, they are taken to be
    where they usually are: first in maps, last in tokens.
    """
    shapes = {node: shape for node, value in values.items() if node not in static and (shape := _shape(value))}
    moves = _all_moves(graph, shapes)
    strong, weak, rows = {graph.input: 1}, dict[fx.Node, int](), {graph.input: 2}
    for node in shapes:
        for anchor, sure, axis in _anchors(graph, node, shapes):
            (strong if sure else weak).setdefault(anchor, axis)
            if axis == 1 and len(shapes[anchor]) == 4:
                rows.setdefault(anchor, 2)
    channels = _follow(weak | _follow(strong, moves), moves)
    rows = _follow(rows, moves)
    frame = shapes[graph.input]
    return {node: _layout(shape, channels.get(node), rows.get(node), frame) for node, shape in shapes.items()}


def _layout(shape: tuple[int, ...], channels: int | None, rows: int | None, frame: tuple[int, ...]) -> Layout | None:
    rank = len(shape)
    if rank == 2:
        return "vector"
    if rank == 3:
        return "tokens" if channels in (2, None) else None
    if rank == 4 and channels in (1, None):
        return "chw"
    if rank == 4 and channels == 3:
        # a map made of tokens has lost track of its rows; windows × pixels do not have the frames' aspect
        is_map = rows == 1 or (rows is None and shape[1] * frame[3] == shape[2] * frame[2])
        return "hwc" if is_map else None
    return None


def _follow(anchors: Mapping[fx.Node, int], moves: _Moves) -> dict[fx.Node, int]:
    """Where one axis lies in every value that it can be followed to; the nearest of the ``anchors`` decides."""
    known = dict(anchors)
    waiting = deque(known)
    while waiting:
        node = waiting.popleft()
        for other, axes in moves[node]:
            axis = axes.get(known[node])
            if axis is not None and other not in known:
                known[other] = axis
                waiting.append(other)
    return known


def _anchors(
    graph: Graph, node: fx.Node, shapes: Mapping[fx.Node, tuple[int, ...]]
) -> Iterator[tuple[fx.Node, bool, int]]:
    """Inputs and output of ``node`` whose channels it fixes: the value, whether that is certain, and the axis."""
    kind = _kind(graph, node)
    if kind is None:
        return
    for value in (node, *node.all_input_nodes):
        rank = len(shapes.get(value, ()))
        if rank >= 3:
            # not certain: a linear layer may also run over the tokens, after they were moved to the last axis
            yield value, kind != "linear", 1 if kind == "first" else rank - 1


def _kind(graph: Graph, node: fx.Node) -> Literal["first", "last", "linear"] | None:
    if node.op == "call_module":
        module = graph.module.get_submodule(str(node.target))
        if isinstance(module, _FIRST):
            return "first"
        if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) == 1:
            return "last"
        if isinstance(module, nn.MultiheadAttention):
            return "last"
        return "linear" if isinstance(module, nn.Linear) else None
    name = _name(node)
    if name in _FIRST_NAMES:
        return "first"
    if name in _LAST_NAMES:
        normalised = node.kwargs.get("normalized_shape", node.args[1] if len(node.args) > 1 else ())
        return "last" if isinstance(normalised, Iterable) and len(list(normalised)) == 1 else None
    return "linear" if name == "linear" else None


def _all_moves(graph: Graph, shapes: Mapping[fx.Node, tuple[int, ...]]) -> _Moves:
    """The moves along every operation, forwards and backwards."""
    moves: _Moves = {node: [] for node in shapes}
    for node in shapes:
        for source in node.all_input_nodes:
            if source in shapes:
                there = _axes(graph, node, shapes[source], shapes[node])
                moves[source].append((node, there))
                moves[node].append((source, {after: before for before, after in there.items()}))
    return moves


def _axes(graph: Graph, node: fx.Node, before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int]:
    """Which axis of ``node``'s output each axis of its input became, as far as that is certain."""
    name = _name(node)
    if name in _MIXING:
        return {}
    if name in _RESHAPING or (
        node.op == "call_module" and isinstance(_module(graph, node), (nn.Flatten, nn.Unflatten))
    ):
        return _reshaped(before, after)
    order = _order(graph, node, len(before))
    if order is not None:
        return {axis: place for place, axis in enumerate(order)}
    return {axis: axis for axis in range(len(before))} if len(before) == len(after) else {}


def _order(graph: Graph, node: fx.Node, rank: int) -> list[int] | None:
    """The order of axes after a permutation; None for any other operation."""
    numbers = [part for part in _flat(node.args[1:], *node.kwargs.values()) if isinstance(part, int)]
    name = _name(node)
    if node.op == "call_module":
        dims = getattr(_module(graph, node), "dims", None)  # torchvision.ops.Permute
        if type(_module(graph, node)).__name__ != "Permute" or dims is None:
            return None
        numbers, name = list(dims), "permute"
    if name == "permute":
        return [axis % rank for axis in numbers]
    if name in ("transpose", "swapaxes", "swapdims"):
        first, second = (axis % rank for axis in numbers)
        order = list(range(rank))
        order[first], order[second] = second, first
        return order
    return None


def _reshaped(before: tuple[int, ...], after: tuple[int, ...]) -> dict[int, int]:
    """An axis survives a reshape if an axis of the same size has as many elements behind it as it had before."""
    places = {(size, prod(after[axis + 1 :])): axis for axis, size in enumerate(after) if size > 1}
    found = {axis: places.get((size, prod(before[axis + 1 :]))) for axis, size in enumerate(before)}
    return {axis: place for axis, place in found.items() if place is not None}


def _flat(*arguments: Any) -> Iterator[Any]:
    for argument in arguments:
        if isinstance(argument, (tuple, list)):
            yield from _flat(*argument)
        else:
            yield argument


def _module(graph: Graph, node: fx.Node) -> nn.Module:
    return graph.module.get_submodule(str(node.target))


def _name(node: fx.Node) -> str:
    if node.op == "call_module":
        return ""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return str(name).rstrip("_")


def _shape(value: Any) -> tuple[int, ...] | None:
    """A tensor's shape; of several (chunks, splits) that of the first."""
    while isinstance(value, (tuple, list)) and value and not isinstance(value, Tensor):
        value = value[0]
    return tuple(value.shape) if isinstance(value, Tensor) else None
