"""Cache heads: small networks on the value at a cut that guess what the whole model would answer.

Two families. *Pooled* heads average the map to a small grid, standardise it and classify it: they learn in seconds.
*Branch* heads convolve the map itself before pooling: they learn more slowly and know more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from early_exit.cuts import TracedModel
from schemas.manifest import HeadSpec, Manifest


class HeadsError(ValueError):
    """Heads that must not be served: another model's, or damaged. The message says which and why."""


class _Flat(nn.Module):
    """Any value at a cut as a vector: maps averaged to a grid; of tokens the mean and the first, the class token."""

    def __init__(self, features: Sequence[int], grid: int) -> None:
        super().__init__()
        self.kind = len(features)
        self.grid = grid
        if self.kind == 3:
            channels, height, width = features
            self.size = channels * min(grid, height) * min(grid, width)
            self.shape = (min(grid, height), min(grid, width))
        elif self.kind == 2:
            self.size = 2 * features[1]
        elif self.kind == 1:
            self.size = features[0]
        else:
            raise HeadsError(f"no head fits a value of shape {tuple(features)}: maps, tokens and vectors have heads")

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 3:
            pooled = x.mean((2, 3)) if self.shape == (1, 1) else nn.functional.adaptive_avg_pool2d(x, self.shape)
            return pooled.flatten(1)
        if self.kind == 2:
            return torch.cat((x.mean(1), x[:, 0]), 1)
        return x


class PooledHead(nn.Module):
    """Pool, standardise, classify; ``spec.hidden`` > 0 puts one hidden layer in between."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.flat = _Flat(spec.features, spec.grid)
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
    """``spec.depth`` convolutions of stride 2 on the map, ``spec.width`` channels, then twice that; pooled; linear."""

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        if len(spec.features) != 3:
            raise HeadsError(f"a branch needs a map (C, H, W), not a value of shape {spec.features}")
        channels = [spec.features[0], *(spec.width * 2 ** min(level, 1) for level in range(spec.depth))]
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
        x = self.convolutions(x)
        result: Tensor = self.classify(torch.cat((x.mean((2, 3)), x.amax((2, 3))), 1))
        return result


def build_head(spec: HeadSpec) -> nn.Module:
    """A head with fresh weights: features ``[N, *spec.features]`` to logits ``[N, spec.classes]``."""
    return PooledHead(spec) if spec.family == "pooled" else BranchHead(spec)


def fuse(head: nn.Module) -> nn.Module:
    """The same head for serving, each batch norm folded into its convolution; ``head`` must be in eval mode."""
    if isinstance(head, BranchHead):
        for block in head.convolutions:
            assert isinstance(block, nn.Sequential)
            convolution, norm = block[0], block[1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            block[0], block[1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return head


@dataclass(frozen=True)
class CacheHeads:
    """A version of heads, ready to be served: one module in eval mode for each of the manifest's exits."""

    manifest: Manifest
    modules: tuple[nn.Module, ...]


def tensor_names(cut: str, head: nn.Module) -> dict[str, Tensor]:
    """A head's tensors under their names in ``heads.safetensors``: ``<cut>.<parameter>``."""
    return {f"{cut}.{name}": value.detach().cpu().contiguous() for name, value in head.state_dict().items()}


def load_heads(manifest: Manifest, tensors: Mapping[str, Tensor], traced: TracedModel) -> CacheHeads:
    """Builds the heads of a version for the traced model.

    Raises :class:`HeadsError` where they belong to another model, name an unknown cut, or a tensor is missing, has
    another shape, or is not finite.
    """
    fingerprint = traced.classifier.fingerprint
    shapes = {cut.name: tuple(cut.shape) for cut in traced.cuts}
    if manifest.model != fingerprint:
        raise HeadsError(
            f"heads {manifest.version} were trained for model {manifest.model[:12]}, this one is {fingerprint[:12]}"
        )
    modules = []
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
        head = build_head(exit_.head)
        own = {name[len(exit_.cut) + 1 :]: t for name, t in tensors.items() if name.startswith(f"{exit_.cut}.")}
        broken = next((name for name, t in own.items() if t.is_floating_point() and not t.isfinite().all()), None)
        if broken:
            raise HeadsError(f"heads {manifest.version}: tensor {exit_.cut}.{broken} is not finite")
        try:
            head.load_state_dict({name: own[name] for name in head.state_dict()})
        except (KeyError, RuntimeError) as error:
            raise HeadsError(f"heads {manifest.version}: the head at {exit_.cut!r} does not load: {error}") from error
        modules.append(fuse(head.eval().requires_grad_(False)))
    return CacheHeads(manifest, tuple(modules))
