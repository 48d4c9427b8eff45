"""Frames and weights of the benchmark, and what is said where they are missing."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.paper import backbones
from benchmarks.paper.data import DataError, open_task


def weights(folder: Path, name: str = "resnet20-cifar10.safetensors") -> None:
    torch.manual_seed(0)
    state = backbones.resnet20().state_dict()
    save_file({key: value for key, value in state.items() if "num_batches" not in key}, folder / name)


def frames(folder: Path, names: list[str]) -> None:
    with zipfile.ZipFile(folder / "cifar10-frames.zip", "w") as archive:
        for index, name in enumerate(names):
            buffer = io.BytesIO()
            Image.new("RGB", (32, 32), (40 * index, 0, 0)).save(buffer, "JPEG", quality=95)
            archive.writestr(name, buffer.getvalue())


def test_frames_come_in_the_order_of_their_names_with_the_class_in_them(tmp_path: Path) -> None:
    weights(tmp_path)
    frames(tmp_path, ["00001-ship.jpg", "00000-airplane.jpg", "00002-truck.jpg", "00003-frog.jpg"])
    task = open_task("resnet20", tmp_path)
    assert task.labels.tolist() == [0, 8, 9, 6]
    assert task.frames.shape == (4, 3, 32, 32)
    assert task.frames[:, 0, 16, 16].tolist() == pytest.approx([40, 0, 80, 120], abs=4)
    assert len(open_task("resnet20", tmp_path, limit=2).frames) == 2


def test_without_weights_it_says_which_file_to_provide_and_how(tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(DataError, match=r"resnet20-cifar10.safetensors .* --data or LAYERCACHE_DATA"):
            open_task("resnet20", folder)
    with pytest.raises(DataError, match=r"lfw-identities\.json"):
        open_task("mobilefacenet", tmp_path)


def test_another_models_weights_are_refused(tmp_path: Path) -> None:
    weights(tmp_path, "resnet56-cifar10.safetensors")
    with pytest.raises(DataError, match=r"resnet56-cifar10\.safetensors is not resnet56's"):
        open_task("resnet56", tmp_path)


def test_without_frames_torchvisions_download_is_used_as_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)

    class Images:
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            assert download
            assert not train

        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.fromarray(pixels[index]), index

    weights(tmp_path)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Images)
    task = open_task("resnet20", tmp_path)
    assert sorted(task.labels.tolist()) == [0, 1, 2]
    for frame, label in zip(task.frames, task.labels, strict=True):
        original = torch.from_numpy(pixels[label]).permute(2, 0, 1)
        difference = (frame.float() - original.float()).abs().mean()
        assert 0 < difference < 60  # noise, compressed


def test_a_download_that_fails_says_which_file_to_provide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise OSError("no network")

    weights(tmp_path)
    monkeypatch.setattr("torchvision.datasets.CIFAR10", refuse)
    with pytest.raises(DataError, match=r"no network.*cifar10-frames.zip"):
        open_task("resnet20", tmp_path)
