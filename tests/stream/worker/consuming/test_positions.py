"""Where partitions are read: what counts as an answer, which frames pass, and what never happens."""

import random
from collections.abc import Iterable, Sequence

import pytest

from layercache.stream.frames.frame import Frame
from layercache.stream.worker.consuming.positions import (
    BELIEVED_AFTER,
    TRANSITIONS,
    Event,
    PartitionReport,
    Positions,
    Reason,
    Start,
    State,
)
from tests.stream.builders import frame

OLD, NEW = "the-old-topic", "the-new-topic"


def frames(*offsets: int, partition: int = 0) -> list[Frame]:
    return [frame(offset, partition) for offset in offsets]


def offsets(found: Sequence[Frame]) -> list[int]:
    return [one.offset for one in found]


def answered(positions: Positions, partition: int = 0, **told: object) -> Start | None:
    """The answer to a question that is put now."""
    number, asked = positions.question()
    assert partition in asked
    report = PartitionReport(**{"low": 0, "end": 1_000, "committed": None} | told)  # type: ignore[arg-type]
    return positions.take_answer(number, partition, report)


def reading_from(committed: int, *partitions: int) -> Positions:
    positions = Positions()
    positions.assigned(partitions or [0])
    for partition in partitions or [0]:
        answered(positions, partition, committed=committed, topic_id=OLD)
        positions.sought(partition)
    return positions


def test_frames_are_left_out_until_the_client_is_where_the_group_has_committed() -> None:
    positions = Positions()
    positions.assigned([0])
    assert positions.sieve(frames(0, 1, 2)).left_out == {0}
    start = answered(positions, committed=5)
    assert start is not None
    assert (start.reason, start.offset, start.takes_over) == (Reason.COMMITTED, 5, True)
    assert positions.to_seek() == {0: 5}
    assert not positions.sieve(frames(3, 4)).passed  # it is not there yet
    positions.sought(0)
    assert offsets(positions.sieve(frames(5, 6)).passed) == [5, 6]
    assert positions.unconfirmed() == []


def test_an_unstable_partition_holds_up_no_other() -> None:
    positions = Positions()
    positions.assigned([0, 1])
    answered(positions, 1, committed=5)
    positions.sought(1)
    assert offsets(positions.sieve(frames(0, 1) + frames(5, 6, partition=1)).passed) == [5, 6]
    assert positions.question()[1] == [0]


def test_an_answer_from_before_the_partition_came_back_is_thrown_away() -> None:
    positions = Positions()
    positions.assigned([0])
    before, _ = positions.question()
    positions.taken([0])
    positions.assigned([0])
    assert positions.take_answer(before, 0, PartitionReport(committed=5, low=0, end=9)) is None
    assert positions.question()[1] == [0]


def test_an_answer_from_before_a_rewind_is_thrown_away() -> None:
    positions = Positions()
    positions.assigned([0])
    before, _ = positions.question()
    positions.doubt()
    assert positions.take_answer(before, 0, PartitionReport(committed=5, low=0, end=9)) is None


def test_an_answer_counts_although_another_partition_came_meanwhile() -> None:
    positions = Positions()
    positions.assigned([0])
    before, _ = positions.question()
    positions.assigned([1])
    assert positions.take_answer(before, 0, PartitionReport(committed=5, low=0, end=9)) is not None


def test_a_partition_that_is_gone_has_no_answer() -> None:
    positions = Positions()
    positions.assigned([0])
    number, _ = positions.question()
    positions.taken([0])
    assert positions.take_answer(number, 0, PartitionReport(committed=5, low=0, end=9)) is None
    assert positions.sieve(frames(5)).left_out == {0}


def test_a_rewind_goes_back_to_the_last_commit() -> None:
    positions = reading_from(5)
    positions.sieve(frames(5, 6, 7))
    positions.doubt()
    assert not positions.sieve(frames(8)).passed
    start = answered(positions, committed=6)
    assert start is not None
    assert not start.takes_over
    positions.sought(0)
    assert offsets(positions.sieve(frames(6, 7, 8)).passed) == [6, 7, 8]


def test_the_client_is_sent_on_once_it_has_answered_its_own_question_or_is_late() -> None:
    """It asks where the log begins; sent elsewhere meanwhile, librdkafka goes there after all (its issue 2256)."""
    positions = Positions()
    positions.assigned([0, 1, 2])
    for number in positions:
        answered(positions, number, committed=5)
    assert positions.to_seek() == {}
    positions.sieve(frames(0))
    positions.reached_end(1, 0)
    assert positions.to_seek() == {0: 5, 1: 5}
    assert positions.to_seek(is_late=True) == {0: 5, 1: 5, 2: 5}
    positions.taken([0])
    positions.assigned([0])
    answered(positions, committed=5)
    assert positions.to_seek() == {1: 5}, "what came of an earlier assignment says nothing of this one"


@pytest.mark.parametrize(("from_end", "begin"), [(True, 70), (False, 3)])
def test_without_a_commit_it_begins_at_the_end_or_the_beginning_that_was_told(from_end: bool, begin: int) -> None:
    positions = Positions(from_end=from_end)
    positions.assigned([0])
    start = answered(positions, low=3, end=70)
    assert start is not None
    assert (start.reason, start.offset) == (Reason.NO_COMMIT, begin)


@pytest.mark.parametrize(("low", "begin"), [(3, 70), (80, 80)])
def test_without_a_commit_a_rewind_goes_back_to_the_end_that_was_told_first(low: int, begin: int) -> None:
    positions = Positions(from_end=True)
    positions.assigned([0])
    answered(positions, end=70)
    positions.sought(0)
    positions.sieve(frames(70, 71))
    positions.doubt()
    answered(positions, low=low, end=90)
    assert positions.to_seek(is_late=True) == {0: begin}


def test_frames_that_were_deleted_unanswered_are_counted() -> None:
    positions = Positions()
    positions.assigned([0])
    start = answered(positions, committed=5, low=8)
    assert start is not None
    assert (start.reason, start.offset, start.deleted) == (Reason.DELETED, 8, 3)


def test_what_was_committed_for_another_topic_does_not_count() -> None:
    positions = Positions()
    positions.assigned([0])
    start = answered(positions, committed=500, low=0, topic_id=NEW, stamp=OLD)
    assert start is not None
    assert (start.reason, start.offset) == (Reason.ANEW, 0)


def test_what_was_committed_without_a_topic_counts_until_the_topic_is_made_anew() -> None:
    positions = reading_from(5)
    positions.made_anew(NEW)
    start = answered(positions, committed=5, topic_id=NEW)
    assert start is not None
    assert (start.reason, start.offset) == (Reason.ANEW, 0)
    positions.sought(0)
    positions.doubt()
    start = answered(positions, committed=3, topic_id=NEW, stamp=NEW)
    assert start is not None
    assert (start.reason, start.offset) == (Reason.COMMITTED, 3)


def test_a_new_topic_is_read_from_its_beginning_although_groups_begin_at_the_end() -> None:
    positions = Positions(from_end=True)
    positions.assigned([0])
    answered(positions, committed=5, topic_id=OLD)
    positions.sought(0)
    positions.made_anew(NEW)
    answered(positions, topic_id=NEW)  # brokers forget what was committed for a topic that was deleted
    assert positions.to_seek(is_late=True) == {0: 0}


def test_a_log_that_was_cut_off_is_believed_late_and_read_on_at_its_end() -> None:
    positions = Positions()
    positions.assigned([0])

    def again() -> Start | None:
        return answered(positions, committed=500, end=400, topic_id=OLD, stamp=OLD)

    assert all(again() is None for _ in range(BELIEVED_AFTER - 1))
    start = again()
    assert start is not None
    assert (start.reason, start.offset) == (Reason.CUT_OFF, 400)


def test_offsets_that_begin_again_are_reported_and_none_of_them_passes() -> None:
    positions = reading_from(5, 0, 1)
    sieved = positions.sieve(frames(5, 6, 0, 1) + frames(5, partition=1))
    assert sieved.begun_again == {0}
    assert [(one.partition, one.offset) for one in sieved.passed] == [(1, 5)]
    positions.begin_again([0])
    answered(positions, committed=None)
    assert positions.to_seek(is_late=True) == {0: 0}


def test_missing_offsets_are_reported() -> None:
    assert reading_from(5).sieve(frames(5, 8)).gaps == [(0, 6, 8)]


def test_what_is_put_back_comes_again() -> None:
    positions = reading_from(5)
    positions.sieve(frames(5, 6, 7))
    positions.put_back({0: 6})
    assert positions.to_seek() == {0: 6}
    positions.sought(0)
    assert offsets(positions.sieve(frames(6, 7)).passed) == [6, 7]


def test_lag_knows_partitions_that_were_not_read_yet_and_markers_at_the_end() -> None:
    positions = Positions()
    positions.assigned([0, 1, 2])
    answered(positions, 0, committed=5)
    answered(positions, 1, low=10, end=30)
    assert positions.lags({0: 9}) == {0: 4, 1: 20}  # nobody has told of partition 2
    positions.sought(0)
    positions.sieve(frames(5, 6, 7))
    positions.reached_end(0, 9)  # 8 is a marker
    assert positions.lags({0: 9, 1: 30}) == {0: 0, 1: 20}
    assert positions.lags({0: 12}) == {0: 3, 1: 20}


def test_with_latest_a_partition_without_a_commit_has_no_lag() -> None:
    positions = Positions(from_end=True)
    positions.assigned([0])
    answered(positions, end=30)
    assert positions.lags({}) == {0: 0}


def test_frames_pass_only_after_an_answer_and_a_seek() -> None:
    """Rule of the table: whatever happens, READING is left only to come back by way of ASKING or SEEKING."""
    assert {state for (state, event), then in TRANSITIONS.items() if then is State.READING} == {State.SEEKING}
    assert {event for (_, event), then in TRANSITIONS.items() if then is State.READING} == {Event.SOUGHT}
    assert {(state, event) for (state, event), then in TRANSITIONS.items() if then is State.SEEKING} == {
        (State.ASKING, Event.ANSWERED),
        (State.READING, Event.PUT_BACK),
    }
    assert all((state, Event.DOUBTED) in TRANSITIONS for state in State)


class Group:
    """A log of one partition, what the group has committed of it, and a client that goes where it wants."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.positions = Positions(from_end=self.chance.random() < 0.5)
        self.end = self.chance.randrange(20)
        self.committed: int | None = None
        self.answered: list[int] = []
        self.open: list[int] = []
        self.at = 0
        self.is_asking = self.is_relapsing = self.was_hurried = False
        self.asked: list[tuple[int, int | None]] = []

    def step(self) -> None:
        self.chance.choice(
            (self.publish, self.poll, self.poll, self.ask, self.tell, self.tell, self.seek, self.seek, self.commit,
             self.abort, self.rebalance, self.put_back, self.reply)
        )()  # fmt: skip

    def publish(self) -> None:
        self.end += self.chance.randrange(5)

    def poll(self) -> None:
        """The client brings what comes next where it is, which is the beginning while it was not sent somewhere."""
        if self.is_asking:
            return
        count = self.chance.randrange(4)
        came = range(self.at, min(self.end, self.at + count))
        self.at += len(came)
        sieved = self.positions.sieve(frames(*came))
        if self.at == self.end:
            self.positions.reached_end(0, self.end)
        assert self.was_hurried or not sieved.begun_again
        if sieved.begun_again:
            self.open = []
            self.positions.begin_again([0])
        self.open += offsets(sieved.passed)

    def ask(self) -> None:
        number, partitions = self.positions.question()
        if partitions:
            self.asked.append((number, self.committed))

    def tell(self) -> None:
        """Answers come late, or never."""
        if self.asked:
            number, committed = self.asked.pop(self.chance.randrange(len(self.asked)))
            self.positions.take_answer(number, 0, PartitionReport(committed, 0, self.end))

    def seek(self) -> None:
        for partition, offset in self.positions.to_seek(is_late=self.chance.random() < 0.1).items():
            if self.chance.random() < 0.7:
                self.at = offset
                self.was_hurried |= self.is_asking
                self.is_relapsing, self.is_asking = self.is_asking, False
                self.positions.sought(partition)

    def reply(self) -> None:
        """The client is told where the log begins, and goes there, even if it was sent elsewhere meanwhile."""
        if self.is_asking or self.is_relapsing:
            self.at = 0
            self.is_asking = self.is_relapsing = False

    def commit(self) -> None:
        if self.open:
            self.answered += self.open
            self.committed, self.open = self.open[-1] + 1, []

    def abort(self) -> None:
        self.open = []
        self.positions.doubt()

    def rebalance(self) -> None:
        """The partition goes away, is perhaps read on by another, and comes back: the client asks for its beginning."""
        self.open = []
        self.positions.taken([0])
        if self.committed is not None and self.chance.random() < 0.5 and self.committed < self.end:
            self.answered.append(self.committed)
            self.committed += 1
        self.positions.assigned([0])
        self.is_asking, self.is_relapsing = True, False

    def put_back(self) -> None:
        if self.open and not self.positions.unconfirmed():
            back = self.chance.randrange(len(self.open))
            self.positions.put_back({0: self.open[back]})
            del self.open[back:]


@pytest.mark.parametrize("seed", range(200))
def test_whatever_happens_each_frame_is_answered_once_and_in_order(seed: int) -> None:
    group = Group(seed)
    group.rebalance()
    for _ in range(300):
        group.step()
    for _ in range(200):
        if not group.positions.unconfirmed() and group.at == group.end:
            break
        for step in (group.ask, group.tell, group.reply, group.poll, group.seek):
            step()
    assert (group.positions.unconfirmed(), group.at) == ([], group.end)
    group.commit()
    assert group.answered == list(whole(group.answered, group.end))


def whole(answered: Sequence[int], end: int) -> Iterable[int]:
    """From the first frame that was answered to the last one that there is."""
    return range(answered[0], end) if answered else ()


def test_the_end_that_was_told_first_of_a_log_says_nothing_of_the_one_that_begins_again() -> None:
    positions = Positions(from_end=True)
    positions.assigned([0])
    start = positions.take_answer(positions.question()[0], 0, PartitionReport(None, 0, 100))
    assert start is not None and start.offset == 100
    positions.begin_again([0])
    start = positions.take_answer(positions.question()[0], 0, PartitionReport(None, 0, 3))
    assert start is not None and start.offset == 3
