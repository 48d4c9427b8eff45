"""The worker's loop: partitions come and go at any moment, commits fail, frames may end it, and it shall stop."""

from collections.abc import Callable
from typing import Any, cast

import pytest
from confluent_kafka import Consumer

from layercache.stream.worker.backlog import BACKLOG_BYTES
from layercache.stream.worker.delivery.delivery import Aborted
from layercache.stream.worker.loop import LOOKAHEAD, Unfinished
from layercache.stream.worker.overload import LagObjective
from tests.stream.builders import frame
from tests.stream.worker.worker_loop import Loop


def test_a_batch_whose_partitions_all_stay_goes_on_through_a_rebalance() -> None:
    loop = Loop(*(frame(offset, partition) for offset in range(2) for partition in (0, 1)))
    loop.consumer.meanwhile = lambda: loop.worker.revoked({2, 3}, kept=set())
    loop.run()
    assert loop.delivery.committed == {0: 1, 1: 1}
    assert loop.consumer.rewinds == 0


def test_of_a_batch_in_flight_only_frames_of_partitions_that_went_are_dropped() -> None:
    loop = Loop(*(frame(offset, partition) for offset in range(2) for partition in (0, 1)))
    loop.consumer.meanwhile = lambda: loop.worker.revoked({1, 3}, kept=set())
    loop.run()
    assert loop.delivery.produced == [(0, 0), (0, 1)]
    assert loop.delivery.committed == {0: 1}
    assert loop.consumer.rewinds == 0


def test_a_batch_none_of_whose_partitions_stayed_commits_nothing() -> None:
    loop = Loop(frame(0, 1), frame(1, 1))
    loop.consumer.meanwhile = lambda: loop.worker.revoked({1}, kept=set())
    loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})


def test_partitions_that_are_lost_take_the_whole_batch_with_them() -> None:
    """What was open went with the transaction, frames of other partitions too: all of it is read again."""
    loop = Loop(frame(0, 0), frame(0, 1))
    loop.consumer.meanwhile = lambda: loop.worker.lost({1})
    loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})
    assert loop.consumer.rewinds == 1
    assert loop.metric("layercache_transactions_total", result="aborted") == 1


def test_a_worker_that_goes_back_forgets_the_frames_that_wait_since_they_come_again() -> None:
    loop = Loop(frame(5, 0), frame(6, 0))
    loop.worker._take_in([frame(5, 0), frame(6, 0)])
    loop.worker.lost({1})
    loop.run()
    assert loop.consumer.rewinds == 1
    assert loop.delivery.produced == [(0, 5), (0, 6)]


def test_a_worker_whose_commit_fails_while_it_hands_partitions_over_goes_back() -> None:
    loop = Loop()
    loop.delivery.open, loop.delivery.fails = {0: 4, 1: 7}, True
    loop.worker.revoked({1}, kept={0})
    loop.delivery.fails = False
    loop.consumer.is_done = lambda: True
    loop.run()
    assert loop.consumer.rewinds == 1
    assert loop.delivery.committed == {}


def test_the_group_hears_of_a_worker_that_goes_back_before_it_waits_for_a_producer() -> None:
    loop = Loop(frame(0, 0))
    calls: list[str] = []
    abort, keep_membership = loop.delivery.abort, loop.consumer.keep_membership
    loop.delivery.abort = lambda: calls.append("abort") or abort()  # type: ignore
    loop.consumer.keep_membership = lambda: calls.append("heard of") or keep_membership()  # type: ignore
    loop.delivery.ensure_producer = lambda: calls.append("producer")  # type: ignore[method-assign]
    loop.worker._state.lose_work()
    loop.run()
    assert calls[:3] == ["abort", "heard of", "producer"]


def test_frames_in_flight_count_in_the_backlog_through_a_rebalance() -> None:
    """Else large frames would be fetched on top of them, past what the backlog may take up."""
    loop = Loop(frame(0, 0, b"12345"), frame(0, 1, b"678"))
    counted: list[int] = []

    def meanwhile() -> None:
        loop.worker.revoked({1}, kept={0})
        counted.append(loop.worker._backlog.bytes)

    loop.consumer.meanwhile = meanwhile
    loop.run()
    assert counted == [8], "the one that went is still being answered"


@pytest.mark.parametrize("is_revoked", [False, True], ids=["assigned", "revoked"])
def test_who_keeps_partitions_that_may_have_been_anothers_joins_anew(is_revoked: bool) -> None:
    loop = Loop(frame(0, 0), frame(0, 1))
    loop.delivery.misses_a_generation = True
    callback = loop.worker.revoked if is_revoked else loop.worker.assigned
    loop.consumer.meanwhile = lambda: callback({2}, kept={0, 1})
    loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})
    assert (loop.consumer.rewinds, loop.consumer.rejoins) == (1, 1)


def test_a_worker_that_shall_stop_waits_for_a_slow_batch_no_longer_than_its_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop(frame(0, 0), frame(1, 0))
    monkeypatch.setattr(loop.stop, "patience_is_over", loop.stop)
    monkeypatch.setattr(loop.answering.thread, "run", stuck(loop))
    with pytest.raises(Unfinished, match="stopped while 2 frames were still being answered"):
        loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})
    assert loop.delivery.closed
    assert loop.consumer.closed, "others get its partitions at once"
    assert not loop.answering.stopped, "that would wait for the batch"


def stuck(loop: Loop) -> Any:
    """The duties are done again and again; the second time the worker has been told to stop."""

    def run(call: object, duties: Callable[[], float]) -> None:
        for _ in range(1_000):
            duties()
            loop.stop.set()
        raise AssertionError("it waits for ever")

    return run


def test_the_first_frames_of_a_partition_are_noted_before_they_are_touched_and_the_next_commit_takes_it_back() -> None:
    loop = Loop(frame(5, 0), frame(6, 0))
    loop.worker.begins(0, 5, 0, takes_over=True)
    noted: list[Any] = []
    submit = loop.answering.submit
    loop.answering.submit = lambda frames: noted.append(loop.delivery.commits[-1]) or submit(frames)  # type: ignore
    loop.run()
    assert noted[0] == {0: (5, 1)}
    assert loop.delivery.commits[-1] == {0: (7, 0)}


@pytest.mark.parametrize(
    ("began", "places", "note"),
    [(1, [8, 16, 24], 2), (2, [1, 2, 3, 4, 5, 6, 7, 8, 16, 24], 3)],
    ids=["a micro-batch at a time", "one at a time, as many as were at work with the last worker"],
)
def test_where_a_worker_ended_frames_are_taken_with_care_each_micro_batch_committed_and_none_overtakes(
    began: int, places: list[int], note: int
) -> None:
    suspects, others = ([frame(offset, partition) for offset in range(40)] for partition in (0, 1))
    loop = Loop(*(one for pair in zip(suspects, others, strict=True) for one in pair))
    loop.consumer.is_done = lambda: len(loop.delivery.produced) == 80
    loop.worker.begins(0, 0, began, takes_over=True)
    loop.run()
    assert [offset for partition, offset in loop.delivery.produced if partition == 0] == list(range(40))
    assert [offset for partition, offset in loop.delivery.produced if partition == 1] == list(range(40))
    told = [commit[0] for commit in loop.delivery.commits if 0 in commit]
    assert told[0] == (0, note)
    assert [offset for offset, _ in told[1:]] == [*places, 32, 40], "four micro-batches of eight"
    assert [began for _, began in told[1:]] == [3 if place < 8 else 2 for place in places] + [0, 0]


def test_frames_behind_those_that_are_taken_with_care_wait_for_few_of_them() -> None:
    """A commit a frame once held other partitions up for a minute, where commits are slow."""
    careful, others = [frame(offset, 0) for offset in range(40)], [frame(offset, 1) for offset in range(8)]
    loop = Loop(*careful, *others)
    loop.consumer.is_done = lambda: len(loop.delivery.produced) == 48
    loop.worker.begins(0, 0, 1, takes_over=True)
    loop.run()
    before = next(number for number, commit in enumerate(loop.delivery.commits) if 1 in commit)
    assert before <= 6, loop.delivery.commits


def test_frames_that_still_wait_to_be_taken_with_care_are_not_overtaken_once_that_is_over() -> None:
    waiting, later = [frame(offset, 0) for offset in range(36)], [frame(offset, 0) for offset in range(36, 90)]
    loop = Loop(*later)
    loop.worker.begins(0, 0, 1, takes_over=True)
    loop.worker._take_in(waiting)
    loop.consumer.is_done = lambda: len(loop.delivery.produced) == 90
    loop.run()
    assert loop.delivery.produced == [(0, offset) for offset in range(90)]


def test_a_frame_at_which_worker_after_worker_ended_is_refused_untouched() -> None:
    loop = Loop(frame(5, 0), frame(6, 0))
    loop.worker.begins(0, 5, 4, takes_over=True)
    loop.run()
    assert loop.answering.refused == [(0, 5)]
    assert loop.delivery.produced == [(0, 6)]
    assert loop.answering.sizes == [1]
    assert loop.delivery.commits[:2] == [{0: (5, 5)}, {0: (6, 3)}]
    assert loop.delivery.commits[-1] == {0: (7, 0)}, "a worker that ends well leaves no note"


@pytest.mark.parametrize("is_uncertain", [False, True])
def test_a_worker_that_fails_takes_its_note_back_unless_a_commit_is_uncertain(is_uncertain: bool) -> None:
    """An offset that may have been passed already must not be committed again."""
    loop = Loop(frame(5, 0))
    loop.worker.begins(0, 5, 0, takes_over=True)

    def answer(*_: object) -> bool:
        if is_uncertain:
            loop.delivery.fails = True
            with pytest.raises(Aborted):
                loop.worker._commits.commit()
            loop.delivery.fails = False
        raise MemoryError

    loop.answering.answer = answer  # type: ignore[method-assign, assignment]
    with pytest.raises(MemoryError):
        loop.run()
    assert loop.delivery.commits == [{0: (5, 1)}] + ([] if is_uncertain else [{0: (5, 0)}])


def test_who_hands_a_partition_over_takes_its_note_back() -> None:
    loop = Loop(frame(5, 0), frame(9, 1))
    for partition, offset in ((0, 5), (1, 9)):
        loop.worker.begins(partition, offset, 0, takes_over=True)
    loop.consumer.meanwhile = lambda: loop.worker.revoked({1}, kept=set())
    loop.run()
    assert loop.delivery.commits[:3] == [{0: (5, 1)}, {1: (9, 1)}, {1: (9, 0)}]


def test_its_delivery_hears_of_every_rebalance_and_of_another_client() -> None:
    """By these it knows as whom it commits."""
    loop = Loop()
    loop.worker.assigned({0, 1}, kept=set())
    loop.worker.revoked({1}, kept={0})
    assert loop.delivery.rebalances == [{0, 1}, set()]
    client = cast(Consumer, object())
    loop.worker.rejoins(client)
    assert loop.delivery.client is client


def test_frames_that_wait_go_with_their_partition() -> None:
    """Those that wait to be taken with care, and those that are being decoded."""
    loop = Loop()
    for partition in (0, 1):
        loop.worker.begins(partition, 5, 1, takes_over=True)
    loop.worker._take_in([frame(5, 0), frame(5, 1), frame(5, 2), frame(5, 3)])
    loop.worker.revoked({0, 2}, kept={1, 3})
    loop.consumer.is_done = lambda: len(loop.delivery.produced) >= 2
    loop.run()
    assert sorted(loop.delivery.produced) == [(1, 5), (3, 5)]


def test_lag_is_told_of_each_partition() -> None:
    loop = Loop(frame(0, 0))
    loop.run()
    assert loop.metric("layercache_consumer_lag", topic="frames", partition="0") == 7


def test_a_commit_that_is_due_while_a_batch_is_slow_holds_what_was_answered_before() -> None:
    loop = Loop(frame(0, 0), frame(1, 0))
    loop.delivery.open, loop.delivery.due = {5: 3}, 0.0
    loop.run()
    assert loop.delivery.commits[0] == {5: (4, 0)}
    assert loop.delivery.committed == {5: 3, 0: 1}


def test_a_commit_that_fails_while_a_batch_is_slow_takes_the_batch_with_it() -> None:
    """Its frames came after those that must be read again now."""
    loop = Loop(frame(0, 0))
    loop.delivery.open, loop.delivery.due, loop.delivery.fails = {0: -1}, 0.0, True
    loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})
    assert loop.consumer.rewinds == 1
    assert loop.metric("layercache_transactions_total", result="aborted") == 1


def test_a_commit_that_fails_while_partitions_are_handed_over_means_all_is_read_again() -> None:
    loop = Loop(frame(0, 0), frame(0, 1))
    loop.delivery.open = {1: -1}

    def hand_over() -> None:
        loop.delivery.fails = True
        loop.worker.revoked({1}, kept={0})

    loop.consumer.meanwhile = hand_over
    loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})
    assert loop.consumer.rewinds == 1
    assert loop.delivery.rebalances[0] == set(), "the delivery hears of the rebalance all the same"


def test_partitions_lost_while_frames_are_fetched_are_read_again_before_anything_is_answered() -> None:
    loop = Loop(frame(0, 0), frame(0, 1))
    loop.consumer.at_first_fetch = lambda: loop.worker.lost({1})
    loop.consumer.is_done = lambda: loop.consumer.rewinds > 0
    loop.run()
    assert loop.answering.batches == []
    assert (loop.delivery.produced, loop.delivery.committed) == ([], {})
    assert loop.consumer.rewinds == 1


def test_partitions_revoked_while_frames_are_fetched_are_committed_first() -> None:
    loop = Loop(frame(1, 0), frame(7, 1))
    loop.delivery.open = {0: 0, 1: 6}
    loop.consumer.at_first_fetch = lambda: loop.worker.revoked({1}, kept={0})
    loop.run()
    assert loop.delivery.commits[0] == {0: (1, 0), 1: (7, 0)}
    assert loop.consumer.rewinds == 0


def test_a_worker_that_shall_stop_commits_what_it_answered_and_nothing_after_its_delivery_is_closed() -> None:
    """Closing the client revokes the partitions, when nothing can be committed any more."""
    loop = Loop(frame(0, 0))
    loop.run()  # the delivery refuses commits once it is closed
    assert loop.delivery.commits[-1] == {0: (1, 0)}
    assert (loop.delivery.closed, loop.consumer.closed, loop.answering.stopped) == (True, True, True)


def test_a_last_commit_that_fails_leaves_its_frames_to_be_read_again_and_ends_the_worker_in_order() -> None:
    loop = Loop(frame(0, 0))

    def done() -> bool:
        loop.delivery.fails = loop.answering.begun
        return loop.answering.begun

    loop.consumer.is_done = done
    loop.run()
    assert (loop.delivery.produced, loop.delivery.committed) == ([(0, 0)], {})
    assert (loop.delivery.closed, loop.consumer.closed, loop.answering.stopped) == (True, True, True)


def test_large_frames_are_answered_few_at_a_time_without_waiting_for_a_full_batch() -> None:
    """The backlog is full of bytes long before it is full of frames; a frame waits for no others that cannot come."""
    large = b"x" * (BACKLOG_BYTES // 2)
    loop = Loop(*(frame(offset, 0, large) for offset in range(4)), max_wait_ms=3_600_000)
    loop.consumer.is_done = lambda: len(loop.delivery.produced) == 4
    loop.run()
    assert loop.answering.batches == [(2, False), (2, False)]


def test_no_more_frames_are_fetched_than_the_engine_may_be_ahead_of() -> None:
    loop = Loop(*(frame(offset, 0) for offset in range(100)))
    loop.consumer.is_done = lambda: len(loop.delivery.produced) == 100
    fetched: list[int] = []
    fetch = loop.consumer.fetch

    def counting(count: int, timeout_s: float) -> list[Any]:
        frames = fetch(count, timeout_s)
        fetched.append(len(frames))
        assert sum(fetched) - len(loop.delivery.produced) <= LOOKAHEAD * 8
        return frames

    loop.consumer.fetch = counting  # type: ignore[method-assign]
    loop.run()
    assert max(fetched) > 8, "and not one micro-batch at a time"
    assert {size for size, _ in loop.answering.batches} == {8, 4}


class ScriptedLag(LagObjective):
    """Too far behind where ``behind`` says so; notes what it hears of micro-batches."""

    def __init__(self, behind: bool) -> None:
        super().__init__(target_s=1.0)
        self.behind = behind
        self.looks: list[int] = []
        self.heard: list[tuple[int, bool, bool]] = []

    def look(self, waiting: int, now: float) -> bool:
        self.looks.append(waiting)
        self.missed = self.behind
        return self.missed

    def answered(self, frames: int, seconds: float, full: bool, under_overload: bool) -> None:
        self.heard.append((frames, full, under_overload))


@pytest.mark.parametrize("behind", [False, True])
def test_a_worker_that_is_too_far_behind_says_so_to_who_answers(behind: bool) -> None:
    lag = ScriptedLag(behind)
    loop = Loop(*(frame(offset, 0) for offset in range(9)), lag=lag)
    loop.answering.under_overload = behind
    loop.consumer.is_done = lambda: len(loop.delivery.produced) == 9
    loop.run()
    assert loop.answering.batches == [(8, behind), (1, behind)]
    assert lag.heard == [(8, True, behind), (1, False, behind)]
    assert lag.looks[0] == 7 + 9, "what is still to be read, and what was fetched and waits"


def test_the_loop_shows_that_it_goes_round() -> None:
    loop = Loop(frame(0, 0))
    assert not loop.metrics.health.working
    loop.run()
    assert loop.metrics.health.working
