"""A model at which some pictures are poison: black ones make logits that are not numbers, white ones make it raise."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import zeros

from layercache.schemas.settings import Model
from tests.support import tiny_model

#: Divides by the brightest value, and looks up the darkest one in a table of one row: both as real models do.
SOURCE = '''
"""Names the strongest colour of a 16 x 16 picture; fails at a black one and at a white one."""

from torch import Tensor, nn


class Touchy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1, 3)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        brightest, darkest = x.amax((1, 2, 3), keepdim=True), x.amin((1, 2, 3))
        x = x / brightest + self.table(darkest.long())[:, :, None, None]
        return self.fc(self.pool(self.third(self.second(self.first(x)))).flatten(1))


def build() -> nn.Module:
    return Touchy()
'''


def write(folder: Path) -> Model:
    """Writes the model's files; its answers to other pictures are those of :mod:`tests.support.tiny_model`."""
    tiny = tiny_model.write(folder)
    weights = load_file(folder / "tiny.safetensors")
    (folder / "touchy.py").write_text(SOURCE.lstrip())
    (folder / "touchy.toml").write_text((tiny.folder / "tiny.toml").read_text())
    save_file({**weights, "table.weight": zeros(1, 3)}, folder / "touchy.safetensors")
    return Model(spec=f"{folder / 'touchy.py'}:build", weights=str(folder / "touchy.safetensors"), runtime="torch")
