"""Records become frames, and a pool of threads decodes them, whatever size its tasks are."""

import gc
import threading
import weakref

import pytest
import torch
from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, Message
from torch import Tensor

from layercache.schemas.dead_letter import Reason
from layercache.stream.frames.decode_pool import DecodePool, PendingFrame, all_decoded
from layercache.stream.frames.decoding import DecodeError
from layercache.stream.frames.frame import Frame, frames_of
from tests.stream.builders import frame

HOUR_S = 3_600.0


def nothing_to_do() -> float:
    return HOUR_S


def test_frames_of_records() -> None:
    headers: list[tuple[str, bytes | None]] = [("ce_id", b"seven"), ("label", None)]
    full = Message("frames", 2, 7, b"camera", b"bytes", [*headers], timestamp=(TIMESTAMP_CREATE_TIME, 123))
    bare = Message("frames", 0, 8, None, None, None, timestamp=(TIMESTAMP_NOT_AVAILABLE, -1))
    first, second = frames_of("frames", [full, bare])
    assert first == Frame("frames", 2, 7, 123, b"camera", b"bytes", headers)
    assert (first.id, first.headers.ce_id, first.headers.label) == ("seven", "seven", None)
    assert second == Frame("frames", 0, 8, 0, None, None, ())
    assert second.id == "frames-0-8"


def test_an_empty_id_is_none() -> None:
    assert frame(5, ce_id="").id == "frames-0-5"


def numbered(one: Frame) -> Tensor:
    """A picture that shows the frame's offset; every seventh is damaged."""
    if one.offset % 7 == 0:
        raise DecodeError(Reason.CORRUPT, f"frame {one.offset}")
    return torch.tensor([one.offset])


@pytest.mark.parametrize("count", [1, 2, 9, 1000])
def test_every_frame_gets_its_own_picture(count: int) -> None:
    pool = DecodePool(3, numbered)
    try:
        for first in (0, count):  # by the second time the pool knows how long a picture takes
            frames = [frame(first + number) for number in range(count)]
            arrived = pool.submit(frames)
            assert [one.frame for one in arrived] == frames
            for one, decoded in zip(frames, all_decoded(arrived, nothing_to_do), strict=True):
                if one.offset % 7 == 0:
                    assert str(decoded.picture) == f"frame {one.offset}"
                else:
                    assert isinstance(decoded.picture, Tensor)
                    assert decoded.picture.item() == one.offset
    finally:
        pool.close()


def tasks(arrived: list[PendingFrame]) -> int:
    return len({one.chunk for one in arrived})


class ThreadsClock(threading.local):
    """A clock for each thread, which shows only what :meth:`advance` said."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, ms: float) -> Tensor:
        self.now += ms / 1000
        return torch.zeros(1)


def test_tasks_are_large_where_pictures_are_small_and_small_where_they_are_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = ThreadsClock()
    monkeypatch.setattr("layercache.stream.frames.decode_pool.perf_counter", clock)
    picture_ms = 0.001
    pool = DecodePool(2, lambda _: clock.advance(picture_ms))
    frames = [frame(number) for number in range(60)]
    try:
        assert tasks(pool.submit(frames)) == 8  # of eight each, as long as nothing is known
        for _ in range(60):
            all_decoded(pool.submit(frames), nothing_to_do)
        assert tasks(pool.submit(frames)) == 2  # one for each thread
        picture_ms = 2.0
        for _ in range(20):
            all_decoded(pool.submit(frames), nothing_to_do)
        assert tasks(pool.submit(frames)) == 60
    finally:
        pool.close()


def test_duties_are_done_while_pictures_are_waited_for() -> None:
    released = threading.Event()
    pool = DecodePool(1, lambda one: torch.tensor([released.wait(60)]))
    done: list[int] = []

    def duties() -> float:
        done.append(len(done))
        if len(done) == 3:
            released.set()
        return HOUR_S if released.is_set() else 0.001

    try:
        (decoded,) = all_decoded(pool.submit([frame(1)]), duties)
        assert isinstance(decoded.picture, Tensor)
        assert decoded.picture.item()
        assert len(done) == 3
    finally:
        released.set()
        pool.close()


def test_a_frame_that_does_not_decode_leaves_nothing_behind() -> None:
    """Not even until Python's collector comes by: the worker has it come seldom."""
    seen: list[weakref.ref[Tensor]] = []

    def decode(frame: Frame) -> Tensor:
        picture = torch.zeros(3, 8, 8)
        seen.append(weakref.ref(picture))
        try:
            raise RuntimeError("a decoder's own error")
        except RuntimeError as error:
            raise DecodeError(Reason.CORRUPT, "does not decode") from error

    pool = DecodePool(1, decode)
    gc.collect()
    gc.disable()
    try:
        (decoded,) = all_decoded(pool.submit([frame(0)]), lambda: 1.0)
        assert isinstance(decoded.picture, DecodeError)
        assert (decoded.picture.reason, str(decoded.picture)) == (Reason.CORRUPT, "does not decode")
        pool.close()
        assert [one() for one in seen] == [None]
    finally:
        gc.enable()
