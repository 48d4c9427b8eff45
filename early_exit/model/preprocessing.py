"""From a decoded picture to what a model takes: resize, crop, normalise."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

GREY, RGB = 1, 3


@dataclass(frozen=True)
class Preprocessing:
    """How a model's pictures were prepared in training. ``size`` is (height, width).

    ``resize`` is the length that the shorter side gets before the centre crop to ``size``; None resizes straight to
    ``size``. ``mean`` and ``std`` refer to values in [0, 1]: one of each for a grey model, three for RGB.
    Raises ``ValueError`` for values that make no sense.

    >>> preprocessing = Preprocessing(size=(224, 224), mean=(0.5,) * 3, std=(0.25,) * 3, resize=256)
    >>> frame = preprocessing.fit(torch.zeros(1, 480, 640, dtype=torch.uint8))
    >>> frame.shape, preprocessing.normalise(frame[None])[0, :, 0, 0]
    (torch.Size([3, 224, 224]), tensor([-2., -2., -2.]))
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size must be a height and a width of at least 1, not {self.size}")
        if len(self.mean) not in (GREY, RGB) or len(self.std) != len(self.mean):
            raise ValueError(
                f"mean and std need one value each (grey) or three each (RGB), not {len(self.mean)} and {len(self.std)}"
            )
        if not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"mean must be finite and std above 0, not {self.mean} and {self.std}")
        if self.resize is not None and self.resize < max(self.size):
            raise ValueError(f"resize ({self.resize}) must not be below size ({self.size}): the crop would be padded")
        if self.interpolation not in ("bilinear", "bicubic", "nearest"):
            raise ValueError(f"interpolation must be bilinear, bicubic or nearest, not {self.interpolation!r}")

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return len(self.mean)

    def fit(self, image: Tensor) -> Tensor:
        """A picture, uint8 ``[C, H, W]`` of any size, as uint8 ``[channels, height, width]``.

        A picture that already has that shape is returned as it is. For an RGB model grey is repeated, for a
        grey one RGB is weighted (ITU-R 601); transparency is dropped. Raises ``ValueError`` for anything but
        uint8 of 1 to 4 channels.
        """
        if image.dtype is not torch.uint8 or image.ndim != 3 or not 1 <= image.shape[0] <= 4 or 0 in image.shape:
            raise ValueError(f"a picture must be uint8 [1 to 4, H, W], not {image.dtype} {tuple(image.shape)}")
        image = self._colours(image)
        if tuple(image.shape[1:]) == self.size:
            return image
        mode = InterpolationMode(self.interpolation)
        if self.resize is None:
            fitted: Tensor = F.resize(image, list(self.size), mode, antialias=True)
        else:
            fitted = F.center_crop(F.resize(image, [self.resize], mode, antialias=True), list(self.size))
            # The crop is a view: without a copy it would keep the whole resized picture in memory.
            fitted = fitted.clone(memory_format=torch.contiguous_format)
        return fitted

    def _colours(self, image: Tensor) -> Tensor:
        if image.shape[0] in (2, 4):
            image = image[:-1]
        if image.shape[0] == self.channels:
            return image
        coloured: Tensor = image.expand(RGB, -1, -1) if self.channels == RGB else F.rgb_to_grayscale(image)
        return coloured

    def normalise(self, frames: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Frames, uint8 ``[N, channels, height, width]``, as the model takes them: ``(frames / 255 - mean) / std``.

        Computed in float32 on the frames' device, then cast to ``dtype``.
        """
        scale, shift = _factors(self.mean, self.std, frames.device)
        return torch.addcmul(shift, frames.to(torch.float32), scale).to(dtype)


class Normaliser(nn.Module):
    """:meth:`Preprocessing.normalise`, to float32, as a module for exporters.

    Its factors are its own: while a model is exported tensors are stand-ins, which must not get into the cache of those
    that :meth:`Preprocessing.normalise` uses.

    >>> preprocessing, frames = traced.classifier.preprocessing, torch.full((1, 1, 28, 28), 7, dtype=torch.uint8)
    >>> torch.equal(Normaliser(preprocessing)(frames), preprocessing.normalise(frames))
    True
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        scale, shift = _factors(preprocessing.mean, preprocessing.std, torch.device("cpu"))
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, frames: Tensor) -> Tensor:
        return torch.addcmul(self.shift, frames.to(torch.float32), self.scale)


@lru_cache(maxsize=16)
def _factors(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalising as one multiplication and one addition, float32 ``[1, C, 1, 1]`` each."""
    with torch.inference_mode(False):  # the result is cached, and callers outside of inference mode use it too
        means, stds = (torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (mean, std))
        return (1 / (255 * stds)).to(device, torch.float32), (-means / stds).to(device, torch.float32)
