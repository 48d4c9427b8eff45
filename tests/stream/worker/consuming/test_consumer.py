"""The calls of a consumer of frames: what is asked of the broker and of the client, and that nothing of it blocks."""

import logging
from typing import cast

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message

from layercache.stream.kafka.clients import KafkaUnusable
from layercache.stream.worker.consuming.committed import stamp
from tests.stream.worker.consuming.consumer_member import NEW, OLD, Member, reading


def test_a_partition_is_assigned_where_a_client_that_goes_astray_is_found_out() -> None:
    """At the beginning: one that is moved to the end, which ``latest`` is about, would skip frames."""
    for from_end in (False, True):
        member = Member(from_end=from_end)
        member.client.rebalance("assigned", 0, 1)
        assert member.client.assigned == [(0, OFFSET_BEGINNING), (1, OFFSET_BEGINNING)]


def test_a_client_that_brings_nothing_is_sent_on_after_a_second() -> None:
    """It may be unable to read where the log begins; until then it would go back there (librdkafka's issue 2256)."""
    member = Member()
    member.client.rebalance("assigned", 0)
    member.client.coming.clear()
    member.fetch()
    member.broker.tell(committed=5)
    member.fetch()
    assert member.client.sought == []
    member.later().fetch()
    assert member.client.sought == [(0, 5)]


def test_with_an_eager_protocol_all_partitions_are_assigned_at_once() -> None:
    member = Member(is_incremental=False)
    member.client.rebalance("assigned", 0)
    member.client.rebalance("assigned", 0, 1)
    assert member.client.assigned == [(0, OFFSET_BEGINNING), (1, OFFSET_BEGINNING)]


def test_frames_come_once_the_broker_has_told_where_to_begin() -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    member.brings(0, 1)
    assert member.fetch() == []
    assert member.client.paused == {0}
    assert member.metric("layercache_unconfirmed_partitions") == 1
    member.broker.tell(committed=5)
    member.brings(5, 6)
    assert member.fetch() == [5, 6]
    assert (member.client.sought, member.client.paused) == ([(0, 5)], set())


def test_questions_are_spaced_and_put_one_at_a_time() -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    for _ in range(5):
        member.later().fetch()
    assert len(member.broker.asked) == 1  # it was not answered yet
    member.broker.tell(error=KafkaError._TIMED_OUT)
    member.fetch()
    assert len(member.broker.asked) == 2  # it is long ago
    member.broker.tell(error=KafkaError._TIMED_OUT)
    member.fetch()
    assert len(member.broker.asked) == 2
    member.later().fetch()
    assert len(member.broker.asked) == 3


def test_an_answer_to_what_was_asked_before_a_rebalance_is_thrown_away() -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.client.rebalance("lost", 0)
    member.client.rebalance("assigned", 0)
    member.broker.tell(committed=5)
    member.fetch()
    assert member.client.sought == []
    member.broker.tell(committed=6)
    member.fetch()
    assert member.client.sought == [(0, 6)]


def test_a_seek_that_is_refused_is_tried_again() -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.client.refusals = [KafkaError(KafkaError._STATE) for _ in range(3)]
    member.broker.tell(committed=5)
    member.brings(0)
    assert member.fetch() == []
    member.brings(1)
    assert member.fetch() == []
    member.brings(5)
    assert member.fetch() == [5]
    assert member.client.sought == [(0, 5)]


def test_a_seek_that_hangs_is_tried_again_later() -> None:
    """The client takes a lock for it; whoever waits for that is no longer heard of by the group."""
    member = Member()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(committed=5)
    member.clock.hangs = True
    assert member.fetch() == []
    assert member.client.sought == []
    member.clock.hangs = False
    member.brings(5)
    assert member.fetch() == [5]
    assert member.client.sought == [(0, 5)]


def test_what_may_block_has_until_the_group_misses_the_member() -> None:
    member = reading(poll_budget_s=8.0)
    assert member.consumer.time_left() == 8.0
    member.later().later()
    assert member.consumer.time_left() == 6.0
    member.fetch()
    assert member.consumer.time_left() == 8.0
    member.clock.at += 9.0
    assert member.consumer.time_left() == 0.0


def test_notes_go_with_the_offset_and_are_told_to_who_takes_over() -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(committed=5, began=2)
    member.fetch()
    assert member.begun == [(0, 5, 2, True)]
    assert member.consumer.offset_metadata(3) == stamp(OLD, 3)
    member.consumer.rewind()
    member.fetch()
    member.broker.tell(committed=5, began=3)
    member.fetch()
    assert member.begun[1:] == [(0, 5, 3, False)]


def test_notes_of_frames_that_are_gone_are_nobodys() -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(committed=5, began=2, low=8)
    member.fetch()
    assert member.begun == [(0, 8, 0, True)]


def test_its_owner_is_told_which_partitions_stay() -> None:
    member = reading()
    member.client.rebalance("assigned", 1, 2)
    member.client.rebalance("revoked", 1)
    assert member.kept == [set(), {0}, {0, 2}]


def test_a_rewind_asks_and_seeks_without_waiting() -> None:
    member = reading(committed=5)
    member.brings(5, 6, 7)
    assert member.fetch() == [5, 6, 7]
    member.consumer.rewind()
    member.brings(8)
    assert member.fetch() == []
    member.broker.tell(committed=6)
    member.brings(6, 7)
    assert member.fetch() == [6, 7]
    assert member.client.sought == [(0, 5), (0, 6)]


def test_what_was_read_ahead_goes_with_its_partition() -> None:
    """Also where the revocation comes within the very look that reads more: the frame would overtake one in flight."""
    member = reading(committed=5)
    member.brings(5)
    member.later().consumer.keep_membership()
    consume = member.client.consume

    def revoking(count: int, timeout: float) -> list[Message]:
        member.client.rebalance("revoked", 0)
        return consume(count, timeout)

    member.client.consume = revoking  # type: ignore[method-assign]
    member.later().consumer.keep_membership()
    assert member.heard == [("revoked", {0})]
    assert member.fetch() == []


def test_what_was_read_ahead_of_a_rewind_is_forgotten() -> None:
    member = reading(committed=5)
    member.brings(5)
    member.later().consumer.keep_membership()
    member.consumer.rewind()
    assert member.fetch() == []


def test_too_many_frames_read_ahead_are_read_again() -> None:
    member = reading(committed=5)
    for offset in range(5, 22):
        member.brings(offset)
        member.later().consumer.keep_membership()
    assert member.fetch() == []
    assert member.client.sought == [(0, 5), (0, 5)]
    member.brings(5, 6)
    assert member.fetch() == [5, 6]


def test_a_paused_partition_that_goes_away_is_not_paused_when_it_comes_back() -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    member.brings(0)
    member.fetch()
    member.client.rebalance("revoked", 0)
    assert member.client.paused == set()


def test_each_partition_that_is_taken_over_has_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reading(committed=5)
    assert "partition 0: committed 5, the log has 0 to 1000; begins at 5" in caplog.text


def test_frames_that_were_deleted_unanswered_are_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(committed=5, low=8)
    member.fetch()
    assert member.client.sought == [(0, 8)]
    assert member.metric("layercache_frames_deleted_unanswered_total") == 3
    assert "the frames before it were deleted unanswered" in caplog.text


def test_frames_that_are_deleted_under_a_slow_worker_are_told_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    member = reading(committed=5)
    member.brings(5, 6)
    member.fetch()
    member.client.watermarks = (20, 1_000)
    member.brings(20)
    assert member.fetch() == [20]
    assert member.metric("layercache_frames_deleted_unanswered_total") == 13
    assert "offsets 7 to 19 were deleted" in caplog.text


def test_markers_between_frames_are_no_deleted_frames() -> None:
    member = reading(committed=5)
    member.brings(5, 6, 9)
    assert member.fetch() == [5, 6, 9]
    assert member.metric("layercache_frames_deleted_unanswered_total") == 0


def test_a_topic_made_anew_is_read_from_its_beginning(caplog: pytest.LogCaptureFixture) -> None:
    member = reading(committed=5)
    assert member.consumer.offset_metadata() == stamp(OLD)
    member.clock.at += 3.0
    member.fetch()
    member.broker.tell(topic_id=NEW)
    member.fetch()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(topic_id=NEW, committed=5, stamp=OLD)
    member.brings(0)
    assert member.fetch() == [0]
    assert member.consumer.offset_metadata() == stamp(NEW)
    assert "made anew" in caplog.text


def test_the_topics_id_is_asked_for_every_two_seconds_and_goes_with_each_frame() -> None:
    member = reading(committed=5)
    asked = len(member.broker.asked)
    for _ in range(3):
        member.later().fetch()
    assert member.broker.asked[asked:] == [(member.broker.asked[-1][0], [])]
    member.brings(5)
    assert [frame.topic_id for frame in member.consumer.fetch(1, 0)] == [OLD]


def test_a_topic_made_anew_is_read_by_another_client() -> None:
    """That one which has known the old topic may bring nothing of the new one, ever."""
    member = reading(committed=5)
    old = member.client
    member.later().later().later().fetch()
    member.broker.tell(topic_id=NEW)
    member.brings(5)
    assert member.fetch() == []
    assert member.heard == [("lost", {0}), ("revoked", {0}), ("rejoins", set())]
    assert old.is_closed
    assert member.client is not old
    assert member.consumer.client is cast(Consumer, member.client)
    assert member.metric("layercache_partitions") == 0
    member.later().later().later().fetch()
    member.broker.tell(topic_id=NEW)
    member.fetch()
    assert not member.client.is_closed


def test_the_other_client_comes_also_where_nothing_could_be_taken_back() -> None:
    member = reading(committed=5)
    old, lost = member.client, member.lost

    def failing(partitions: set[int]) -> None:
        lost(partitions)
        raise RuntimeError("no producer")

    member.lost = failing  # type: ignore[method-assign]
    member.later().later().later().fetch()
    member.broker.tell(topic_id=NEW)
    with pytest.raises(RuntimeError, match="no producer"):
        member.fetch()
    member.fetch()
    assert old.is_closed


def test_a_broker_that_still_tells_of_the_old_topic_is_not_believed() -> None:
    member = reading(committed=5)
    for topic_id in (NEW, OLD):
        member.clock.at += 3.0
        member.fetch()
        member.broker.tell(topic_id=topic_id, committed=5, stamp=topic_id)
        member.fetch()
    assert member.heard == [("lost", {0}), ("revoked", {0}), ("rejoins", set())]
    assert member.consumer.offset_metadata() == stamp(NEW)


def test_offsets_that_begin_again_are_asked_for() -> None:
    member = reading(committed=500)
    member.brings(0)
    assert member.fetch() == []
    assert member.heard == [("lost", {0})]
    member.fetch()
    member.broker.tell(topic_id=NEW, committed=500, stamp=OLD, end=1)
    member.fetch()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(topic_id=NEW, committed=500, stamp=OLD, end=1)
    member.brings(0)
    assert member.fetch() == [0]


def test_without_a_commit_error_means_error() -> None:
    member = Member(fails_without_commit=True)
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(committed=None)
    with pytest.raises(KafkaUnusable, match="committed no offset for partition 0 of frames"):
        member.fetch()


def test_who_may_not_ask_is_told_what_right_is_missing() -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(error=KafkaError.GROUP_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaUnusable, match=r"partitions \[0\] begin.*docs/security.md"):
        member.fetch()


def test_a_topic_that_is_gone_for_a_moment_is_waited_for() -> None:
    member = Member()
    member.client.rebalance("assigned", 0)
    member.fetch()
    member.broker.tell(error=KafkaError.UNKNOWN_TOPIC_OR_PART)
    assert member.fetch() == []
    assert len(member.later().broker.asked) == 1
    member.fetch()
    assert len(member.broker.asked) == 2


def test_lag_counts_partitions_that_were_not_read_and_no_markers_at_the_end() -> None:
    member = reading(committed=5)
    member.client.watermarks = (0, 9)
    assert member.consumer.lags() == {0: 4}
    member.brings(5, 6, 7)
    end = Message("frames", 0, 9, error=KafkaError(KafkaError._PARTITION_EOF))  # 8 is a marker
    member.client.coming.append(end)
    member.fetch()
    assert member.consumer.lags() == {0: 0}


def test_rebalances_are_counted() -> None:
    member = reading()
    assert member.metric("layercache_partitions") == 1
    member.client.rebalance("lost", 0)
    assert member.metric("layercache_rebalances_total", kind="assigned") == 1
    assert member.metric("layercache_rebalances_total", kind="lost") == 1
    assert member.metric("layercache_lost_partitions_total") == 1
    assert member.metric("layercache_partitions") == 0


def test_a_static_member_that_must_leave_joins_again_once_it_is_forgotten() -> None:
    member = reading(static_session_s=6.0)
    before = member.client
    member.consumer.rejoin(must_leave=True)
    member.fetch()
    assert before.is_closed
    assert member.client is not before
    for _ in range(6):
        member.later().fetch()
    assert not member.client.is_subscribed
    member.later().fetch()
    assert member.client.is_subscribed


@pytest.mark.parametrize(("session_s", "must_leave"), [(6.0, False), (0.0, True)], ids=["may stay", "dynamic"])
def test_others_join_again_at_once(session_s: float, must_leave: bool) -> None:
    member = reading(static_session_s=session_s)
    member.consumer.rejoin(must_leave)
    member.fetch()
    assert member.client.is_subscribed


def test_where_the_poll_interval_is_short_life_is_shown_more_often() -> None:
    assert reading(poll_budget_s=2.0).consumer.keep_membership() == 0.5
    assert reading(poll_budget_s=150.0).consumer.keep_membership() == 1.0
