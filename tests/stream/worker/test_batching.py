"""Micro-batches: nothing lost, nothing reordered, none too large, none too late."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.stream.worker.batching import MicroBatcher

TICK = 0.001


def test_a_full_batch_is_taken_at_once_and_the_rest_waits() -> None:
    batcher = MicroBatcher[int](max_batch=3, max_wait_s=0.5)
    batcher.add(range(4), now=10.0)
    assert batcher.due_in(10.0) == 0.0
    assert batcher.take(10.0) == [(10.0, 0), (10.0, 1), (10.0, 2)]
    assert batcher.take(10.0) is None
    assert batcher.missing == 2
    assert batcher.due_in(10.2) == 0.5 - (10.2 - 10.0)
    assert batcher.take(10.5) == [(10.0, 3)]
    assert batcher.due_in(10.5) is None


def test_waiting_begins_with_the_oldest() -> None:
    batcher = MicroBatcher[str](max_batch=9, max_wait_s=1.0)
    batcher.add("a", now=0.0)
    batcher.add("b", now=0.9)
    assert batcher.take(0.99) is None
    assert batcher.take(1.0) == [(0.0, "a"), (0.9, "b")]


def test_no_wait_means_what_is_there_goes() -> None:
    batcher = MicroBatcher[int](max_batch=9, max_wait_s=0.0)
    batcher.add([1, 2], now=5.0)
    assert batcher.take(5.0) == [(5.0, 1), (5.0, 2)]


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=60),
    max_batch=st.integers(1, 8),
    max_wait=st.integers(0, 20),
    dropped=st.sets(st.integers(0, 200), max_size=20),
)
@settings(deadline=None, derandomize=True)
def test_everything_comes_out_once_in_order_and_in_time(
    arrivals: list[tuple[int, int]], max_batch: int, max_wait: int, dropped: set[int]
) -> None:
    """A loop that looks every tick; ``arrivals`` are pauses in ticks and how many items arrive then."""
    batcher = MicroBatcher[int](max_batch, max_wait * TICK)
    added_at: list[int] = []
    out: list[int] = []
    tick = 0

    def take_all() -> None:
        while (batch := batcher.take(tick * TICK + TICK / 4)) is not None:  # a quarter: floats must not decide
            assert 1 <= len(batch) <= max_batch
            full = len(batch) == max_batch
            assert full or tick - added_at[batch[0][1]] >= max_wait
            for since, item in batch:
                assert since == added_at[item] * TICK
                assert tick - added_at[item] <= max_wait
            out.extend(item for _, item in batch)

    for pause, count in arrivals:
        for _ in range(pause):
            tick += 1
            take_all()
        first = len(added_at)
        added_at.extend([tick] * count)
        batcher.add(range(first, first + count), tick * TICK)
        take_all()
    waiting = len(added_at) - len(out)
    assert len(batcher) == waiting
    gone = batcher.drop(lambda item: item in dropped)
    assert gone == len([item for item in range(len(out), len(added_at)) if item in dropped])
    while (batch := batcher.take(0.0, all_due=True)) is not None:
        out.extend(item for _, item in batch)
    assert set(range(len(added_at))) - set(out) <= dropped
    assert all(earlier < later for earlier, later in pairwise(out))


def test_what_waits_can_be_looked_at() -> None:
    batcher = MicroBatcher[int](max_batch=2, max_wait_s=1.0)
    batcher.add(range(5), now=0.0)
    batcher.take(0.0)
    assert list(batcher) == [2, 3, 4]
    assert len(batcher) == 3
