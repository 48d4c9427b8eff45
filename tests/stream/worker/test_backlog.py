"""The backlog: nothing lost or reordered, no micro-batch too large or too late, and no more bytes than allowed."""

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from layercache.stream.frames.decode_pool import Decoded, PendingFrame
from layercache.stream.frames.frame import Frame
from layercache.stream.worker.backlog import Backlog
from tests.stream.builders import frame

TICK = 0.001
LIMIT = 10_000
NEVER: Future[list[Decoded]] = Future()


def pending(frames: Iterable[Frame]) -> list[PendingFrame]:
    return [PendingFrame(one, NEVER, 0) for one in frames]


def frames(sizes: Sequence[int], start: int = 0, partition: int = 0) -> list[Frame]:
    return [frame(offset, partition, value=b"x" * size) for offset, size in enumerate(sizes, start)]


def numbered(numbers: Iterable[int]) -> list[PendingFrame]:
    return pending(frame(number, value=b"x") for number in numbers)


def taken(backlog: Backlog, now: float) -> list[tuple[float, int]] | None:
    """The next micro-batch, answered at once: when each frame came, and its offset."""
    batch = backlog.take(now)
    if batch is None:
        return None
    assert [one.frame for _, one in batch] == backlog.in_flight
    backlog.finish()
    return [(since, one.frame.offset) for since, one in batch]


def test_a_full_batch_is_taken_at_once_and_the_rest_waits() -> None:
    backlog = Backlog(max_batch=3, max_wait_s=0.5, max_frames=9)
    backlog.add(numbered(range(4)), now=10.0)
    assert backlog.due_in(10.0) == 0.0
    assert taken(backlog, 10.0) == [(10.0, 0), (10.0, 1), (10.0, 2)]
    assert taken(backlog, 10.0) is None
    assert (backlog.missing, backlog.room, len(backlog)) == (2, 8, 1)
    assert backlog.due_in(10.2) == 0.5 - (10.2 - 10.0)
    assert taken(backlog, 10.5) == [(10.0, 3)]
    assert backlog.due_in(10.5) is None


def test_waiting_begins_with_the_oldest() -> None:
    backlog = Backlog(max_batch=9, max_wait_s=1.0, max_frames=9)
    backlog.add(numbered([0]), now=0.0)
    backlog.add(numbered([1]), now=0.9)
    assert taken(backlog, 0.99) is None
    assert taken(backlog, 1.0) == [(0.0, 0), (0.9, 1)]


def test_no_wait_means_what_is_there_goes() -> None:
    backlog = Backlog(max_batch=9, max_wait_s=0.0, max_frames=9)
    backlog.add(numbered([1, 2]), now=5.0)
    assert taken(backlog, 5.0) == [(5.0, 1), (5.0, 2)]


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), max_size=60),
    max_batch=st.integers(1, 8),
    max_wait=st.integers(0, 20),
    dropped=st.sets(st.integers(0, 4)),
)
@settings(deadline=None, derandomize=True)
def test_everything_comes_out_once_in_order_and_in_time(
    arrivals: list[tuple[int, int]], max_batch: int, max_wait: int, dropped: set[int]
) -> None:
    """A loop that looks every tick; ``arrivals`` are pauses in ticks and how many frames arrive then."""
    backlog = Backlog(max_batch, max_wait * TICK, max_frames=1_000)
    added_at: list[int] = []
    out: list[int] = []
    tick = 0

    def take_all() -> None:
        while (batch := taken(backlog, tick * TICK + TICK / 4)) is not None:  # a quarter: floats must not decide
            assert 1 <= len(batch) <= max_batch
            full = len(batch) == max_batch
            assert full or tick - added_at[batch[0][1]] >= max_wait
            for since, number in batch:
                assert since == added_at[number] * TICK
                assert tick - added_at[number] <= max_wait
            out.extend(number for _, number in batch)

    for pause, count in arrivals:
        for _ in range(pause):
            tick += 1
            take_all()
        first = len(added_at)
        added_at.extend([tick] * count)
        backlog.add(pending(frame(n, partition=n % 5) for n in range(first, first + count)), tick * TICK)
        take_all()
    waiting = list(range(len(out), len(added_at)))
    assert len(backlog) == len(waiting)
    backlog.drop(dropped)
    kept = [number for number in waiting if number % 5 not in dropped]
    assert len(backlog) == len(kept)
    while (batch := taken(backlog, tick + max_wait)) is not None:
        out.extend(number for _, number in batch)
    assert out[len(out) - len(kept) :] == kept
    assert all(earlier < later for earlier, later in pairwise(out))


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=300))
def test_a_stream_of_any_sizes_stays_within_the_limit_and_one_fetch(sizes: list[int]) -> None:
    backlog = Backlog(max_batch=8, max_wait_s=9.0, max_frames=32, max_bytes=LIMIT)
    coming, waiting = deque(frames(sizes)), deque[Frame]()
    while coming:
        room = backlog.room
        assert room <= 32 - len(waiting)
        fetched = [coming.popleft() for _ in range(min(room, len(coming)))]
        before = backlog.bytes
        backlog.add(pending(fetched), 0.0)
        waiting.extend(fetched)
        assert backlog.bytes == sum(len(one.value or b"") for one in waiting)
        assert before < LIMIT or not fetched
        assert backlog.is_full == (backlog.bytes >= LIMIT)
        if not backlog.room:
            while backlog.is_full or len(backlog) >= 8:  # full of bytes is due, however few frames they are
                assert backlog.due_in(0.0) == 0.0
                for _, offset in taken(backlog, 0.0) or []:
                    assert waiting.popleft().offset == offset


def test_once_frames_are_known_to_be_large_few_are_fetched() -> None:
    backlog = Backlog(max_batch=32, max_wait_s=0.0, max_frames=32, max_bytes=LIMIT)
    for _ in range(20):
        backlog.add(pending(frames([2_000] * backlog.room)), 0.0)
        taken(backlog, 0.0)
    assert (backlog.room, backlog.missing) == (5, 5)


def test_a_frame_larger_than_the_limit_is_fetched_alone() -> None:
    backlog = Backlog(max_batch=32, max_wait_s=0.0, max_frames=32, max_bytes=LIMIT)
    backlog.add(pending(frames([50_000] * 2)), 0.0)
    assert (backlog.room, backlog.missing, backlog.has_full_batch) == (0, 0, True)
    taken(backlog, 0.0)
    assert (backlog.room, backlog.missing) == (1, 1)


def test_frames_without_bytes_count_nothing() -> None:
    backlog = Backlog(max_batch=32, max_wait_s=0.0, max_frames=32, max_bytes=LIMIT)
    backlog.add(pending([frame(0, value=None), frame(1, value=b"")]), 0.0)
    backlog.add([], 0.0)
    assert (backlog.bytes, backlog.room) == (0, 30)


class Bookkeeping(RuleBasedStateMachine):
    """Whatever happens in whatever order, numbers and bytes are those of the frames that are there."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(max_batch=4, max_wait_s=0.0, max_frames=12, max_bytes=LIMIT)
        self.next = 0
        self.waiting: list[Frame] = []
        self.aside: list[Frame] = []
        self.flying: list[Frame] = []

    def fetch(self, sizes: list[int], partition: int) -> list[Frame]:
        fetched = frames(sizes, self.next, partition)
        self.next += len(fetched)
        return fetched

    @rule(sizes=st.lists(st.integers(0, 4_000), max_size=5), partition=st.integers(0, 2))
    def more_wait(self, sizes: list[int], partition: int) -> None:
        fetched = self.fetch(sizes, partition)
        self.backlog.add(pending(fetched), 0.0)
        self.waiting += fetched

    @rule(sizes=st.lists(st.integers(0, 4_000), max_size=5), partition=st.integers(0, 2))
    def more_are_set_aside(self, sizes: list[int], partition: int) -> None:
        fetched = self.fetch(sizes, partition)
        self.backlog.put_aside(fetched)
        self.aside += fetched

    @precondition(lambda self: not self.flying)
    @rule()
    def a_batch_is_taken(self) -> None:
        batch = self.backlog.take(0.0)
        expected, self.waiting = self.waiting[:4], self.waiting[4:]
        self.flying = expected
        assert [one.frame for _, one in batch or []] == expected

    @precondition(lambda self: self.aside and not self.flying)
    @rule(count=st.integers(1, 3))
    def some_set_aside_are_taken(self, count: int) -> None:
        partition = self.aside[0].partition
        self.flying = [one for one in self.aside if one.partition == partition][:count]
        self.backlog.take_aside(self.flying)
        self.aside = [one for one in self.aside if one not in self.flying]

    @rule(partition=st.integers(0, 2))
    def a_partition_need_not_be_set_aside_any_more(self, partition: int) -> None:
        back = self.backlog.bring_back(partition)
        assert back == [one for one in self.aside if one.partition == partition]
        self.aside = [one for one in self.aside if one.partition != partition]
        self.backlog.add(pending(back), 0.0)
        self.waiting += back

    @rule()
    def the_batch_is_finished(self) -> None:
        self.backlog.finish()
        self.flying = []

    @rule(partitions=st.sets(st.integers(0, 2)))
    def partitions_go(self, partitions: set[int]) -> None:
        self.backlog.drop(partitions)
        self.waiting = [one for one in self.waiting if one.partition not in partitions]
        self.aside = [one for one in self.aside if one.partition not in partitions]

    @rule()
    def all_is_read_again(self) -> None:
        self.backlog.clear()
        self.waiting, self.aside = [], []

    @invariant()
    def books_are_right(self) -> None:
        backlog = self.backlog
        there = [*self.waiting, *self.aside, *self.flying]
        assert backlog.bytes == sum(len(one.value or b"") for one in there)
        assert (len(backlog), list(backlog.set_aside), list(backlog.in_flight)) == (
            len(self.waiting), self.aside, self.flying,
        )  # fmt: skip
        assert 0 <= backlog.room <= max(0, 12 - len(self.waiting) - len(self.aside))
        assert 0 <= backlog.missing <= max(0, 4 - len(self.waiting))
        assert backlog.has_full_batch == (len(self.waiting) >= 4 or backlog.is_full)


TestBookkeeping = Bookkeeping.TestCase
TestBookkeeping.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, derandomize=True)
