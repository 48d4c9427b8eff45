"""What the pictures show is read from the zip, never from the predictions; what the model says, from the model."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from layercache.early_exit.cutting.cuts import trace
from layercache.early_exit.engine import Engine
from layercache.early_exit.model.loading import load
from layercache.measuring.labelled_frames import FramesError, LabelledFrames, full_labels, read
from layercache.schemas.settings import Worker
from layercache.stream.frames.decoding import Limits
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES, TinyModel

PATTERN = r"\d+-(?P<label>.+)\.png"


def a_zip(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name.encode())
    return path


def test_frames_come_in_the_order_of_their_names_with_their_truth(tmp_path: Path) -> None:
    path = a_zip(tmp_path / "frames.zip", "1-red.png", "0-blue.png", "2-red.png")
    frames = read(path, 2, PATTERN, ("red", "blue"))
    assert frames.names == ("0-blue.png", "1-red.png")
    assert frames.pictures == (b"0-blue.png", b"1-red.png")
    assert frames.truth.tolist() == [1, 0]
    assert frames.places() == {"0-blue.png": 0, "1-red.png": 1}


def test_more_frames_than_there_are_cannot_be_streamed(tmp_path: Path) -> None:
    path = a_zip(tmp_path / "frames.zip", "0-red.png")
    with pytest.raises(FramesError, match="holds 1 frames; the demo streams each once, so not 2"):
        read(path, 2, PATTERN, ("red",))


@pytest.mark.parametrize("name", ["0-green.png", "red.png"])
def test_a_name_without_a_known_class_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FramesError, match="names none of the model's classes"):
        read(a_zip(tmp_path / "frames.zip", name), 1, PATTERN, ("red", "blue"))


def test_the_full_models_labels_are_in_the_order_of_the_frames(tiny_model: TinyModel) -> None:
    colours = [CLASSES[index % 3] for index in range(230)]
    pictures = tuple(encode(coloured(colour, noise=index), "PNG") for index, colour in enumerate(colours))
    frames = LabelledFrames(tuple(map(str, range(230))), pictures, np.zeros(230, np.int64))
    heard: list[float] = []
    labels = full_labels(Engine(trace(load(tiny_model.settings))), frames, Limits.of(Worker()), heard.append)
    assert [CLASSES[label] for label in labels] == colours
    assert heard == [100 / 230, 200 / 230, 1.0]
