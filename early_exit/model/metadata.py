"""A model's preprocessing and class names, from a small TOML file, or from torchvision and timm for their models."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from layercache.early_exit.model.preprocessing import Preprocessing

EXAMPLE = """\
size = [224, 224]              # height, width
mean = [0.485, 0.456, 0.406]   # one value for grey pictures
std = [0.229, 0.224, 0.225]
classes = ["cat", "dog"]       # optional"""

Values = float | Annotated[list[float], Field(min_length=1, max_length=3)]


class MetadataError(ValueError):
    """A metadata file that cannot be used; the message names the file and the key."""


@dataclass(frozen=True)
class Metadata:
    """What is known about a model besides its architecture; None for what is not known."""

    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] | None = None
    weights: Path | None = None
    name: str | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int | tuple[int, int] | None = None
    mean: Values | None = None
    std: Values | None = None
    resize: int | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    classes: list[str] | None = Field(None, min_length=2)
    weights: Path | None = None
    name: str | None = Field(None, min_length=1)


def read(path: Path, default: Preprocessing | None = None) -> Metadata:
    """Reads the TOML file at ``path``; preprocessing keys that it lacks are taken from ``default``.

    Raises :class:`MetadataError`.

    >>> known = read(Path("examples/fashion_mnist.toml"))
    >>> known.name, known.preprocessing.size, known.classes[:2]
    ('fashion-mnist', (28, 28), ('t-shirt', 'trouser'))
    """
    try:
        file = _File.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise MetadataError(f"no metadata file at {path}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MetadataError(f"cannot read the metadata file {path}: {error}") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise MetadataError(f"metadata file {path}: {problems}") from error
    return Metadata(
        preprocessing=_preprocessing(file, path, default),
        classes=None if file.classes is None else tuple(file.classes),
        weights=None if file.weights is None else path.parent / file.weights,
        name=file.name,
    )


def _preprocessing(file: _File, path: Path, default: Preprocessing | None) -> Preprocessing | None:
    given = {
        name: value
        for name in ("size", "mean", "std", "resize", "interpolation")
        if (value := getattr(file, name)) is not None
    }
    if not given:
        return default
    if "size" in given:
        size = given["size"]
        given["size"] = (size, size) if isinstance(size, int) else tuple(size)
    for name in ("mean", "std"):
        if name in given:
            given[name] = tuple(given[name]) if isinstance(given[name], list) else (given[name],)
    base: dict[str, Any] = {} if default is None else vars(default).copy()
    if "size" in given:
        base.pop("resize", None)  # it belonged to the default's size
    missing = {"size", "mean", "std"} - (base | given).keys()
    if missing:
        raise MetadataError(f"metadata file {path} lacks {', '.join(sorted(missing))}; a complete one:\n{EXAMPLE}")
    try:
        return Preprocessing(**(base | given))
    except ValueError as error:
        raise MetadataError(f"metadata file {path}: {error}") from error


def of_torchvision(weights: Any) -> Metadata:
    """What an entry of a torchvision weights enumeration says about preprocessing and classes.

    >>> from torchvision.models import ResNet18_Weights
    >>> known = of_torchvision(ResNet18_Weights.DEFAULT)
    >>> known.preprocessing.size, known.preprocessing.resize, len(known.classes)
    ((224, 224), 256, 1000)
    """
    preset = weights.transforms()
    size = tuple(preset.crop_size) * (2 if len(preset.crop_size) == 1 else 1)
    resize = preset.resize_size[0] if len(preset.resize_size) == 1 else None
    preprocessing = Preprocessing(
        size=size,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize=resize,
        interpolation=preset.interpolation.value,
    )
    return Metadata(preprocessing=preprocessing, classes=tuple(weights.meta["categories"]))


def of_timm(config: Mapping[str, Any]) -> Metadata:
    """What a model's ``pretrained_cfg`` in timm says about preprocessing and classes.

    Raises ``ImportError`` where timm is not installed.
    """
    from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config

    data = resolve_data_config({}, pretrained_cfg=dict(config))
    size = tuple(data["input_size"][1:])
    centre = data["crop_mode"] == "center"  # the others, squash and border, show the whole picture
    interpolation = data["interpolation"]
    preprocessing = Preprocessing(
        size=size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        resize=int(max(size) / data["crop_pct"]) if centre else None,
        interpolation=interpolation if interpolation in ("bilinear", "bicubic", "nearest") else "bicubic",
    )
    names = config.get("label_names")
    if subset := None if names else infer_imagenet_subset(dict(config)):
        names = ImageNetInfo(subset).label_descriptions()
    return Metadata(preprocessing=preprocessing, classes=tuple(names) if names else None)
