"""Proposes the heads that are worth trying at a cut."""

from itertools import product

import torch

from layercache.early_exit.cutting.costs import count_flops
from layercache.early_exit.cutting.cuts import Cut, TracedModel
from layercache.early_exit.heads.families import HeadsError, build_head
from layercache.early_exit.heads.skims import path_flops_share, path_weights, skim_path
from layercache.schemas.manifest import HeadSpec

#: The most that a branch and a skim may cost, as shares of the model's FLOPs: every frame that gets there pays it.
_BRANCH_SHARE, _SKIM_SHARE = 0.025, 0.12
#: The most that a skim may cost, as a share of the FLOPs after the cut: it must leave something to save.
_SKIM_OF_REST = 0.2
#: The most weights of a skim. Dense layers have few FLOPs and many weights (VGG's: 120 million). Training holds five
#: copies of them, each version one.
_SKIM_WEIGHTS = 20_000_000
#: How many blocks a skim may keep of each run of blocks that leave the value's shape as it is.
_KEPT = range(5)
_STRIDES = (2, 1)


def propose_heads(cut: Cut, traced: TracedModel) -> list[HeadSpec]:
    """The heads to try at a cut: a pooled head, which learns at once, and a skim; without a skim, a branch on maps."""
    classes = len(traced.classifier.classes)
    last = cut.layout == "hwc"
    pooled = HeadSpec(family="pooled", features=cut.shape, classes=classes, grid=2, hidden=128, channels_last=last)
    better = _skim(cut, traced)
    if not better and len(cut.shape) == 3:
        better = _branch(cut, classes, traced.flops)
    return [pooled, *better]


def _branch(cut: Cut, classes: int, model_flops: int) -> list[HeadSpec]:
    last = cut.layout == "hwc"
    channels, *size = (cut.shape[2], *cut.shape[:2]) if last else cut.shape
    if min(size) < 4:
        return []
    depth = max(1, min(3, (min(size) - 1).bit_length() - 1))
    for width in (128, 96, 64, 48, 32, 24, 16):
        spec = HeadSpec(
            family="branch", features=cut.shape, classes=classes, width=width, depth=depth, channels_last=last
        )
        if width <= max(16, channels) and head_flops(spec) <= _BRANCH_SHARE * model_flops:
            return [spec]
    return []


def _skim(cut: Cut, traced: TracedModel) -> list[HeadSpec]:
    """The skim that keeps most of the model and still costs no more than its share of FLOPs."""
    best: HeadSpec | None = None
    most, limit = 0.0, min(_SKIM_SHARE, _SKIM_OF_REST * (1 - cut.flops_share))
    for stride in _STRIDES if len(cut.shape) == 3 else (1,):
        for keep, keep_here in product(_KEPT, _KEPT):
            path = skim_path(traced, cut.name, keep, keep_here)
            share = path_flops_share(traced, path)
            if not most < share <= limit * stride**2 or path_weights(traced, path) > _SKIM_WEIGHTS:
                continue
            try:
                spec = fit_skim(cut, traced, stride, keep, keep_here)
            except HeadsError:
                continue
            if head_flops(spec, traced) <= limit * traced.flops:
                best, most = spec, share
    return [best] if best else []


def fit_skim(cut: Cut, traced: TracedModel, stride: int, keep: int, keep_here: int) -> HeadSpec:
    """A skim that runs: where later layers need the map at the model's size, the skim enlarges its map before them.

    See :func:`layercache.early_exit.heads.skims.skim_path`. Raises
    :class:`layercache.early_exit.heads.families.HeadsError` where none runs.
    """
    path = skim_path(traced, cut.name, keep, keep_here)
    layouts = {one.name: one.layout for one in traced.cuts}
    restorable = [stop for _, stop in path if layouts.get(stop) in ("chw", "hwc")] if stride > 1 else []
    for restore in ("", *reversed(restorable)):
        spec = HeadSpec(
            family="skim",
            features=cut.shape,
            classes=len(traced.classifier.classes),
            channels_last=cut.layout == "hwc",
            path=path,
            stride=stride,
            restore=restore,
        )
        if head_runs(spec, traced):
            return spec
    raise HeadsError(f"no skim from {cut.name} with stride {stride} runs: later layers need another size")


def head_runs(spec: HeadSpec, traced: TracedModel) -> bool:
    """Whether a head takes the value at its cut, returns logits and learns: a skim's layers may need another size."""
    try:
        head = build_head(spec, traced)
        logits = head.train()(torch.zeros(2, *spec.features))
        logits.sum().backward()
        return tuple(logits.shape) == (2, spec.classes)
    except (HeadsError, RuntimeError, ValueError, AssertionError):  # layers complain in many ways
        return False


def head_flops(spec: HeadSpec, traced: TracedModel | None = None) -> int:
    """FLOPs of a head for one frame."""
    return count_flops(build_head(spec, traced).eval(), torch.zeros(1, *spec.features))
