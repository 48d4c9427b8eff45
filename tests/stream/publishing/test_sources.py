"""Sources give their pictures in order, under names of their own, and name what they cannot give."""

import os
import struct
import sys
import zipfile
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import decode_jpeg

from layercache.stream.publishing.sources import (
    Folder,
    Picture,
    PictureSource,
    Skipped,
    SourceError,
    Video,
    Zip,
    open_source,
    rfc3339,
)

MANY = 1_000_000


def pictures(source: PictureSource) -> list[Picture]:
    return [item for item in source.pictures() if isinstance(item, Picture)]


def skipped(source: PictureSource) -> list[Skipped]:
    return [item for item in source.pictures() if isinstance(item, Skipped)]


def fill(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


NAMES = ["b.jpg", "a.PNG", "deep/er/c.webp", "deep/d.jpeg", "e.npy"]
SORTED = ["a.PNG", "b.jpg", "deep/d.jpeg", "deep/er/c.webp", "e.npy"]
OTHERS = ["notes.txt", "movie.gif", ".hidden.jpg", ".cache/f.jpg", "__MACOSX/g.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos", NAMES + OTHERS)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in NAMES + OTHERS:
            archive.writestr(name, name.encode())
    return path


@pytest.mark.parametrize("made", ["folder", "archive"])
def test_pictures_of_folders_and_zips_come_sorted_with_their_bytes(made: str, request: pytest.FixtureRequest) -> None:
    source = open_source(str(request.getfixturevalue(made)), MANY)
    found = pictures(source)
    assert [picture.name for picture in found] == SORTED
    assert [picture.value for picture in found] == [name.encode() for name in SORTED]
    assert [picture.content_type for picture in found] == [
        "image/png",
        "image/jpeg",
        "image/jpeg",
        "image/webp",
        "application/x-npy",
    ]
    assert {picture.time for picture in found} == {None}
    assert (source.total, source.key, source.live) == (5, None, False)


@pytest.mark.parametrize("made", ["folder", "archive"])
def test_a_source_can_be_read_again(made: str, request: pytest.FixtureRequest) -> None:
    source = open_source(str(request.getfixturevalue(made)), MANY)
    assert pictures(source) == pictures(source)


@pytest.mark.parametrize("made", ["folder", "archive"])
def test_a_picture_over_the_limit_is_named_with_its_size(made: str, request: pytest.FixtureRequest) -> None:
    source = open_source(str(request.getfixturevalue(made)), len("deep/d.jpeg"))
    assert skipped(source) == [Skipped("deep/er/c.webp", "14 bytes, over the 11 of topics.max_record_bytes")]
    assert len(pictures(source)) == 4


def test_kinds_of_sources(folder: Path, archive: Path) -> None:
    assert isinstance(open_source(str(folder), MANY), Folder)
    assert isinstance(open_source(str(archive), MANY), Zip)


def test_a_single_picture_is_a_source(folder: Path) -> None:
    (picture,) = pictures(open_source(str(folder / "deep" / "d.jpeg"), MANY))
    assert picture == Picture("d.jpeg", b"deep/d.jpeg", "image/jpeg")


def test_a_picture_that_is_gone_is_skipped(folder: Path) -> None:
    source = open_source(str(folder), MANY)
    (folder / "b.jpg").unlink()
    assert skipped(source) == [Skipped("b.jpg", "cannot be read: No such file or directory")]
    assert len(pictures(source)) == 4


def test_a_damaged_entry_of_a_zip_is_skipped(archive: Path) -> None:
    damaged = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        entry = opened.getinfo("b.jpg")
    start = entry.header_offset + 30 + len("b.jpg")
    damaged[start : start + entry.compress_size] = b"\xff" * entry.compress_size
    archive.write_bytes(damaged)
    source = open_source(str(archive), MANY)
    assert [(item.name, item.why.split(":")[0]) for item in skipped(source)] == [("b.jpg", "cannot be read")]
    assert len(pictures(source)) == 4


def test_an_encrypted_entry_of_a_zip_is_skipped(archive: Path) -> None:
    marked = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as opened:
        directory = opened.start_dir
    for signature, flags, start in ((b"PK\x03\x04", 6, 0), (b"PK\x01\x02", 8, directory)):
        marked[marked.index(signature, start) + flags] |= 1
    archive.write_bytes(marked)
    (item,) = skipped(open_source(str(archive), MANY))
    assert "password" in item.why


def test_a_broken_zip_says_so(archive: Path) -> None:
    data = archive.read_bytes()
    archive.write_bytes(data[len(data) // 2 :])
    with pytest.raises(SourceError, match=r"photos\.zip"):
        open_source(str(archive), MANY)


def test_a_file_name_that_is_no_utf8_can_travel(tmp_path: Path) -> None:
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone; run the tests on one that takes any bytes, as ext4 does")
    (picture,) = pictures(open_source(str(tmp_path), MANY))
    assert picture.name.encode().decode() == "caf\ufffd.png"


def test_the_uri_is_quoted(tmp_path: Path) -> None:
    fill(tmp_path / "my photos #1", ["a.png"])
    assert open_source(str(tmp_path / "my photos #1"), MANY).uri.endswith("/my%20photos%20%231")


def test_links_to_folders_are_not_followed(folder: Path) -> None:
    (folder / "round").symlink_to(folder)
    assert open_source(str(folder), MANY).total == 5


@pytest.mark.parametrize(("name", "message"), [("absent", "no such file"), ("empty", "holds no pictures")])
def test_a_folder_with_nothing_to_publish_says_so(tmp_path: Path, name: str, message: str) -> None:
    fill(tmp_path / "empty", OTHERS)
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / name), MANY)


def test_a_zip_without_pictures_says_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("notes.txt", "x")
    with pytest.raises(SourceError, match="holds no pictures"):
        open_source(str(tmp_path / "a.zip"), MANY)


@pytest.mark.parametrize("content", [b"", b"plain text, no video at all"])
def test_another_file_says_what_could_be_given(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.xyz").write_bytes(content)
    with pytest.raises(SourceError, match=r"neither pictures .* nor a zip of them, nor a video"):
        open_source(str(tmp_path / "file.xyz"), MANY)


def test_a_webcam_that_is_not_there_names_the_device() -> None:
    with pytest.raises(SourceError, match=r"webcam:87: there is no /dev/video87"):
        open_source("webcam:87", MANY)


def test_without_pyav_a_video_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "street.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(SourceError, match=r"pip install 'layercache\[video\]'"):
        open_source(str(tmp_path / "street.mp4"), MANY)


def test_times_are_rfc_3339_in_utc() -> None:
    time = datetime(2026, 11, 24, 10, 0, 0, 123_456, timezone(timedelta(hours=1)))
    assert rfc3339(time) == "2026-11-24T09:00:00.123Z"


FRAMES, RATE = 12, 25


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of 64 x 32 at 25 a second, red on the left and ever lighter blue on the right."""
    av = pytest.importorskip("av", reason="no PyAV; install the extra `video`")
    path: Path = tmp_path_factory.mktemp("video") / "street.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.time_base = Fraction(1, RATE)
        for number in range(FRAMES):
            pixels = np.zeros((32, 64, 3), np.uint8)
            pixels[:, :32, 0] = 255
            pixels[:, 32:, 2] = number * 20
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def decoded(picture: Picture) -> torch.Tensor:
    pixels: torch.Tensor = decode_jpeg(torch.frombuffer(bytearray(picture.value), dtype=torch.uint8))
    return pixels.float()


def test_a_video_gives_its_frames_as_jpegs(video: Path) -> None:
    source = open_source(str(video), MANY)
    assert isinstance(source, Video)
    assert (source.total, source.key, source.live) == (FRAMES, "street", False)
    found = pictures(source)
    assert [picture.name for picture in found] == [f"street#{number}" for number in range(FRAMES)]
    assert {picture.content_type for picture in found} == {"image/jpeg"}
    for number, picture in enumerate(found):
        pixels = decoded(picture)
        assert pixels.shape == (3, 32, 64)
        assert pixels[0, :, 4:28].mean() == pytest.approx(255, abs=12)
        assert pixels[2, :, 36:60].mean() == pytest.approx(number * 20, abs=12)


def test_a_video_plays_from_when_publishing_begins(video: Path) -> None:
    before = datetime.now(UTC)
    times = [picture.time for picture in pictures(open_source(str(video), MANY))]
    steps = {(later - earlier).total_seconds() for earlier, later in pairwise(t for t in times if t)}
    assert steps == {1 / RATE}
    assert times[0] is not None
    assert before <= times[0] <= datetime.now(UTC)


def test_a_video_is_turned_the_way_it_is_shown(video: Path, tmp_path: Path) -> None:
    """As a phone held upright writes it: turned a quarter clockwise, red on the left comes to the top."""
    upright = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    turned = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    data = video.read_bytes()
    start = data.index(upright, data.index(b"tkhd"))
    (tmp_path / "turned.mp4").write_bytes(data[:start] + turned + data[start + len(turned) :])
    pixels = decoded(pictures(open_source(str(tmp_path / "turned.mp4"), MANY))[0])
    assert pixels.shape == (3, 64, 32)
    assert pixels[0, 4:28].mean() > 240
    assert pixels[0, 36:60].mean() < 15


def test_a_video_that_was_cut_short_says_so(video: Path, tmp_path: Path) -> None:
    data = video.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match=r"cut\.mp4"):
        pictures(open_source(str(tmp_path / "cut.mp4"), MANY))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="no PyAV; install the extra `video`")
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8_000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        silence.sample_rate = 8_000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(SourceError, match="holds no video"):
        open_source(str(path), MANY)
