"""Frames with a picture and frames that refer to one arrive in the order that they came in, each with its picture."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from early_exit.preprocessing import Preprocessing
from schemas.dead_letter import Reason
from schemas.frame import FrameHeaders
from schemas.settings import References, Settings, Worker
from stream.decode import DecodeError
from stream.fetching_pool import FetchingPool, fetching_pool
from stream.frames import Frame
from tests.support.pictures import COLOURS, coloured, encode
from tests.support.waiting import wait_until

RGB = Preprocessing(size=(16, 16), mean=(0.0,) * 3, std=(1.0,) * 3)
SEEN: list[float] = []


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[FetchingPool]:
    """References may lead into ``tmp_path``."""
    SEEN.clear()
    settings = Settings(
        references=References(prefixes={f"file://{tmp_path}/": {}}, attempts=1), worker=Worker(max_frame_bytes=10_000)
    )
    made = fetching_pool(settings, RGB, SEEN.append)
    yield made
    made.close()


@pytest.fixture
def refer(tmp_path: Path) -> Callable[..., Frame]:
    """A frame that refers to a file of ``tmp_path`` with these bytes, none where they are None."""

    def make(name: str, data: bytes | None, value: bytes | None = None, content_type: str | None = None) -> Frame:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        return frame(value, content_type, f"file://{tmp_path}/{name}")

    return make


def frame(value: bytes | None, content_type: str | None = None, reference: str | None = None) -> Frame:
    return Frame(
        "frames", 0, 0, 0, None, value, FrameHeaders(content_type=content_type, ce_dataref=reference).as_kafka()
    )


def colour(picture: Tensor | DecodeError) -> str:
    assert isinstance(picture, Tensor)
    assert picture.dtype is torch.uint8
    means = picture.float().mean((1, 2))
    return min(COLOURS, key=lambda name: float((means - torch.tensor(COLOURS[name])).abs().sum()))


def reason(picture: Tensor | DecodeError) -> Reason:
    assert isinstance(picture, DecodeError)
    return picture.reason


def test_order_is_kept_and_every_frame_gets_its_own_picture(pool: FetchingPool, refer: Callable[..., Frame]) -> None:
    names = [tuple(COLOURS)[number % 3] for number in range(40)]
    pictures = [encode(coloured(name, noise=number), "PNG") for number, name in enumerate(names)]
    frames = [refer(f"{number}.png", data) if number % 3 else frame(data) for number, data in enumerate(pictures)]
    arrived = pool.submit(frames)
    assert [one.frame for one in arrived] == frames
    decoded = [one.decoded() for one in arrived]
    assert [colour(one.picture) for one in decoded] == names
    assert all(one.decode_ms > 0 for one in decoded)
    wait_until(lambda: len(SEEN) == 26, "the time of every fetch")


def test_a_picture_that_is_there_is_not_fetched(pool: FetchingPool, refer: Callable[..., Frame]) -> None:
    both = refer("blue.png", encode(coloured("blue"), "PNG"), value=encode(coloured("red"), "PNG"))
    (arrived,) = pool.submit([both])
    assert colour(arrived.decoded().picture) == "red"
    assert SEEN == []


def test_what_is_fetched_is_checked_like_any_frame(pool: FetchingPool, refer: Callable[..., Frame]) -> None:
    png = encode(coloured("red"), "PNG")
    frames = [
        refer("a", png, content_type="image/jpeg"), refer("b", b"hello"), refer("c", b""), refer("d", bytes(10_001)),
        refer("absent", None), frame(b"", None, "file:///etc/passwd"), frame(None, None, ""), frame(None),
    ]  # fmt: skip
    assert [reason(one.decoded().picture) for one in pool.submit(frames)] == [
        Reason.WRONG_CONTENT_TYPE, Reason.UNKNOWN_FORMAT, Reason.EMPTY, Reason.TOO_MANY_BYTES, Reason.REFERENCE_FAILED,
        Reason.REFERENCE_REFUSED, Reason.EMPTY, Reason.EMPTY,
    ]  # fmt: skip
