"""Frames with a picture and frames that refer to one arrive in the order that they came in, each with its picture."""

import gc
import io
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from layercache.early_exit.machine import MachineFailed
from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.schemas.dead_letter import Reason
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import References, Settings, Worker
from layercache.stream.frames.decoding import DecodeError
from layercache.stream.frames.frame import Frame
from layercache.stream.references.fetching import Fetcher
from layercache.stream.references.fetching_pool import FetchingPool, fetching_pool
from layercache.stream.references.prefixes import Location, Refused
from layercache.stream.references.reading import read_bounded
from testbed.waiting import wait_until
from tests.support.pictures import COLOURS, coloured, encode

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


MOST = 1_000
HELD: list[weakref.ref[object]] = []


class Part(bytearray):
    """Bytes of a picture, as far as they are still held."""


class Store:
    """Reads pictures that become too large, change their size, break off or must not be followed, by their names."""

    def read(self, location: Location, max_bytes: int) -> bytes:
        how = location.path.rpartition("/")[2]
        if how == "refused":
            raise Refused("it is a pipe")
        return read_bounded(BrokenOff(how), MOST if how == "changed" else None, max_bytes)


class BrokenOff(io.BytesIO):
    """A file of which two parts can be read; ``error`` lies in a call of its own traceback, as fsspec has it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.parts = how, 0
        HELD.append(weakref.ref(self))

    def read(self, length: int | None = -1, /) -> bytes:
        self.parts += 1
        if self.parts == 2 and self.how == "broken":
            error = ConnectionResetError("half of it")
            raise error
        part = Part({"large": MOST, "changed": MOST // 3, "broken": MOST // 2}.get(self.how, 0) * (self.parts < 3))
        HELD.append(weakref.ref(part))
        return part  # type: ignore[return-value]  # weak references to bytes there are none


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("large", Reason.TOO_MANY_BYTES), ("changed", Reason.REFERENCE_FAILED), ("broken", Reason.REFERENCE_FAILED),
        ("refused", Reason.REFERENCE_REFUSED), ("undecodable", Reason.EMPTY),
    ],
)  # fmt: skip
def test_nothing_stays_of_frames_that_fail(how: str, expected: Reason) -> None:
    """Not even until Python's collector comes by, which a worker has seldom do so."""

    def decode(frame: Frame) -> Tensor:
        raise DecodeError(Reason.EMPTY, "the frame has no bytes")

    HELD.clear()
    fetcher = Fetcher(
        References(prefixes={"memory://store/": {}}, attempts=2), MOST, places={"memory://store/": Store()}
    )
    pool = FetchingPool(1, decode, fetcher, 10_000)
    gc.disable()
    try:
        (arrived,) = pool.submit([frame(None, None, f"memory://store/{how}")])
        decoded = arrived.decoded()
        HELD.append(weakref.ref(arrived.chunk))
        del arrived
        assert reason(decoded.picture) is expected
        del decoded
        wait_until(lambda: all(held() is None for held in HELD), "nothing of the frame is held")
    finally:
        gc.enable()
        pool.close()


def test_frames_that_were_dropped_are_not_fetched(tmp_path: Path) -> None:
    """After a rebalance others are read, and do not wait behind them."""
    asked: list[str] = []

    class Waiting:
        def read(self, location: Location, max_bytes: int) -> bytes:
            asked.append(location.path)
            wait_until(lambda: bool(dropped), "the frames are dropped")
            return b"picture"

    dropped: list[bool] = []
    fetcher = Fetcher(References(prefixes={"memory://store/": {}}, parallel=1), MOST, {"memory://store/": Waiting()})
    pool = FetchingPool(1, lambda _: torch.zeros(1), fetcher, 10_000)
    first = pool.submit([frame(None, None, f"memory://store/{name}") for name in "abc"])
    wait_until(lambda: len(asked) == 1, "the first is being fetched")
    del first
    again = pool.submit([frame(None, None, f"memory://store/{name}") for name in "de"])
    dropped.append(True)
    assert all(isinstance(one.decoded().picture, Tensor) for one in again)
    assert [path.rpartition("/")[2] for path in asked] == ["a", "d", "e"]
    pool.close()


def test_where_there_is_no_memory_for_a_picture_its_frame_is_not_blamed(
    refer: Callable[..., Frame], tmp_path: Path
) -> None:
    def decode(frame: Frame) -> Tensor:
        raise MachineFailed("no memory")

    pool = FetchingPool(1, decode, Fetcher(References(prefixes={f"file://{tmp_path}/": {}}), MOST), 10_000)
    try:
        (arrived,) = pool.submit([refer("red", b"red")])
        with pytest.raises(MachineFailed, match="no memory"):
            arrived.chunk.result(20)
    finally:
        pool.close()
