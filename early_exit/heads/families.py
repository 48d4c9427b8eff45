"""Cache heads: small networks on the value at a cut that predict the whole model's answer.

Three families. *Pooled* heads average the map to a small grid, standardise it and classify it: they learn in seconds.
*Branch* heads convolve the map itself before pooling: they learn more slowly and answer more frames. *Skim* heads copy
a few of the model's own later layers and run them on a smaller map: they start from the model's weights.
"""

import copy
from itertools import pairwise

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse as fuse_graph
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from layercache.early_exit.cutting.cuts import CutError, TracedModel
from layercache.early_exit.heads.skims import END
from layercache.schemas.manifest import HeadSpec

#: The most pieces of a skim's path.
_LONGEST_PATH = 100


class HeadsError(ValueError):
    """Heads that must not be served: they are another model's, or damaged. The message says which and why."""


class _FlattenValue(nn.Module):
    """The value at a cut as a vector: a map averaged to a grid; the tokens' mean and first token (the class token)."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.kind = len(spec.features)
        self.channels_last = spec.channels_last
        if self.kind == 3:
            channels, height, width = _map_shape(spec)
            self.shape = (min(spec.grid, height), min(spec.grid, width))
            self.size = channels * self.shape[0] * self.shape[1]
        elif self.kind == 2:
            self.size = 2 * spec.features[1]
        elif self.kind == 1:
            self.size = spec.features[0]
        else:
            raise HeadsError(f"no head fits a value of shape {spec.features}: maps, tokens and vectors have heads")

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 3:
            x = x.permute(0, 3, 1, 2) if self.channels_last else x
            return self._pooled(x).flatten(1)
        if self.kind == 2:
            return torch.cat((x.mean(1), x[:, 0]), 1)
        return x

    def _pooled(self, x: Tensor) -> Tensor:
        """The map averaged to the grid, by the quickest operation that computes exactly that."""
        height, width = x.shape[2] // self.shape[0], x.shape[3] // self.shape[1]
        if self.shape == (1, 1):
            return x.mean((2, 3))
        if (height * self.shape[0], width * self.shape[1]) == tuple(x.shape[2:]):
            return F.avg_pool2d(x, (height, width))
        return F.adaptive_avg_pool2d(x, self.shape)


def _map_shape(spec: HeadSpec) -> tuple[int, int, int]:
    """Channels, height and width of the head's map."""
    if len(spec.features) != 3:
        raise HeadsError(f"a {spec.family} needs a map, not a value of shape {spec.features}")
    first, second, third = spec.features
    return (third, first, second) if spec.channels_last else (first, second, third)


class PooledHead(nn.Module):
    """Pool, standardise, classify; ``spec.hidden`` > 0 puts one hidden layer in between.

    Takes maps, tokens or vectors, ``[N, *spec.features]``; returns logits ``[N, spec.classes]``. Standardising is batch
    normalisation (Ioffe, Szegedy 2015) without a learnt scale or shift.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.flat = _FlattenValue(spec)
        self.standardise = nn.BatchNorm1d(self.flat.size, affine=False)
        self.classify: nn.Module
        if spec.hidden:
            self.classify = nn.Sequential(
                nn.Linear(self.flat.size, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, spec.classes)
            )
        else:
            self.classify = nn.Linear(self.flat.size, spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.classify(self.standardise(self.flat(x)))
        return result


class BranchHead(nn.Module):
    """``spec.depth`` convolutions of stride 2 on the map, ``spec.width`` channels, then twice that; pooled; linear.

    Takes maps, ``[N, *spec.features]``; returns logits ``[N, spec.classes]``. Branches with their own convolutions are
    as in Teerapittayanon, McDanel, Kung 2016, "BranchyNet".
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.channels_last = spec.channels_last
        channels = [_map_shape(spec)[0], *(spec.width * 2 ** min(level, 1) for level in range(spec.depth))]
        self.convolutions = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
                )
                for inputs, outputs in pairwise(channels)
            )
        )
        self.classify = nn.Linear(2 * channels[-1], spec.classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolutions(x.permute(0, 3, 1, 2) if self.channels_last else x)
        result: Tensor = self.classify(torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1))
        return result


class SkimHead(nn.Module):
    """Copies of the pieces of the model on ``spec.path``, one after another, on a map averaged by ``spec.stride``.

    Takes the value at a cut, ``[N, *spec.features]``; returns logits ``[N, spec.classes]``. Until they are trained, the
    copies have the model's own weights. See :mod:`layercache.early_exit.heads.skims`. Raises :class:`HeadsError` for a
    path that is not in the model.
    """

    def __init__(self, spec: HeadSpec, traced: TracedModel) -> None:
        super().__init__()
        self.channels_last = spec.channels_last
        self.stride = spec.stride
        if spec.stride > 1:
            _map_shape(spec)
        try:
            self.parts = nn.ModuleList(_copied(traced, start, stop) for start, stop in spec.path)
            restored = traced.cut(spec.restore) if spec.restore else None
        except CutError as error:
            raise HeadsError(f"a skim on {spec.path} does not fit the model: {error}") from error
        if restored is not None and (len(restored.shape) != 3 or spec.restore not in [stop for _, stop in spec.path]):
            raise HeadsError(f"a skim can be brought back to size at a map on its path, not at {spec.restore!r}")
        sizes = [_map_size(restored.shape, restored.layout == "hwc") if restored else None]
        self.sizes = [sizes[0] if stop == spec.restore != "" else None for _, stop in spec.path]
        self.restored_last = restored is not None and restored.layout == "hwc"

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)[-1]

    def values(self, x: Tensor) -> list[Tensor]:
        """Every part's output, the logits last; each should equal the model's value where the next part starts."""
        if self.stride > 1:
            x = x.permute(0, 3, 1, 2) if self.channels_last else x
            x = F.avg_pool2d(x, self.stride)
            x = x.permute(0, 2, 3, 1) if self.channels_last else x
        found = []
        for part, size in zip(self.parts, self.sizes, strict=True):
            x = part(x)
            if size is not None:
                x = x.permute(0, 3, 1, 2) if self.restored_last else x
                x = F.interpolate(x, size=size, mode="nearest")
                x = x.permute(0, 2, 3, 1) if self.restored_last else x
            found.append(x)
        return found


def _copied(traced: TracedModel, start: str, stop: str) -> nn.Module:
    """A copy of a piece of the model, with its own float32 weights."""
    segments = traced.segments([start] if stop == END else [start, stop])
    piece: nn.Module = copy.deepcopy(segments[1]).cpu().float().requires_grad_(True)
    return piece


def _map_size(shape: tuple[int, ...], channels_last: bool) -> tuple[int, int]:
    return (shape[0], shape[1]) if channels_last else (shape[1], shape[2])


def build_head(spec: HeadSpec, traced: TracedModel | None = None) -> nn.Module:
    """A head to be trained: features ``[N, *spec.features]`` to logits ``[N, spec.classes]``, float32.

    A skim copies layers of ``traced``; other heads start with random weights. Raises :class:`HeadsError` for a spec
    that does not fit the model.

    >>> build_head(HeadSpec(family="pooled", features=(64, 8, 8), classes=10))(torch.zeros(2, 64, 8, 8)).shape
    torch.Size([2, 10])
    """
    if spec.family == "skim":
        if traced is None or not 0 < len(spec.path) <= _LONGEST_PATH or spec.path[-1][1] != END or spec.stride < 1:
            raise HeadsError("a skim is made of a model's own layers: it needs the model, and a path to its end")
        return SkimHead(spec, traced)
    return PooledHead(spec) if spec.family == "pooled" else BranchHead(spec)


def fuse(head: nn.Module) -> nn.Module:
    """The same head for serving, each batch norm folded into its convolution; ``head`` must be in eval mode.

    This changes ``head`` itself, which must not be trained afterwards.

    >>> spec = HeadSpec(family="branch", features=(8, 7, 7), classes=4, width=6, depth=1)
    >>> head, maps = build_head(spec).eval(), torch.rand(2, 8, 7, 7)
    >>> before = head(maps)
    >>> torch.allclose(fuse(head)(maps), before, atol=1e-5)
    True
    """
    if isinstance(head, BranchHead):
        for block in head.convolutions:
            assert isinstance(block, nn.Sequential)
            convolution, norm = block[0], block[1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            block[0], block[1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    if isinstance(head, SkimHead):
        for index, part in enumerate(head.parts):
            assert isinstance(part, fx.GraphModule)
            called = [str(node.target) for node in part.graph.nodes if node.op == "call_module"]
            convolutions = [name for name in called if isinstance(part.get_submodule(name), nn.Conv2d)]
            if len(convolutions) == len(set(convolutions)):  # of two calls only one may have a norm
                head.parts[index] = fuse_graph(part, inplace=True, no_trace=True)
    return head
