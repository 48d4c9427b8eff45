"""Buffers of frames are bounded, keep what they promise, and survive a checkpoint."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from layercache.cache_training.learning.kept_frames import FrameBuffer, Frames, capacity_for, concatenate
from tests.cache_training.builders import frames


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 60))
def test_a_window_keeps_the_latest_in_order(sizes: list[int], capacity: int) -> None:
    window = FrameBuffer(capacity, "oldest")
    start = 0
    for size in sizes:
        window.add(frames(size, start))
        start += size
    kept = window.frames()
    positions = [] if kept is None else kept.position.tolist()
    assert positions == list(range(max(0, start - capacity), start))


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 60), st.integers(0, 500))
def test_since_gives_what_came_later(sizes: list[int], capacity: int, seen: int) -> None:
    window = FrameBuffer(capacity, "oldest")
    total = sum(sizes)
    start = 0
    for size in sizes:
        window.add(frames(size, start))
        start += size
    later = window.since(min(seen, total))
    expected = list(range(max(total - capacity, min(seen, total), 0), total))
    assert ([] if later is None else later.position.tolist()) == expected


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60))
def test_a_reservoir_is_bounded_and_holds_only_what_was_added(sizes: list[int], capacity: int) -> None:
    reservoir = FrameBuffer(capacity, "random", seed=1)
    start = 0
    for size in sizes:
        reservoir.add(frames(size, start))
        start += size
    kept = reservoir.frames()
    assert len(reservoir) == min(capacity, start)
    if kept is not None:
        assert (kept.position < start).all()
        assert (kept.inputs[:, 0, 0, 0] == kept.position % 256).all()


def test_a_reservoir_still_knows_the_past() -> None:
    reservoir = FrameBuffer(1000, "random", seed=1)
    for start in range(0, 2000, 50):
        reservoir.add(frames(50, start))
    kept = reservoir.frames()
    assert kept is not None
    assert 250 < (kept.position < 1000).sum() < 480  # about 1000 / e


@given(st.integers(0, 80), st.integers(1, 60), st.integers(1, 60), st.integers(0, 80))
def test_a_reservoir_with_less_room_keeps_what_it_had_room_for(held: int, capacity: int, less: int, more: int) -> None:
    reservoir = FrameBuffer(max(capacity, less), "random", seed=1)
    reservoir.add(frames(held))
    reservoir.limit(less)
    kept = reservoir.frames()
    assert len(reservoir) == min(held, less)
    assert kept is None or len(set(kept.position.tolist())) == len(reservoir)
    reservoir.add(frames(more, start=held))
    kept = reservoir.frames()
    assert len(reservoir) == min(less, min(held, less) + more)
    assert kept is None or (kept.inputs[:, 0, 0, 0] == kept.position % 256).all()


def test_frames_survive_a_checkpoint() -> None:
    original = frames(7, start=2**63 - 3)
    back = Frames.from_tensors("w", original.tensors("w"))
    assert (back.position == original.position).all()
    assert (back.inputs == original.inputs).all()
    assert back.position.dtype == np.uint64


def test_capacity_is_counted_in_bytes() -> None:
    assert capacity_for(1.0, frames(5)) == 1_000_000 // (4 + 3 * 4 + 4 * 8 + 1 + 12)
    assert capacity_for(1e-9, frames(5)) == 1


def test_together_leaves_out_what_is_empty() -> None:
    both = concatenate([None, frames(2), frames(3, start=2), frames(0)])
    assert both is not None
    assert both.position.tolist() == [0, 1, 2, 3, 4]
    assert concatenate([None]) is None


def test_an_empty_buffer_gives_nothing() -> None:
    assert FrameBuffer(5, "oldest").frames() is None
    assert FrameBuffer(5, "random").sample(3) is None
    assert FrameBuffer(5, "oldest").since(0) is None
