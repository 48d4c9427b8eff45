"""Makes the demo's two assets: ``fashion_mnist.safetensors`` (float16 weights) and ``fashion-mnist-frames.zip``.

Trains on the 60,000 training pictures alone; the 10,000 test pictures become the demo's stream. It takes about half an
hour on two cores::

    python -m examples.train_fashion_mnist --data /usr/share/datasets/fashion-mnist --out examples

``--data`` holds the four ``*-ubyte.gz`` files, as Debian's ``dataset-fashion-mnist`` has them; without it torchvision
downloads them.
"""

import argparse
import gzip
import io
import time
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from examples.fashion_mnist import CLASSES, build

MEAN, STD = 0.286, 0.353
Pictures = npt.NDArray[np.uint8]


def read_pictures(folder: Path, part: str) -> tuple[Pictures, Pictures]:
    """Pictures uint8 ``[N, 28, 28]`` and labels uint8 ``[N]`` of ``part``, "train" or "t10k", from the IDX files."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pictures = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return pictures, labels


def download(folder: Path) -> Path:
    from torchvision.datasets import FashionMNIST

    FashionMNIST(str(folder), download=True)
    return folder / "FashionMNIST" / "raw"


def augmented(x: Tensor, generator: torch.Generator) -> Tensor:
    """Shifts by up to two pixels, mirrors, and blanks an 8 x 8 square in half of the pictures; x ``[N, 1, 28, 28]``."""
    n = len(x)
    padded = F.pad(x, (2, 2, 2, 2), value=-MEAN / STD)
    top, left = torch.randint(0, 5, (2, n), generator=generator)
    rows = top[:, None] + torch.arange(28)
    columns = left[:, None] + torch.arange(28)
    mirror = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(mirror[:, None], columns.flip(1), columns)
    out = padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]]
    y, z = torch.randint(0, 21, (2, n), generator=generator)
    spots = torch.arange(28)
    blank = ((spots >= y[:, None]) & (spots < y[:, None] + 8))[:, :, None] & (
        (spots >= z[:, None]) & (spots < z[:, None] + 8)
    )[:, None, :]
    blank &= (torch.rand(n, generator=generator) < 0.5)[:, None, None]
    return out.masked_fill(blank, -MEAN / STD)[:, None]


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    right = sum(int((model(a).argmax(1) == b).sum()) for a, b in zip(x.split(500), y.split(500), strict=True))
    return right / len(x)


def train(x: Tensor, y: Tensor, epochs: int, batch: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build().to(memory_format=torch.channels_last)
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps, pct_start=0.2)
    began = time.monotonic()
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for step, chosen in enumerate(torch.randperm(len(x), generator=generator).split(batch)[: len(x) // batch]):
            inputs = augmented(x[chosen], generator).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = model(inputs)
            loss = F.cross_entropy(logits.float(), y[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            if step % 50 == 49:
                spent = time.monotonic() - began
                print(
                    f"epoch {epoch + 1}/{epochs} step {step + 1}: loss {total / (step + 1):.3f}, {spent:.0f} s",
                    flush=True,
                )
    return model


def save_frames(pictures: Pictures, labels: Pictures, path: Path) -> None:
    """A zip of lossless WebP pictures in a fixed random order, the class in the name: ``00017-bag.webp``."""
    order = np.random.default_rng(0).permutation(len(pictures))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for position, index in enumerate(order):
            buffer = io.BytesIO()
            Image.fromarray(pictures[index]).save(buffer, "webp", lossless=True, quality=100, method=6)
            name = f"{position:05d}-{CLASSES[labels[index]]}.webp"
            archive.writestr(zipfile.ZipInfo(name), buffer.getvalue())


def _shipped(value: Tensor) -> Tensor:
    """As it goes into the file: float16, half the size at no loss of accuracy, laid out as safetensors wants it."""
    return (value.half() if value.is_floating_point() else value).contiguous()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the four *-ubyte.gz files; downloaded where absent")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.data or download(Path("data"))
    pictures, labels = read_pictures(folder, "train")
    x, y = (torch.from_numpy(pictures.copy()).float().div(255) - MEAN) / STD, torch.from_numpy(labels.copy()).long()
    model = train(x[:, None], y, options.epochs, options.batch, options.seed)
    weights = {name: _shipped(value) for name, value in model.state_dict().items()}
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(weights, options.out / "fashion_mnist.safetensors")
    pictures, labels = read_pictures(folder, "t10k")
    save_frames(pictures, labels, options.out / "fashion-mnist-frames.zip")
    shipped = build()
    shipped.load_state_dict(weights)
    test = (torch.from_numpy(pictures.copy()).float().div(255) - MEAN) / STD
    print(f"test accuracy {accuracy(shipped, test[:, None], torch.from_numpy(labels.copy()).long()):.4f}")


if __name__ == "__main__":
    main()
