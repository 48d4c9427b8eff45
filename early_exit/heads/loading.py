"""Builds a version of heads for serving from a manifest and its tensors, and refuses one that does not fit."""

from collections.abc import Mapping
from math import isfinite

import torch
from torch import Tensor, nn

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.heads.cache_heads import CacheHeads
from layercache.early_exit.heads.compiled_heads import load_path
from layercache.early_exit.heads.families import HeadsError, build_head, fuse
from layercache.schemas.manifest import Exit, HeadSpec, Manifest

#: The most hidden values or channels of a head, and the most convolutions of a branch.
_WIDEST, _DEEPEST = 65_536, 32


def _check_answers(head: nn.Module, exit_: Exit, spec: HeadSpec, version: str) -> None:
    """Runs a head once: a skim's path comes from a file, and layers that do not fit must not meet a frame."""
    try:
        with torch.inference_mode():
            shape = tuple(head(torch.zeros(2, *spec.features)).shape)
    except Exception as error:  # layers complain in many ways
        raise HeadsError(f"heads {version}: the head at {exit_.cut!r} does not run: {error}") from error
    if shape != (2, spec.classes):
        raise HeadsError(f"heads {version}: the head at {exit_.cut!r} returns {shape[1:]}, not {spec.classes} logits")


def tensor_names(cut: str, head: nn.Module) -> dict[str, Tensor]:
    """A head's tensors under their names in ``heads.safetensors``: ``<cut>.<parameter>``.

    >>> sorted(tensor_names("fc", nn.Linear(4, 2)))
    ['fc.bias', 'fc.weight']
    """
    return {f"{cut}.{name}": value.detach().cpu().contiguous() for name, value in head.state_dict().items()}


def _loaded(exit_: Exit, spec: HeadSpec, tensors: Mapping[str, Tensor], traced: TracedModel, version: str) -> nn.Module:
    """The exit's head with its tensors; each must be there, finite, and of the right shape and dtype.

    Sizes come from a file: they are compared before memory is taken for a head of that size.
    """
    where = f"heads {version}: the head at {exit_.cut!r}"
    if not (0 <= spec.hidden <= _WIDEST and 0 <= spec.width <= _WIDEST and 0 <= spec.depth <= _DEEPEST):
        raise HeadsError(f"{where} says it is of {spec.hidden} hidden values, {spec.width} wide, {spec.depth} deep")
    try:
        if spec.family == "skim":  # it copies pieces of the model, and is no larger than these
            head = build_head(spec, traced)
            expected = head.state_dict()
        else:
            with torch.device("meta"):
                expected = build_head(spec).state_dict()
            head = nn.Module()
    except (RuntimeError, OverflowError, ZeroDivisionError, TypeError) as error:  # sizes that torch refuses
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
    """Builds the heads of a version for the traced model; a compiled path is compiled for this machine.

    Raises :class:`HeadsError` if they belong to another model or name an unknown cut, or if a tensor is missing, has
    another shape or dtype, is not finite, or belongs to no exit.

    >>> from layercache.schemas.manifest import Exit, HeadSpec
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
    for exit_ in manifest.exits:
        if not exit_.temperature > 0 or not isfinite(exit_.temperature) or not isfinite(exit_.threshold):
            raise HeadsError(f"heads {manifest.version}: temperature and threshold at {exit_.cut!r} make no sense")
    if manifest.path is not None:
        return load_path(manifest, manifest.path, tensors, traced)
    modules = []
    used: set[str] = set()
    for exit_ in manifest.exits:
        if exit_.head is None:
            raise HeadsError(f"heads {manifest.version}: the exit {exit_.cut!r} has no head, and the path no graphs")
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
        head = _loaded(exit_, exit_.head, tensors, traced, manifest.version)
        used |= tensor_names(exit_.cut, head).keys()
        head = fuse(head.eval().requires_grad_(False))
        _check_answers(head, exit_, exit_.head, manifest.version)
        modules.append(head)
    unused = sorted(tensors.keys() - used)
    if unused and manifest.exits:  # a version with closed exits may have heads, but no exits to build them for
        raise HeadsError(f"heads {manifest.version}: tensor {unused[0]!r} belongs to no exit")
    return CacheHeads(manifest, tuple(modules))
