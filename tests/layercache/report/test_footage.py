"""Reading the user's frames: their order, what they show, what cannot be used, and which are copies."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from layercache.early_exit.model import loading
from layercache.report.footage import Batch, Footage, FrameOptions
from layercache.schemas.settings import Settings
from layercache.stream.publishing.sources import SourceError
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import CLASSES, TinyModel

Read = Callable[..., Footage]


@pytest.fixture
def read(tiny_model: TinyModel) -> Read:
    settings = Settings(model=tiny_model.settings)
    classifier = loading.load(settings.model)
    return lambda path, **options: Footage(FrameOptions(str(path), **options), settings, classifier)


def write(folder: Path, *names: str) -> Path:
    """Pictures, each of the colour that its name begins with, or red; no two are the same."""
    for number, name in enumerate(names):
        colour = next((one for one in CLASSES if one in name), "red")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(coloured(colour, noise=number), "PNG"))
    return folder


def joined(batches: list[Batch], name: str) -> list[int]:
    return [int(value) for batch in batches for value in getattr(batch, name)]


def names(batches: list[Batch]) -> list[str]:
    return [frame.id for batch in batches for frame in batch.frames]


def test_pictures_come_in_batches_in_the_order_of_their_names(read: Read, tmp_path: Path) -> None:
    footage = read(write(tmp_path, *(f"{number:02d}.png" for number in range(9))))
    batches = list(footage.batches(4))
    assert footage.count() == 9
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert names(batches) == [f"{number:02d}.png" for number in range(9)]
    assert batches[0].pictures.shape == (4, 3, 16, 16)
    assert joined(batches, "truth") == [-1] * 9
    assert [frame.offset for batch in batches for frame in batch.frames] == list(range(9))


def test_folders_that_are_named_like_classes_say_what_frames_show_and_are_shuffled(read: Read, tmp_path: Path) -> None:
    write(tmp_path, *(f"{colour}/{number}.png" for colour in ("Red", "blue") for number in range(10)))
    footage = read(tmp_path, seed=1)
    batches = list(footage.batches(4))
    assert footage.class_folders and footage.shuffled
    truth = joined(batches, "truth")
    assert sorted(truth) == [0] * 10 + [2] * 10
    assert truth != sorted(truth)
    assert all(name.startswith("Red") == (label == 0) for name, label in zip(names(batches), truth, strict=True))
    assert names(list(read(tmp_path, seed=1).batches(4))) == names(batches)
    assert names(list(read(tmp_path, seed=2).batches(4))) != names(batches)
    assert names(list(read(tmp_path, shuffle=False).batches(4))) == sorted(names(batches))


def test_other_folders_are_no_classes(read: Read, tmp_path: Path) -> None:
    footage = read(write(tmp_path, "monday/0.png", "red/1.png"))
    assert not footage.class_folders and not footage.shuffled
    assert joined(list(footage.batches(4)), "truth") == [-1, -1]


def test_a_pattern_finds_the_class_in_names(read: Read, tmp_path: Path) -> None:
    footage = read(write(tmp_path, "0-green.png", "1-pink.png", "2.png"), label_pattern=re.compile(r"-(\w+)\.png$"))
    assert joined(list(footage.batches(4)), "truth") == [1, -1, -1]
    assert not footage.shuffled


def test_what_cannot_be_used_is_left_out_and_told(read: Read, tmp_path: Path) -> None:
    write(tmp_path, *(f"{number}.png" for number in range(6)))
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "4.png").write_bytes(b"")
    footage = read(tmp_path)
    assert names(list(footage.batches(4))) == ["0.png", "2.png", "3.png", "5.png"]
    assert footage.skipped == 2
    assert [note.partition(":")[0] for note in footage.notes] == ["1.png", "4.png"]


def test_copies_have_the_same_content_and_near_copies_are_told(read: Read, tmp_path: Path) -> None:
    write(tmp_path, "0.png", "1.png", "3-blue.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "0.png").read_bytes())
    (batch,) = read(tmp_path).batches(4)
    assert batch.content[0] == batch.content[2]
    assert len(np.unique(batch.content)) == 3
    assert batch.near.tolist() == [False, True, True, False]


def test_one_cameras_pictures_have_a_key_and_times(read: Read, tmp_path: Path) -> None:
    footage = read(write(tmp_path, "0.png", "1.png", "2.png"), fps=0.5)
    (batch,) = footage.batches(4)
    assert [frame.timestamp_ms for frame in batch.frames] == [0, 2000, 4000]
    assert {frame.key for frame in batch.frames} == {b"camera"}
    (batch,) = read(tmp_path).batches(4)
    assert {frame.key for frame in batch.frames} == {None}


def test_no_more_are_read_than_asked_for(read: Read, tmp_path: Path) -> None:
    footage = read(write(tmp_path, *(f"{number}.png" for number in range(6))), limit=3)
    assert (footage.count(), footage.available) == (3, 6)
    assert names(list(footage.batches(4))) == ["0.png", "1.png", "2.png"]


def test_a_webcam_never_ends(read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercache.stream.publishing.sources.os.path.exists", lambda path: True)
    with pytest.raises(SourceError, match="webcam never ends: record a clip"):
        read("webcam")
