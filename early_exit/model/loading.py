"""The pretrained model: built, given its weights, put where it shall run, and told apart from every other."""

import copy
import difflib
import hashlib
import importlib.util
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
import torchvision.models
from torch import Tensor, nn

from layercache.early_exit.model import metadata, timm_models
from layercache.early_exit.model.fingerprint import IMPORTED, fingerprint
from layercache.early_exit.model.metadata import Metadata, MetadataError
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.early_exit.model.weights import ModelError, load_weights, weights_file
from layercache.schemas import settings as settings_schema

__all__ = ["Classifier", "ModelError", "PickLogits", "load", "load_weights", "of_module"]

log = logging.getLogger(__name__)

TORCHVISION = "torchvision:"

#: What a builder must be told so that weights from a file meet the model that they were made for.
_FILE_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True},
    "inception_v3": {"transform_input": True},
}


@dataclass(frozen=True)
class Classifier:
    """A classifier ready to run: ``module`` takes what ``preprocessing`` makes and returns logits ``[N, classes]``.

    It is in eval mode on ``device`` in ``dtype``, and none of its parameters wants a gradient. ``fingerprint`` (hex)
    names architecture, float32 weights and preprocessing, whatever device and dtype; class names are not part of it.
    """

    module: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    name: str
    fingerprint: str
    device: torch.device
    dtype: torch.dtype

    def example(self, frames: int = 1) -> Tensor:
        """Random frames as the module wants them, always the same ones: ``[frames, channels, height, width]``.

        >>> traced.classifier.example(2).shape
        torch.Size([2, 1, 28, 28])
        """
        shape = (frames, self.preprocessing.channels, *self.preprocessing.size)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return self.preprocessing.normalise(pixels.to(self.device), self.dtype)


class PickLogits(nn.Module):
    """A model that returns several things, reduced to its logits: what it has under ``key``, or as that attribute.

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
        if settings.spec.startswith(TORCHVISION):
            module, known = _from_torchvision(settings)
        elif settings.spec.startswith(timm_models.TIMM):
            module, known = timm_models.build(settings)
        else:
            module, known = _from_file(settings)
    except MetadataError as error:
        raise ModelError(str(error)) from error
    if known.preprocessing is None:
        raise ModelError(
            f"no preprocessing known for {settings.spec}: write a TOML file"
            f"{_where_metadata_goes(settings)}, or name one with --metadata, with\n{metadata.EXAMPLE}"
        )
    return _ready(module, known.preprocessing, known.classes, known.name or settings.spec, settings.spec, device, dtype)


def of_module(
    module: nn.Module,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None = None,
    *,
    name: str = "model",
    device: str = "cpu",
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> Classifier:
    """A classifier by a module that is in memory already, in the order of whose logits ``classes`` are named.

    The module is copied: neither is it changed, nor does what becomes of it later change the classifier. ``name`` is
    for people, and part of where its heads are stored. Raises :class:`ModelError` where the module does not run on
    such pictures, or returns other than logits for them.

    >>> grey = Preprocessing(size=(8, 8), mean=(0.5,), std=(0.5,))
    >>> classifier = of_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), grey, ["cat", "dog"], name="pets")
    >>> classifier.name, classifier.classes, classifier.module.training
    ('pets', ('cat', 'dog'), False)
    """
    names = None if classes is None else tuple(classes)
    return _ready(copy.deepcopy(module), preprocessing, names, name, name, _device(device), _dtype(dtype))


def _ready(
    module: nn.Module,
    preprocessing: Preprocessing,
    classes: tuple[str, ...] | None,
    name: str,
    spec: str,
    device: torch.device,
    dtype: torch.dtype,
) -> Classifier:
    """The module, put where it shall run, tried out and told apart from others; ``spec`` is for what goes wrong."""
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
    except RuntimeError as error:  # out of memory, above all
        raise ModelError(f"cannot put {spec} on {device}: {error}") from error
    return Classifier(module, preprocessing, names, name, identity, device, dtype)


def _where_metadata_goes(settings: settings_schema.Model) -> str:
    if settings.metadata is not None:
        return f" {settings.metadata}"
    return (
        ""
        if settings.spec.startswith((TORCHVISION, timm_models.TIMM))
        else f" {Path(settings.spec.rpartition(':')[0]).with_suffix('.toml')}"
    )


def _from_torchvision(settings: settings_schema.Model) -> tuple[nn.Module, Metadata]:
    name = settings.spec.removeprefix(TORCHVISION)
    builders = torchvision.models.list_models(module=torchvision.models)
    if name not in builders:
        near = difflib.get_close_matches(name, builders, n=3, cutoff=0.4)
        raise ModelError(
            f"torchvision has no classifier {name!r}" + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    entries = torchvision.models.get_model_weights(name)
    entry = getattr(entries, settings.weights, None) if settings.weights else None
    known = metadata.of_torchvision(entry or getattr(entries, "DEFAULT"))  # noqa: B009 - an alias mypy cannot see
    given = Metadata()
    if settings.metadata is not None:
        given = metadata.read(settings.metadata, known.preprocessing)
    file = None if entry else weights_file(settings, given, tuple(entries.__members__))
    options = _FILE_OPTIONS.get(name, {}) if file else {}
    if name in _FILE_OPTIONS and not entry:
        options = options | {"init_weights": False}  # its own takes a minute
    if given.classes and not entry:
        options = options | {"num_classes": len(given.classes)}
    if given.preprocessing and not entry:
        options = options | _input_size_options(name, given.preprocessing.size)
    try:
        module = torchvision.models.get_model(name, weights=entry, **options)
    except Exception as error:  # a download may fail in many ways
        raise ModelError(f"cannot build {settings.spec} with weights {settings.weights}: {error}") from error
    if file:
        load_weights(module, file)
    elif not entry:
        log.warning("%s has no weights: it answers at random, and differently in every process", settings.spec)
    merged = Metadata(given.preprocessing or known.preprocessing, given.classes or known.classes, name=given.name)
    return module, merged


def _input_size_options(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """What builders of a fixed input size must be told about it."""
    if name.startswith("vit_"):
        return {"image_size": size[0]}
    return {"input_size": size} if name.startswith("maxvit_") else {}


def _from_file(settings: settings_schema.Model) -> tuple[nn.Module, Metadata]:
    file, colon, function = settings.spec.rpartition(":")
    if not colon or not function.isidentifier():
        raise ModelError(
            f"{settings.spec!r} is no model: write torchvision:NAME, timm:NAME or path/to/file.py:FUNCTION, "
            "FUNCTION being any function that returns an nn.Module"
        )
    path = Path(file)
    beside = path.with_suffix(".toml")
    toml = settings.metadata or (beside if beside.is_file() else None)
    known = metadata.read(toml) if toml else Metadata()
    build = getattr(_import(path), function, None)
    if not callable(build):
        raise ModelError(f"{path} has no function {function!r}")
    try:
        module = build()
    except Exception as error:  # the user's own code
        raise ModelError(f"{settings.spec} failed: {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{settings.spec} returned a {type(module).__name__}, not an nn.Module")
    weights = weights_file(settings, known, ())
    if weights:
        load_weights(module, weights)
    name = known.name or path.stem
    return module, Metadata(known.preprocessing, known.classes, name=name)


def _import(path: Path) -> ModuleType:
    """The Python file at ``path`` under a name of its own, so that two models' files never shadow each other."""
    if not path.is_file():
        raise ModelError(f"no Python file at {path}")
    name = IMPORTED + hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look themselves up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        del sys.modules[name]
        raise ModelError(f"cannot import {path}: {type(error).__name__}: {error}") from error
    return module


def _dry_run(module: nn.Module, preprocessing: Preprocessing, spec: str) -> tuple[nn.Module, int]:
    """The module, reduced to its logits where it returns more, and their number."""
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
