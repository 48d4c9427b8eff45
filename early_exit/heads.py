"""Cache heads: small networks on the value at a cut that guess what the whole model would answer.

Three families. *Pooled* heads average the map to a small grid, standardise it and classify it: they learn in seconds.
*Branch* heads convolve the map itself before pooling: they learn more slowly and know more. *Skim* heads are copies of
the model's own later layers, most of them left out, on a smaller map: they start from what the model was taught.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse as fuse_graph
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from early_exit.cuts import CutError, TracedModel
from early_exit.skims import END
from schemas.manifest import Exit, HeadSpec, Manifest

#: A skim's path has no more pieces than this.
_LONGEST_PATH = 100
#: Nor a head more hidden values or channels, or a branch more convolutions.
_WIDEST, _DEEPEST = 65_536, 32


class HeadsError(ValueError):
    """Heads that must not be served: another model's, or damaged. The message says which and why."""


class _Flat(nn.Module):
    """Any value at a cut as a vector: maps averaged to a grid; of tokens the mean and the first, the class token."""

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
        """The map averaged to the grid, by the quickest operation that gives just that."""
        height, width = x.shape[2] // self.shape[0], x.shape[3] // self.shape[1]
        if self.shape == (1, 1):
            return x.mean((2, 3))
        if (height * self.shape[0], width * self.shape[1]) == tuple(x.shape[2:]):
            return F.avg_pool2d(x, (height, width))
        return F.adaptive_avg_pool2d(x, self.shape)


def _map_shape(spec: HeadSpec) -> tuple[int, int, int]:
    """Channels, height, width of the map that the head is for."""
    if len(spec.features) != 3:
        raise HeadsError(f"a {spec.family} needs a map, not a value of shape {spec.features}")
    first, second, third = spec.features
    return (third, first, second) if spec.channels_last else (first, second, third)


class PooledHead(nn.Module):
    """Pool, standardise, classify; ``spec.hidden`` > 0 puts one hidden layer in between.

    Takes maps, tokens or vectors, ``[N, *spec.features]``; gives logits ``[N, spec.classes]``. Standardising is batch
    normalisation (Ioffe, Szegedy 2015) without a scale or shift of its own.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.flat = _Flat(spec)
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

    Takes maps, ``[N, *spec.features]``; gives logits ``[N, spec.classes]``. Branches with convolutions of their own are
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

    Takes the value at a cut, ``[N, *spec.features]``; gives logits ``[N, spec.classes]``. The copies are the model's
    own weights until they are trained. See :mod:`early_exit.skims`. Raises :class:`HeadsError` for a path that is not
    in the model.
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
        """What comes out of every part, the logits last; each is to be the model's value where the next part starts."""
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
    """A piece of the model with float32 weights of its own."""
    segments = traced.segments([start] if stop == END else [start, stop])
    piece: nn.Module = copy.deepcopy(segments[1]).cpu().float().requires_grad_(True)
    return piece


def _map_size(shape: tuple[int, ...], channels_last: bool) -> tuple[int, int]:
    return (shape[0], shape[1]) if channels_last else (shape[1], shape[2])


def build_head(spec: HeadSpec, traced: TracedModel | None = None) -> nn.Module:
    """A head to be trained: features ``[N, *spec.features]`` to logits ``[N, spec.classes]``, float32.

    A skim is made of ``traced``, the others start with random weights. Raises :class:`HeadsError` for a spec that makes
    no head for that model.

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

    ``head`` itself is changed, and must not be trained any more.

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
            if len(convolutions) == len(set(convolutions)):  # one called twice may have a norm after one call only
                head.parts[index] = fuse_graph(part, inplace=True, no_trace=True)
    return head


@dataclass(frozen=True)
class CacheHeads:
    """A version of heads, ready to be served: one module in eval mode for each of the manifest's exits."""

    manifest: Manifest
    modules: tuple[nn.Module, ...]


def _check_answers(head: nn.Module, exit_: Exit, version: str) -> None:
    """Runs a head once: a skim's path is a file's word, and layers that do not fit must not meet a frame."""
    try:
        with torch.inference_mode():
            shape = tuple(head(torch.zeros(2, *exit_.head.features)).shape)
    except Exception as error:  # layers complain in many ways
        raise HeadsError(f"heads {version}: the head at {exit_.cut!r} does not run: {error}") from error
    if shape != (2, exit_.head.classes):
        raise HeadsError(
            f"heads {version}: the head at {exit_.cut!r} returns {shape[1:]}, not {exit_.head.classes} logits"
        )


def tensor_names(cut: str, head: nn.Module) -> dict[str, Tensor]:
    """A head's tensors under their names in ``heads.safetensors``: ``<cut>.<parameter>``.

    >>> sorted(tensor_names("fc", nn.Linear(4, 2)))
    ['fc.bias', 'fc.weight']
    """
    return {f"{cut}.{name}": value.detach().cpu().contiguous() for name, value in head.state_dict().items()}


def _loaded(exit_: Exit, tensors: Mapping[str, Tensor], traced: TracedModel, version: str) -> nn.Module:
    """The exit's head with its tensors, which must be those that it has, in shape and dtype, and finite.

    Sizes come out of a file: they are compared before any memory is taken for a head of that size.
    """
    where = f"heads {version}: the head at {exit_.cut!r}"
    spec = exit_.head
    if not (0 <= spec.hidden <= _WIDEST and 0 <= spec.width <= _WIDEST and 0 <= spec.depth <= _DEEPEST):
        raise HeadsError(f"{where} says it is of {spec.hidden} hidden values, {spec.width} wide, {spec.depth} deep")
    try:
        if spec.family == "skim":  # copies of pieces of the model, no larger than that
            head = build_head(spec, traced)
            expected = head.state_dict()
        else:
            with torch.device("meta"):
                expected = build_head(spec).state_dict()
            head = nn.Module()
    except (RuntimeError, OverflowError, ZeroDivisionError, TypeError) as error:  # sizes of which torch makes nothing
        raise HeadsError(f"{where} cannot be built: {error}") from error
    own = {name: tensors.get(f"{exit_.cut}.{name}") for name in expected}
    for name, like in expected.items():
        found = own[name]
        if found is None or (found.shape, found.dtype) != (like.shape, like.dtype):
            has = "is missing" if found is None else f"is {found.dtype} {tuple(found.shape)}"
            raise HeadsError(f"{where} does not load: {name} {has}, not {like.dtype} {tuple(like.shape)}")
        if found.is_floating_point() and not found.isfinite().all():
            raise HeadsError(f"{where} does not load: {exit_.cut}.{name} is not finite")
    if spec.family != "skim":
        head = build_head(spec)
    head.load_state_dict(own)
    return head


def load_heads(manifest: Manifest, tensors: Mapping[str, Tensor], traced: TracedModel) -> CacheHeads:
    """Builds the heads of a version for the traced model.

    Raises :class:`HeadsError` where they belong to another model, name an unknown cut, or a tensor is missing, has
    another shape or dtype, is not finite, or belongs to no exit.

    >>> from schemas.manifest import Exit
    >>> spec = HeadSpec(family="pooled", features=traced.cut("layer2").shape, classes=10)
    >>> exit_ = Exit(cut="layer2", head=spec, temperature=1.0, threshold=0.9, flops_share=0.5, time_share=0.5)
    >>> manifest = Manifest(
    ...     version="v1", model=traced.classifier.fingerprint, model_name="tiny", created="2026-01-01T00:00:00Z",
    ...     reason="first", predecessor=None, exits=(exit_,), audit_rate=0.1, certificate=None, expected=None)
    >>> heads = load_heads(manifest, tensor_names("layer2", build_head(spec)), traced)
    >>> heads.modules[0](torch.zeros(2, 64, 14, 14)).shape
    torch.Size([2, 10])
    """
    fingerprint = traced.classifier.fingerprint
    shapes = {cut.name: tuple(cut.shape) for cut in traced.cuts}
    if manifest.model != fingerprint:
        raise HeadsError(
            f"heads {manifest.version} were trained for model {manifest.model[:12]}, this one is {fingerprint[:12]}"
        )
    overload = manifest.overload.thresholds if manifest.overload else None
    if overload is not None and (len(overload) != len(manifest.exits) or not all(map(isfinite, overload))):
        raise HeadsError(f"heads {manifest.version}: thresholds for overload {overload} do not fit the exits")
    modules = []
    used: set[str] = set()
    for exit_ in manifest.exits:
        if exit_.cut not in shapes:
            raise HeadsError(f"heads {manifest.version} exit at {exit_.cut!r}, which is no cut of this model")
        if tuple(exit_.head.features) != shapes[exit_.cut]:
            raise HeadsError(
                f"heads {manifest.version}: the head at {exit_.cut!r} is for {exit_.head.features}, "
                f"the value there is {shapes[exit_.cut]}"
            )
        if exit_.head.classes != len(traced.classifier.classes):
            raise HeadsError(
                f"heads {manifest.version}: the head at {exit_.cut!r} names {exit_.head.classes} classes, "
                f"the model {len(traced.classifier.classes)}"
            )
        if not exit_.temperature > 0 or not isfinite(exit_.temperature) or not isfinite(exit_.threshold):
            raise HeadsError(f"heads {manifest.version}: temperature and threshold at {exit_.cut!r} make no sense")
        head = _loaded(exit_, tensors, traced, manifest.version)
        used |= tensor_names(exit_.cut, head).keys()
        head = fuse(head.eval().requires_grad_(False))
        _check_answers(head, exit_, manifest.version)
        modules.append(head)
    unused = sorted(tensors.keys() - used)
    if unused and manifest.exits:  # a version kept closed has heads, and no exits to build them for
        raise HeadsError(f"heads {manifest.version}: tensor {unused[0]!r} belongs to no exit")
    return CacheHeads(manifest, tuple(modules))
