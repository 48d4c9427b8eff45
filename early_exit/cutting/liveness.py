"""Where a traced model can be cut: wherever a single value connects both halves."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from layercache.early_exit.cutting.layouts import Layout, layouts
from layercache.early_exit.cutting.shapes import on_shapes
from layercache.early_exit.model.tracing import Graph

#: Batch sizes of two runs: what differs between them depends on the batch's size, the rest does not.
_BATCHES = (2, 3)


class _Sentinel:
    """A value that equals nothing but itself."""


#: Stands for the number of frames in a batch.
BATCH = _Sentinel()
_UNKNOWN = _Sentinel()


@dataclass(frozen=True)
class Place:
    """A place where the model can be cut: after node number ``position``, where only ``value`` is still needed.

    ``layout`` names the axes of ``shape``; a value that no head could read makes no place. ``scalars`` are sizes that
    later nodes use too: numbers, or ``BATCH`` for the batch's size.
    ``overwritten``: a later node writes into the value's memory.
    """

    position: int
    value: fx.Node
    shape: tuple[int, ...]
    layout: Layout
    flops: int
    scalars: dict[fx.Node, Any]
    overwritten: bool


@dataclass(frozen=True)
class Profile:
    """All places in order, the FLOPs of a whole frame, and the nodes that depend on weights alone."""

    places: tuple[Place, ...]
    flops: int
    static: frozenset[fx.Node]


@dataclass(frozen=True)
class _ShapeRun:
    values: dict[fx.Node, Any]
    flops: dict[fx.Node, int]
    versions: dict[fx.Node, int]


class _Interpreter(fx.Interpreter):
    """Runs a graph on shapes alone; keeps every value, the FLOPs so far, and how often each tensor was written."""

    def __init__(self, module: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.counter = counter
        self.seen = _ShapeRun({}, {}, {})

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.seen.values[n] = value
        self.seen.flops[n] = int(self.counter.get_total_flops())
        if isinstance(value, Tensor):
            self.seen.versions[n] = value._version  # a view shares it with its base
        return value


def profile(graph: Graph, example: Tensor) -> Profile:
    """The places of ``graph`` for frames like ``example`` (``[N, C, H, W]``).

    Raises whatever an operation raises if the shape of its result is not known beforehand.

    >>> from torch import nn
    >>> from layercache.early_exit.model.tracing import trace
    >>> graph = trace(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 2)))
    >>> [(place.shape, place.layout) for place in profile(graph, torch.zeros(1, 3, 8, 8)).places]
    [((8, 6, 6), 'chw'), ((8, 6, 6), 'chw'), ((288,), 'vector')]
    """
    small, large = (_run(graph, example, batch) for batch in _BATCHES)
    static = _static(graph)
    kinds = layouts(graph, small.values, static)
    total = small.flops[graph.nodes[-1]]
    places: list[Place] = []
    taken: set[fx.Node] = set()
    for position, alive in enumerate(_alive(graph, static)):
        tensors = [node for node in alive if not _is_scalar(small.values[node])]
        if len(tensors) != 1 or tensors[0] in taken or tensors[0] is graph.input or _is_last(tensors[0]):
            continue
        value = tensors[0]
        shape = _per_frame(small.values[value], large.values[value])
        scalars = {node: _constant(small.values[node], large.values[node]) for node in alive if node is not value}
        layout = kinds.get(value)
        if shape is None or layout is None or _UNKNOWN in scalars.values():
            continue
        taken.add(value)
        flops = small.flops[graph.nodes[position]] // _BATCHES[0]
        overwritten = small.values[value]._version != small.versions[value]
        places.append(Place(position, value, shape, layout, flops, scalars, overwritten))
    return Profile(tuple(places), total // _BATCHES[0], static)


def _run(graph: Graph, example: Tensor, batch: int) -> _ShapeRun:
    seen = _ShapeRun({}, {}, {})

    def call(frames: Tensor) -> None:
        nonlocal seen
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            interpreter = _Interpreter(graph.module, counter)
            interpreter.run(frames)
        seen = interpreter.seen

    on_shapes(call, example[:1].expand(batch, *example.shape[1:]).clone())
    return seen


def _static(graph: Graph) -> frozenset[fx.Node]:
    """Nodes that need no frame: weights, and values computed from weights alone."""
    static: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op not in ("placeholder", "output") and all(source in static for source in node.all_input_nodes):
            static.add(node)
    return frozenset(static)


def _alive(graph: Graph, static: frozenset[fx.Node]) -> list[list[fx.Node]]:
    """For every node, the values that later nodes need, its own included, in the order in which they are computed."""
    number = {node: index for index, node in enumerate(graph.nodes)}
    alive: dict[fx.Node, int] = {}
    after = []
    for index, node in enumerate(graph.nodes):
        if node.users and node not in static:
            alive[node] = max(number[user] for user in node.users)
        alive = {value: last for value, last in alive.items() if last > index}
        after.append(list(alive))
    return after


def _is_last(node: fx.Node) -> bool:
    return all(user.op == "output" for user in node.users)


def _is_scalar(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_scalar, value))
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device))


def _per_frame(small: Any, large: Any) -> tuple[int, ...] | None:
    """The shape without the batch, if both are floating point and differ only in the batch; else None."""
    if not isinstance(small, Tensor) or not small.is_floating_point() or small.ndim < 2:
        return None
    if (small.shape[0], large.shape[0]) != _BATCHES or small.shape[1:] != large.shape[1:]:
        return None
    return tuple(small.shape[1:])


def _constant(small: Any, large: Any) -> Any:
    """What a scalar is in every batch: itself, ``BATCH``, or ``_UNKNOWN``."""
    if isinstance(small, (tuple, list)):
        parts = [_constant(*pair) for pair in zip(small, large, strict=True)]
        return _UNKNOWN if any(part is _UNKNOWN for part in parts) else tuple(parts)
    if small == large:
        return small
    return BATCH if (small, large) == _BATCHES else _UNKNOWN
