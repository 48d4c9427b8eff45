"""Cuts a model into segments whose chain is the model."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import fx, nn

from layercache.early_exit.cutting import liveness
from layercache.early_exit.cutting.layouts import Layout
from layercache.early_exit.cutting.liveness import BATCH, Place, Profile
from layercache.early_exit.model import tracing
from layercache.early_exit.model.loading import Classifier
from layercache.early_exit.model.tracing import Graph
from layercache.schemas.prediction import FULL

#: Proposed cuts lie between the first two, shares of the model's FLOPs. With at least ``_WITH_EARLY`` proposed cuts one
#: lies before ``_FIRST``: a skim of nearly the whole model pays off only if almost nothing runs before it.
_FIRST, _LAST, _WITH_EARLY = 0.1, 0.8, 4
#: Proposed cuts lie at least this far apart, in shares of the model's FLOPs.
_APART = 0.06
#: A cut one level deeper inside a block, or inside a leaf, is taken only if it is closer to its target by this share
#: of FLOPs.
_PER_LEVEL, _INSIDE = 0.02, 0.1
#: A module with more of the model's FLOPs than this is no block itself: it holds blocks.
_LARGEST_BLOCK = 0.3


class CutError(ValueError):
    """The model cannot be cut there; the message says why and what to do."""


@dataclass(frozen=True)
class Cut:
    """A place where the model can be cut. ``name`` fits file names and metric labels: ``layer2.0``.

    ``shape`` is the value's shape there, without the batch, and ``layout`` names its axes: ``vector`` (D,),
    ``tokens`` (T, D), ``chw`` (C, H, W) or ``hwc`` (H, W, C). ``flops_share`` is the share of the model's FLOPs spent
    before it.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout
    flops_share: float


class TracedModel:
    """A classifier and all places where it can be cut, in order. ``flops`` are the whole model's, per frame.

    ``proposed`` are the cuts that are worth trying heads at. Made by :func:`trace`.

    >>> [cut.name for cut in traced.proposed]
    ['relu', 'layer1', 'layer2', 'layer3']
    >>> [cut.name for cut in traced.blocks]
    ['layer1.0', 'layer1', 'layer2.0', 'layer2', 'layer3.0', 'layer3', 'layer4.0', 'layer4']
    """

    def __init__(self, classifier: Classifier, graph: Graph, profile: Profile, max_proposed: int) -> None:
        self.classifier = classifier
        self.flops = profile.flops
        self._graph = graph
        self._profile = profile
        names = _names(graph, [place.value for place in profile.places])
        total = max(1, profile.flops)
        self.cuts = tuple(
            Cut(name, place.shape, place.layout, place.flops / total)
            for name, place in zip(names, profile.places, strict=True)
        )
        self._places = dict(zip(names, profile.places, strict=True))
        self.proposed = self._propose(max_proposed)

    @property
    def blocks(self) -> tuple[Cut, ...]:
        """The cuts after whole blocks: modules made of modules, and layers of a sequence outside such modules."""
        paths = {cut: self._graph.outputs.get(place.value) for cut, place in self._places_by_cut().items()}
        whole = {path for path in paths.values() if path is not None and self._is_whole(path)}
        spans = {path: self._span(path) for path in whole}
        inner = {path for path, span in spans.items() if span <= _LARGEST_BLOCK and not self._is_list(path)}
        return tuple(
            cut
            for cut, path in paths.items()
            if path in whole and not any(path.startswith(f"{outer}.") for outer in inner)
        )

    def _places_by_cut(self) -> dict[Cut, Place]:
        """The places whose value no later node overwrites."""
        return {cut: self._places[cut.name] for cut in self.cuts if not self._places[cut.name].overwritten}

    def _is_whole(self, path: str) -> bool:
        """Whether the module at ``path`` consists of others, or is an item of a sequence."""
        parent, _, _ = path.rpartition(".")
        return path in self._graph.composite or (bool(parent) and self._is_list(parent))

    def _is_list(self, path: str) -> bool:
        return isinstance(self.classifier.module.get_submodule(path), (nn.Sequential, nn.ModuleList))

    def _span(self, path: str) -> float:
        """From the first to the last cut in a module, as a share of the model's FLOPs."""
        paths = {cut: self._graph.outputs.get(place.value) or "" for cut, place in self._places_by_cut().items()}
        shares = [cut.flops_share for cut, own in paths.items() if own == path or own.startswith(f"{path}.")]
        return max(shares) - min(shares)

    def cut(self, name: str) -> Cut:
        """The cut of that name. Raises :class:`CutError`.

        >>> traced.cut("layer2").shape, traced.cut("layer2").layout
        ((64, 14, 14), 'chw')
        """
        for cut in self.cuts:
            if cut.name == name:
                return cut
        names = [cut.name for cut in self.cuts]
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.3) or names[:5]
        raise CutError(
            f"{self.classifier.name} has no cut {name!r}; near ones: {', '.join(near)} "
            f"(of {len(names)}; `layercache cuts` lists all)"
        )

    def segments(self, names: Sequence[str]) -> list[nn.Module]:
        """The model cut at ``names``, which must be in the model's order: one module more than there are names.

        The first takes the normalised frames, each other one the output of the one before; the last returns the logits.
        They share the classifier's weights, and none changes its input. In eager mode their chain returns the model's
        own logits, bit for bit. Raises :class:`CutError`.

        >>> first, last = traced.segments(["layer2"])
        >>> frames = traced.classifier.example(2)
        >>> torch.equal(last(first(frames)), traced.classifier.module(frames))
        True
        """
        order = [cut.name for cut in self.cuts]
        positions = [order.index(self.cut(name).name) for name in names]
        if any(later <= earlier for earlier, later in pairwise(positions)):
            raise CutError(f"cuts must come in the model's order, each once: {', '.join(names)}")
        bounds = [None, *(self._places[name] for name in names), None]
        return [_segment(self._graph, self._profile.static, start, stop) for start, stop in pairwise(bounds)]

    def _propose(self, count: int) -> tuple[Cut, ...]:
        """Up to ``count`` cuts: one near the start, the others about evenly spaced in FLOPs, after whole blocks."""
        depths = {
            cut: _depth(self._graph, self._places[cut.name].value)
            for cut in self.cuts
            if cut.flops_share <= _LAST and not self._places[cut.name].overwritten
        }
        candidates = {cut: depth for cut, depth in depths.items() if cut.flops_share >= _FIRST}
        chosen: list[Cut] = []
        if count >= _WITH_EARLY and (early := [cut for cut in depths if cut.flops_share < _FIRST]):
            chosen.append(min(reversed(early), key=lambda cut: depths[cut]))
        spread = count - len(chosen)
        for index in range(spread):
            target = _LAST * (index + 1) / spread
            free = [c for c in candidates if all(abs(c.flops_share - o.flops_share) >= _APART for o in chosen)]
            if free:
                # of several cuts at the same cost the last: pooling after a block is free and makes the map smaller
                chosen.append(min(reversed(free), key=lambda c: abs(c.flops_share - target) + candidates[c]))
        return tuple(sorted(chosen, key=self.cuts.index))


def trace(classifier: Classifier, max_proposed: int = 4) -> TracedModel:
    """Finds where ``classifier`` can be cut: after each ``torch.fx`` operation from which one value alone leads on.

    At most ``max_proposed`` of the cuts are proposed for heads. Raises :class:`CutError` if tracing fails, with the
    module and what to do, or if the traced graph gives other answers than the model.

    >>> cuts = trace(traced.classifier, max_proposed=2)
    >>> len(cuts.cuts), [cut.name for cut in cuts.proposed]
    (21, ['layer2.0', 'layer3'])
    """
    try:
        graph = tracing.trace(classifier.module)
    except tracing.TraceFailure as error:
        raise CutError(f"{classifier.name} cannot be cut: {error}") from error
    example = classifier.example(2)
    with torch.inference_mode():
        expected, traced = classifier.module(example), graph.module(example)
    if not torch.allclose(expected, traced, rtol=1e-2, atol=1e-2, equal_nan=True):
        raise CutError(
            f"{classifier.name} cannot be cut: its traced graph gives other logits than the model. Its forward "
            "depends on something besides the frames (random numbers, a counter); make it a function of them alone"
        )
    try:
        profile = liveness.profile(graph, example)
    except Exception as error:  # an operation without a shape rule, in whatever way it says so
        raise CutError(f"{classifier.name} cannot be cut: its shapes cannot be computed: {error}") from error
    return TracedModel(classifier, graph, profile, max_proposed)


def _names(graph: Graph, values: list[fx.Node]) -> list[str]:
    """A name for each value: the module that it is the output of, else the module and the operation."""
    names: list[str] = []
    for node in values:
        operation = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "op")
        base = graph.outputs.get(node) or ".".join(filter(None, (graph.paths[node], operation)))
        base = re.sub(r"[^A-Za-z0-9_.-]", "_", base)
        name, repeat = base, 0
        while name in names or name == FULL:
            repeat += 1
            name = f"{base}_{repeat}"
        names.append(name)
    return names


def _depth(graph: Graph, node: fx.Node) -> float:
    """How far a cut is from the end of a whole block, as the share of FLOPs that such an end may lie off its target."""
    path = graph.outputs.get(node)
    if path is None:
        return _INSIDE + _PER_LEVEL * graph.paths[node].count(".")
    parent, _, _ = path.rpartition(".")
    in_sequence = isinstance(graph.module.get_submodule(parent), nn.Sequential) if parent else False
    return _PER_LEVEL * path.count(".") + (0.0 if path in graph.composite or in_sequence else _INSIDE)


def _segment(graph: Graph, static: frozenset[fx.Node], start: Place | None, stop: Place | None) -> fx.GraphModule:
    """The nodes after ``start`` and up to ``stop`` as a module of its own, sharing the weights."""
    part = fx.Graph()
    given = part.placeholder("x")
    copies: dict[fx.Node, fx.node.Argument] = {}
    if start is None:
        copies[graph.input] = given
    else:
        copies[start.value] = part.call_method("clone", (given,)) if start.overwritten else given
        batch = None
        for node, constant in start.scalars.items():
            if batch is None and _mentions_batch(constant):
                batch = part.call_method("size", (given, 0))
            copies[node] = _with_batch(constant, batch)

    def copied(node: fx.Node) -> fx.node.Argument:
        if node not in copies and node in static:
            copies[node] = part.node_copy(node, copied)
        return copies[node]

    first = 0 if start is None else start.position + 1
    last = len(graph.nodes) if stop is None else stop.position + 1
    for node in graph.nodes[first:last]:
        if node.op == "output":
            part.output(fx.node.map_arg(node.args[0], copied))
        elif node.op != "placeholder" and node not in static:
            copies[node] = part.node_copy(node, copied)
    if stop is not None:
        part.output(copies[stop.value])
    segment = fx.GraphModule(graph.module, part)
    segment.eval()
    return segment


def _mentions_batch(constant: object) -> bool:
    return constant is BATCH or (isinstance(constant, tuple) and any(map(_mentions_batch, constant)))


def _with_batch(constant: object, batch: fx.Node | None) -> fx.node.Argument:
    if constant is BATCH:
        return batch
    if isinstance(constant, tuple):
        return tuple(_with_batch(part, batch) for part in constant)
    return constant  # type: ignore[return-value]
