"""What frames may take up while they wait is bounded by bytes."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from layercache.stream.frames.frame import Frame
from layercache.stream.worker.held import HeldBytes
from tests.stream.builders import frame

LIMIT = 10_000


def frames(sizes: list[int]) -> list[Frame]:
    return [frame(offset, value=b"x" * size) for offset, size in enumerate(sizes)]


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=300))
def test_a_stream_of_any_sizes_stays_within_the_limit_and_one_fetch(sizes: list[int]) -> None:
    held = HeldBytes(LIMIT)
    coming, waiting = deque(frames(sizes)), deque[Frame]()
    while coming:
        room = held.room(32)
        assert room <= 32
        fetched = [coming.popleft() for _ in range(min(room, len(coming)))]
        before = held.bytes
        held.take_in(fetched)
        waiting.extend(fetched)
        assert held.bytes == sum(len(one.value or b"") for one in waiting)
        assert before < LIMIT or not fetched
        if held.is_full:
            assert held.room(32) == 0
            held.let_go([waiting.popleft() for _ in range(len(waiting))])
    held.let_go(waiting)
    assert held.bytes == 0


def test_once_frames_are_known_to_be_large_few_are_fetched() -> None:
    held = HeldBytes(LIMIT)
    for _ in range(20):
        fetched = frames([2_000] * held.room(32))
        held.take_in(fetched)
        held.let_go(fetched)
    assert held.room(32) == 5


def test_a_frame_larger_than_the_limit_is_fetched_alone() -> None:
    held = HeldBytes(LIMIT)
    held.take_in(frames([50_000] * 2))
    held.let_go(frames([50_000] * 2))
    assert held.room(32) == 1


def test_frames_without_bytes_count_nothing() -> None:
    held = HeldBytes(LIMIT)
    held.take_in([frame(0, value=None), frame(1, value=b"")])
    held.take_in([])
    assert held.bytes == 0
    assert held.room(32) == 32


def test_what_is_dropped_is_no_longer_held() -> None:
    held = HeldBytes(LIMIT)
    first, second = frames([4_000, 3_000])
    held.take_in([first, second])
    held.hold_only([second])
    assert held.bytes == 3_000
    held.hold_only([])
    held.let_go([first])
    assert held.bytes == 0
