"""Loads the pretrained model: builds it, loads its weights, moves it to its device and fingerprints it."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layercache.early_exit.model import metadata, python_files, timm_models, torchvision_models
from layercache.early_exit.model.fingerprint import fingerprint
from layercache.early_exit.model.metadata import MetadataError
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.early_exit.model.reference import UNDECIDED, Reference
from layercache.early_exit.model.weights import ModelError, load_weights
from layercache.schemas import settings as settings_schema
from layercache.schemas.settings import Precision, Runtime

__all__ = ["Classifier", "ModelError", "PickLogits", "load", "load_weights", "of_module"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classifier:
    """A classifier ready to run: ``module`` takes what ``preprocessing`` makes and returns logits ``[N, classes]``.

    It is in eval mode on ``device`` in ``dtype``, and none of its parameters requires a gradient. ``fingerprint`` (hex)
    identifies architecture, float32 weights and preprocessing, on any device in any dtype; class names do not count.

    ``runtime`` and ``precision`` are what the settings allow. ``reference`` is what runs the model as a whole, once
    :func:`layercache.early_exit.runtimes.with_reference` has chosen it; before that, PyTorch does.
    """

    module: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    name: str
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    runtime: Runtime = "auto"
    precision: Precision = "auto"
    reference: Reference = UNDECIDED

    def example(self, frames: int = 1) -> Tensor:
        """Random frames as the module takes them, always the same: ``[frames, channels, height, width]``.

        >>> traced.classifier.example(2).shape
        torch.Size([2, 1, 28, 28])
        """
        shape = (frames, self.preprocessing.channels, *self.preprocessing.size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return self.preprocessing.normalise(pixels.to(self.device), self.dtype)

    def inputs(self, pictures: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Pictures, uint8 ``[N, C, h, w]``, as the module takes them, channels last; in another ``dtype`` if wanted.

        >>> traced.classifier.inputs(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).dtype
        torch.float32
        """
        inputs = self.preprocessing.normalise(pictures.to(self.device), dtype or self.dtype)
        return inputs.contiguous(memory_format=torch.channels_last)


class PickLogits(nn.Module):
    """Reduces a model that returns several values to its logits: the value under ``key``, or the attribute ``key``.

    >>> class Two(nn.Module):
    ...     def forward(self, frames: Tensor) -> dict[str, Tensor]:
    ...         return {"features": frames, "logits": frames[:, :2]}
    >>> PickLogits(Two(), "logits", attribute=False)(torch.zeros(1, 5)).shape
    torch.Size([1, 2])
    """

    def __init__(self, model: nn.Module, key: str | int, attribute: bool) -> None:
        super().__init__()
        self.model = model
        self.key = key
        self.attribute = attribute

    def forward(self, frames: Tensor) -> Tensor:
        output = self.model(frames)
        logits: Tensor = getattr(output, str(self.key)) if self.attribute else output[self.key]
        return logits

    def extra_repr(self) -> str:
        return f"key={self.key!r}"


def load(settings: settings_schema.Model) -> Classifier:
    """The model that the settings describe. Raises :class:`ModelError`.

    >>> classifier = load(settings_schema.Model(spec="examples/fashion_mnist.py:build"))
    >>> classifier.name, classifier.classes[:2], classifier.fingerprint[:12]
    ('fashion-mnist', ('t-shirt', 'trouser'), 'eb575f920e07')
    >>> logits = classifier.module(classifier.preprocessing.normalise(torch.zeros(1, 1, 28, 28, dtype=torch.uint8)))
    >>> logits.shape
    torch.Size([1, 10])
    """
    device, dtype = _device(settings.device), _dtype(settings.dtype)
    try:
        if settings.spec.startswith(torchvision_models.TORCHVISION):
            module, known = torchvision_models.build(settings)
        elif settings.spec.startswith(timm_models.TIMM):
            module, known = timm_models.build(settings)
        else:
            module, known = python_files.build(settings)
    except MetadataError as error:
        raise ModelError(str(error)) from error
    if known.preprocessing is None:
        raise ModelError(
            f"no preprocessing known for {settings.spec}: write a TOML file"
            f"{_where_metadata_goes(settings)}, or name one with --metadata, with\n{metadata.EXAMPLE}"
        )
    name = known.name or settings.spec
    classifier = _ready(module, known.preprocessing, known.classes, name, settings.spec, device, dtype)
    return replace(classifier, runtime=settings.runtime, precision=settings.precision)


def of_module(
    module: nn.Module,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None = None,
    *,
    name: str = "model",
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    runtime: Runtime = "auto",
    precision: Precision = "auto",
) -> Classifier:
    """A classifier made of a module that is in memory; ``classes`` are in the order of its logits.

    The module is copied: it is not changed, and later changes to it do not change the classifier. ``name`` is for
    people, and part of the path of its heads in the store. Raises :class:`ModelError` if the module does not run on
    such pictures, or does not return logits.

    >>> grey = Preprocessing(size=(8, 8), mean=(0.5,), std=(0.5,))
    >>> classifier = of_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), grey, ["cat", "dog"], name="pets")
    >>> classifier.name, classifier.classes, classifier.module.training
    ('pets', ('cat', 'dog'), False)
    """
    names = None if classes is None else tuple(classes)
    classifier = _ready(copy.deepcopy(module), preprocessing, names, name, name, _device(device), _dtype(dtype))
    return replace(classifier, runtime=runtime, precision=precision)


def _ready(
    module: nn.Module,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
    name: str,
    spec: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Classifier:
    """Tries the module out, fingerprints it and moves it to its device; error messages name ``spec``."""
    module = module.to("cpu").float().eval().requires_grad_(False)
    module, count = _dry_run(module, preprocessing, spec)
    names = classes or tuple(f"class {index}" for index in range(count))
    if len(names) != count:
        raise ModelError(
            f"{spec} gives {count} logits but {len(names)} class names are known; "
            "list the classes (in the metadata TOML), in the order of the logits, and give weights that fit them"
        )
    identity = fingerprint(module, preprocessing)
    try:
        module = module.to(device, dtype)
    except RuntimeError as error:  # out of memory in most cases
        raise ModelError(f"cannot put {spec} on {device}: {error}") from error
    return Classifier(module, preprocessing, names, name, identity, device, dtype)


def _where_metadata_goes(settings: settings_schema.Model) -> str:
    if settings.metadata is not None:
        return f" {settings.metadata}"
    return (
        ""
        if settings.spec.startswith((torchvision_models.TORCHVISION, timm_models.TIMM))
        else f" {Path(settings.spec.rpartition(':')[0]).with_suffix('.toml')}"
    )


def _dry_run(module: nn.Module, preprocessing: Preprocessing, spec: str) -> tuple[nn.Module, int]:
    """The module, reduced to its logits if it returns more, and the number of logits."""
    frames = preprocessing.normalise(torch.zeros(2, preprocessing.channels, *preprocessing.size, dtype=torch.uint8))
    try:
        with torch.no_grad():
            output = module(frames)
    except Exception as error:  # the user's own code
        raise ModelError(
            f"{spec} fails on a batch of shape {tuple(frames.shape)}: {type(error).__name__}: {error}. "
            "Is the size or the number of channels (values of mean) another?"
        ) from error
    if not isinstance(output, Tensor):
        module = _pick_logits(module, output, spec)
        output = module(frames)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(frames) or output.shape[1] < 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(f"{spec} returned {shape} for 2 frames; a classifier returns logits [2, classes]")
    return module.eval(), output.shape[1]


def _pick_logits(module: nn.Module, output: Any, spec: str) -> nn.Module:
    named = {key: value for key in ("logits", "out") if isinstance(value := getattr(output, key, None), Tensor)}
    if named:
        return PickLogits(module, next(iter(named)), attribute=True)
    if isinstance(output, Mapping):
        keys = [key for key in ("logits", "out", *output) if isinstance(output.get(key), Tensor)]
    else:
        sequence = output if isinstance(output, (tuple, list)) else ()
        keys = [index for index, value in enumerate(sequence) if isinstance(value, Tensor)]
    if not keys:
        raise ModelError(f"{spec} returned a {type(output).__name__} without a tensor; it must return logits")
    return PickLogits(module, keys[0], attribute=False)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"device {name!r} is not available here ({reason}); device = cpu always is") from error
    return device


def _dtype(name: str) -> torch.dtype:
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ModelError(f"dtype must be one of {', '.join(dtypes)}, not {name!r}")
    return dtypes[name]
