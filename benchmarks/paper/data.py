"""The paper's two tasks: frames from ``--data`` (else torchvision's download), pretrained models, and the halves."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.paper import backbones
from layercache.early_exit.cutting import cuts
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.model.fingerprint import fingerprint
from layercache.early_exit.model.loading import Classifier
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.schemas.settings import Worker
from layercache.stream.frames.decoding import Limits, decode_frame

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
#: How many CIFAR-10 test images the stream has, and how they are compressed.
_CIFAR_FRAMES, _JPEG_QUALITY = 8000, 75

Rows = npt.NDArray[np.int64]


class DataError(ValueError):
    """A benchmark's data cannot be had; the message says what to provide."""


@dataclass(frozen=True)
class Backbone:
    """A pretrained model of a task: who builds it, which file holds its weights, what its pictures go through."""

    task: str
    build: Callable[[], nn.Module]
    weights: str
    preprocessing: Preprocessing


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BACKBONES = {
    "resnet18": Backbone(
        "cifar10",
        backbones.resnet18,
        "resnet18-cifar10.safetensors",
        Preprocessing((32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ),
    "resnet56": Backbone(
        "cifar10", backbones.resnet56, "resnet56-cifar10.safetensors", Preprocessing((32, 32), *_IMAGENET)
    ),
    "resnet20": Backbone(
        "cifar10", backbones.resnet20, "resnet20-cifar10.safetensors", Preprocessing((32, 32), *_IMAGENET)
    ),
    "mobilefacenet": Backbone(
        "lfw",
        backbones.mobilefacenet,
        "mobilefacenet-lfw62.safetensors",
        Preprocessing((112, 96), (0.5, 0.5, 0.5), (128 / 255, 128 / 255, 128 / 255)),
    ),
}


@dataclass(frozen=True)
class Task:
    """A backbone and its stream. ``frames`` uint8 ``[N, 3, h, w]``; ``labels`` ``[N]``, for accuracy only."""

    name: str
    backbone: str
    traced: TracedModel
    frames: Tensor
    labels: Rows

    def learning(self, seed: int) -> Rows:
        """The rows of the half that heads may learn from, in the order in which they arrive; without labels."""
        return self._shuffled(seed)[: len(self.frames) // 2]

    def evaluation(self, seed: int) -> Rows:
        """The rows of the other half, where every number comes from."""
        return self._shuffled(seed)[len(self.frames) // 2 :]

    def _shuffled(self, seed: int) -> Rows:
        return np.random.default_rng(seed).permutation(len(self.frames)).astype(np.int64)


@dataclass(frozen=True)
class Budget:
    """What a method may use: the first ``frames`` of the learning half (None: all); ``quick`` for a quick look."""

    frames: int | None = None
    quick: bool = False


def open_task(backbone: str, data: Path | None, limit: int | None = None) -> Task:
    """Reads weights and frames, the first ``limit`` where one is given. Raises :class:`DataError`."""
    known = BACKBONES[backbone]
    classes = CIFAR10 if known.task == "cifar10" else _identities(data)
    traced = cuts.trace(_classifier(backbone, classes, data))
    pictures = []
    labels = []
    for picture, label in _pictures(known.task, classes, data):
        pictures.append(decode_frame(picture, None, known.preprocessing, Limits.of(Worker())))
        labels.append(label)
    return Task(known.task, backbone, traced, torch.stack(pictures[:limit]), np.array(labels[:limit], np.int64))


def _classifier(name: str, classes: tuple[str, ...], data: Path | None) -> Classifier:
    known = BACKBONES[name]
    module = known.build()
    weights = safetensors.torch.load_file(_file(data, known.weights, f"{name}'s pretrained weights"))
    missing, unexpected = module.load_state_dict(weights, strict=False)
    # files may leave out how many batches a norm has seen, which only training needs
    wrong = [key for key in missing if not key.endswith("num_batches_tracked")] + unexpected
    if wrong:
        raise DataError(f"{known.weights} is not {name}'s: {', '.join(wrong[:3])}")
    module = module.float().eval().requires_grad_(False)
    identity = fingerprint(module, known.preprocessing)
    return Classifier(module, known.preprocessing, classes, name, identity, torch.device("cpu"), torch.float32)


def _file(data: Path | None, name: str, what: str) -> Path:
    path = data / name if data else None
    if path is None or not path.is_file():
        raise DataError(f"{what}: put {name} into a folder and name that folder with --data or LAYERCACHE_DATA")
    return path


def _identities(data: Path | None) -> tuple[str, ...]:
    return tuple(json.loads(_file(data, "lfw-identities.json", "the people that MobileFaceNet knows").read_text()))


def _pictures(task: str, classes: tuple[str, ...], data: Path | None) -> Iterator[tuple[bytes, int]]:
    """Encoded pictures and their labels, from the zip where there is one."""
    archive = data / f"{task}-frames.zip" if data else None
    if archive is None or not archive.is_file():
        print(f"no {task}-frames.zip in --data: falling back on torchvision's download", flush=True)
        yield from _downloaded_cifar10() if task == "cifar10" else _downloaded_lfw(classes)
        return
    with zipfile.ZipFile(archive) as frames:
        for name in sorted(frames.namelist()):
            yield frames.read(name), classes.index(Path(name).stem.partition("-")[2])


def _downloaded_cifar10() -> Iterator[tuple[bytes, int]]:
    from torchvision.datasets import CIFAR10 as Images

    try:
        images = Images(_cache(), train=False, download=True)
    except Exception as error:  # a download may fail in many ways
        raise DataError(f"CIFAR-10 cannot be downloaded ({error}): put cifar10-frames.zip into --data") from error
    for index in np.random.default_rng(0).permutation(len(images))[:_CIFAR_FRAMES]:
        image, label = images[int(index)]
        yield _jpeg(image), label


def _downloaded_lfw(classes: tuple[str, ...]) -> Iterator[tuple[bytes, int]]:
    """Faces of the known people cut from the middle of LFW's funnelled pictures: not the aligned crops of the zip."""
    from torchvision.datasets import LFWPeople

    try:
        people = LFWPeople(_cache(), split="10fold", image_set="deepfunneled", download=True)
    except Exception as error:  # a download may fail in many ways
        raise DataError(f"LFW cannot be downloaded ({error}): put lfw-frames.zip into --data") from error
    print("LFW's faces are cropped here by position alone: expect a lower accuracy than on aligned faces", flush=True)
    names = {index: name for name, index in people.class_to_idx.items()}
    for image, index in people:
        if names[index] in classes:
            yield _jpeg(image.crop((68, 60, 182, 193)).resize((96, 112))), classes.index(names[index])


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _cache() -> Path:
    return Path.home() / ".cache" / "layercache"
