"""A classifier of a few kilobytes that names a picture's strongest colour: quick to build, its answers known."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from layercache.schemas.settings import Model

CLASSES = ("red", "green", "blue")
SIZE = 16

SOURCE = '''
"""Names the strongest colour of a 16 x 16 picture."""

from torch import Tensor, nn


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.third(self.second(self.first(x)))).flatten(1))


def build() -> nn.Module:
    return Tiny()
'''

METADATA = """
size = [16, 16]
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
classes = ["red", "green", "blue"]
"""


@dataclass(frozen=True)
class TinyModel:
    """Where the model's files are, and the settings that name them."""

    folder: Path
    settings: Model


def write(folder: Path, seed: int = 0) -> TinyModel:
    """Writes ``tiny.py``, ``tiny.toml``, ``tiny.safetensors``; another ``seed`` makes another model (fingerprint).

    PyTorch alone runs it: to compile it would take a process that starts most of its time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.py").write_text(textwrap.dedent(SOURCE).lstrip())
    (folder / "tiny.toml").write_text(METADATA.lstrip())
    save_file(_weights(seed), folder / "tiny.safetensors")
    weights = str(folder / "tiny.safetensors")
    return TinyModel(folder, Model(spec=f"{folder / 'tiny.py'}:build", weights=weights, runtime="torch"))


def _weights(seed: int) -> dict[str, Tensor]:
    """The first three channels pass the colours on; the others are noise that the last layer ignores."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name, inputs in (("first", 3), ("second", 8), ("third", 8)):
        weight = torch.randn(8, inputs, 3, 3, generator=generator) * 0.1
        weight[:3] = 0.0
        for channel in range(3):
            weight[channel, channel, 1, 1] = 1.0
        tensors[f"{name}.0.weight"] = weight
        tensors[f"{name}.0.bias"] = torch.zeros(8)
    tensors["fc.weight"] = nn.functional.pad(torch.eye(3) * 20.0, (0, 5)).contiguous()
    tensors["fc.bias"] = torch.zeros(3)
    return tensors
