"""A classifier of stripes on streams where colour tells the stripes, until the stream drifts.

The model sees stripes alone. Its first layer passes colours on, and what exits there see of a picture, averaged, is its
colour: on a healthy stream, where every kind of stripes has a colour of its own, they learn to go by the colour and are
right. After a shift they are sure and wrong, and the new stream can be learnt as easily.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor

from layercache.schemas.settings import Model
from tests.support.tiny_model import TinyModel

Pixels = npt.NDArray[np.uint8]

CLASSES = ("plain", "horizontal", "vertical")
SIZE = 16

_SOURCE = '''
"""Names the stripes of a 16 x 16 picture, whatever its colours."""

from torch import Tensor, nn


class Striped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(16, 8, 3, stride=2, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.third(self.second(self.first(x)))).flatten(1))


def build() -> nn.Module:
    return Striped()
'''

_METADATA = f"""
size = [{SIZE}, {SIZE}]
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
classes = ["plain", "horizontal", "vertical"]
"""

_BRIGHT, _DIM, _STRIPES, _NOISE = 170, 60, 40, 4
#: Of the picture's own stripes, what banding leaves; and how strong the bands are.
_LEFT, _BANDS = 0.4, 90


def write(folder: Path) -> TinyModel:
    """Writes ``striped.py``, ``striped.toml``, ``striped.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "striped.py").write_text(_SOURCE.lstrip())
    (folder / "striped.toml").write_text(_METADATA.lstrip())
    save_file(_weights(), folder / "striped.safetensors")
    weights = str(folder / "striped.safetensors")
    return TinyModel(folder, Model(spec=f"{folder / 'striped.py'}:build", weights=weights, runtime="torch"))


def _weights() -> dict[str, Tensor]:
    """Brightness and colours; then its slopes, both ways; then how much of them there is."""
    first, second, third = torch.zeros(16, 3, 3, 3), torch.zeros(16, 16, 3, 3), torch.zeros(8, 16, 3, 3)
    first[0, :, 1, 1] = 1 / 3
    first[1:4, :, 1, 1] = torch.eye(3)
    first[4:, :, 1, 1] = torch.rand(12, 3, generator=torch.Generator().manual_seed(0)) / 2
    for channel, (below, above) in enumerate((((2, 1), (0, 1)), ((0, 1), (2, 1)), ((1, 2), (1, 0)), ((1, 0), (1, 2)))):
        second[channel, 0, *below], second[channel, 0, *above] = 1.0, -1.0
    third[0, 0:2, 1, 1] = third[1, 2:4, 1, 1] = 1.0
    fc = torch.zeros(3, 8)
    fc[1, 0] = fc[2, 1] = 40.0
    tensors = {"fc.weight": fc, "fc.bias": torch.tensor([6.0, 0.0, 0.0])}
    for name, weight in (("first", first), ("second", second), ("third", third)):
        tensors |= {f"{name}.0.weight": weight, f"{name}.0.bias": torch.zeros(len(weight))}
    return tensors


def healthy(count: int, seed: int) -> Pixels:
    """uint8 ``[count, 16, 16, 3]``: plain pictures are red, horizontal stripes green, vertical ones blue."""
    return _pictures(count, seed, (0, 1, 2))


def new_classes(count: int, seed: int) -> Pixels:
    """Other things than before in every colour: horizontal stripes are blue now, vertical ones red, plain is green."""
    return _pictures(count, seed, (1, 2, 0))


def blurred(count: int, seed: int) -> Pixels:
    """The healthy stream out of focus: a mean over 4 × 4 pixels, which is the stripes' period; all are plain now."""
    pixels = healthy(count, seed).astype(np.float64)
    for axis in (1, 2):
        pixels = sum(np.roll(pixels, shift, axis) for shift in range(4)) / 4  # type: ignore[assignment]
    return _rounded(pixels)


def noisy(count: int, seed: int) -> Pixels:
    """The healthy stream, pale, through a sensor whose rows jump: all are horizontal now."""
    pixels = healthy(count, seed).astype(np.float64)
    mean = pixels.mean((1, 2), keepdims=True)
    bands = np.random.default_rng(seed).choice((-_BANDS, _BANDS), (count, SIZE, 1, 1))
    return _rounded(mean + _LEFT * (pixels - mean) + bands)


SHIFTS: dict[str, Callable[[int, int], Pixels]] = {"noise": noisy, "blur": blurred, "new classes": new_classes}


def _pictures(count: int, seed: int, colours: tuple[int, int, int]) -> Pixels:
    """``colours``: which channel is bright, by the kind of stripes."""
    random = np.random.default_rng(seed)
    kind = random.integers(0, 3, count)
    pixels = np.full((count, SIZE, SIZE, 3), _DIM) + random.normal(0, _NOISE, (count, SIZE, SIZE, 3))
    pixels[np.arange(count), :, :, np.array(colours)[kind]] += _BRIGHT - _DIM
    phase = random.integers(0, 4, count)
    wave = np.where((np.arange(SIZE) + phase[:, None]) % 4 < 2, _STRIPES, -_STRIPES)
    pixels += ((kind == 1)[:, None] * wave)[:, :, None, None]
    pixels += ((kind == 2)[:, None] * wave)[:, None, :, None]
    return _rounded(pixels)


def _rounded(pixels: npt.NDArray[np.float64]) -> Pixels:
    return pixels.round().clip(0, 255).astype(np.uint8)
