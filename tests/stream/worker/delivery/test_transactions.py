"""Transactions with a producer that answers from memory: when it is used again, when not, and who is told."""

import gc
import logging
import weakref
from typing import cast

import pytest
from confluent_kafka import Consumer, KafkaError

from layercache.schemas.settings import Kafka
from layercache.stream.kafka.client_log import LEVEL
from layercache.stream.kafka.clients import KafkaUnusable
from layercache.stream.worker.delivery.transactions import Aborted
from layercache.stream.worker.delivery.watched_producer import WatchedProducer
from tests.stream.worker.delivery.delivery_bench import FENCED, Bench, FakeCluster, Member


def test_a_producer_stays_with_the_brokers_that_it_knew_unless_the_user_says_otherwise() -> None:
    bench = Bench()
    assert bench.producer.config["metadata.recovery.strategy"] == "none"
    chosen = Kafka(producer_options={"metadata.recovery.strategy": "rebootstrap"})
    bench.settings = bench.settings.model_copy(update={"kafka": chosen})
    bench.delivery()
    assert bench.producer.config["metadata.recovery.strategy"] == "rebootstrap"


def test_a_producer_whose_requests_were_all_answered_goes_on() -> None:
    bench = Bench()
    for offset in range(3):
        bench.answer(offset)
        assert bench.works.commit()
    assert len(bench.cluster.producers) == 1


@pytest.mark.parametrize("request_", ["EndTxn", "TxnOffsetCommit", "AddOffsetsToTxn", "AddPartitionsToTxn"])
def test_a_commit_of_which_a_request_was_repeated_counts_and_is_its_producers_last(request_: str) -> None:
    bench = Bench()
    bench.answer(0)
    bench.producer.repeats = {request_}
    assert bench.works.commit()
    assert len(bench.cluster.producers) == 1, "a commit waits for no new producer"
    bench.answer(1)
    assert len(bench.cluster.producers) == 2
    assert bench.works.commit()
    assert bench.count("replaced_producers", "unanswered_request") == 1


def test_an_abort_that_was_repeated_is_its_producers_last() -> None:
    bench = Bench()
    bench.answer(0)
    bench.producer.repeats = {"EndTxn"}
    bench.works.abort()
    bench.answer(0)
    assert bench.cluster.calls == ["init", "begin", "produce", "abort", "init", "begin", "produce"]


def test_where_nothing_is_heard_no_producer_is_used_twice() -> None:
    """As after an update of librdkafka that words its log otherwise."""
    bench = Bench()
    bench.cluster.speaks = bench.producer.speaks = False
    bench.producer.config["logger"]._received.clear()
    for offset in range(3):
        bench.answer(offset)
        assert bench.works.commit()
    assert len(bench.cluster.producers) == 3
    assert bench.count("replaced_producers", "unheard") == 3


def test_an_old_producer_ends_on_a_side_thread() -> None:
    bench = Bench()
    bench.answer(0)
    bench.producer.repeats = {"EndTxn"}
    bench.works.commit()
    assert not bench.clock.on_the_side
    bench.answer(1)
    (end,) = bench.clock.on_the_side
    assert [watched.producer for watched in end.__self__] == [bench.cluster.producers[0]]  # type: ignore[attr-defined]
    end()
    assert end.__self__ == []  # type: ignore[attr-defined]


def test_a_producer_that_is_given_up_is_counted_and_ends_on_a_side_thread() -> None:
    bench = Bench()
    bench.answer(0)
    bench.producer.fails["commit"] = FENCED
    with pytest.raises(Aborted, match="fenced"):
        bench.works.commit()
    assert bench.count("replaced_producers", "fenced") == 1
    assert not bench.clock.on_the_side
    bench.answer(0)
    (end,) = bench.clock.on_the_side
    assert [watched.producer for watched in end.__self__] == [bench.cluster.producers[0]]  # type: ignore[attr-defined]


def test_no_call_has_longer_than_the_group_goes_without_the_worker() -> None:
    bench = Bench()
    bench.time_left = 3.0
    bench.clock.allowed.clear()
    bench.answer(0)
    bench.works.abort()
    bench.answer(0)
    bench.producer.fails["commit"] = FENCED
    with pytest.raises(Aborted):
        bench.works.commit()
    bench.works.ensure_producer()
    assert bench.cluster.calls.count("init") == 2
    assert bench.clock.allowed == [3.0, 3.0, 3.0, 3.0], "abort, offsets, commit, a new producer"


def test_a_commit_has_what_sending_the_offsets_left_of_its_time() -> None:
    bench = Bench()
    bench.answer(0)
    bench.time_left = 3.0
    bench.clock.allowed.clear()

    def slow(name: str) -> None:
        bench.clock.at += 2.0 * (name == "offsets")

    bench.cluster.on_call = slow
    assert bench.works.commit()
    assert bench.clock.allowed == [3.0, 1.0]


def test_the_broker_keeps_a_note_with_each_offset() -> None:
    bench = Bench()
    bench.answer(4)
    bench.answer(7, partition=1)
    bench.works.commit(lambda partition: f"of {partition}")
    assert bench.cluster.offsets == [[(0, 5, "of 0"), (1, 8, "of 1")]]


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_a_member_that_joined_again_commits_nothing_that_it_read_before(mode: str) -> None:
    """Thrown out and joined again under another id, without being told that partitions were lost."""
    bench = Bench(delivery=mode)
    bench.works.assigned([0, 1])
    bench.answer(0)
    bench.member.member = "worker-2"
    with pytest.raises(Aborted, match="thrown this worker out"):
        bench.works.commit()
    assert "offsets" not in bench.cluster.calls
    assert bench.member.committed == []
    assert bench.count("aborts", "thrown_out") == 1


@pytest.mark.parametrize("told", ["", "worker-9"], ids=["nobody", "another than its metadata name"])
def test_who_is_no_member_of_the_group_sends_no_offsets(told: str) -> None:
    """A broker takes those of a transaction that names no member from anybody, whoever has the partitions."""
    bench = Bench()
    bench.answer(0)
    bench.member.memberid = lambda: told  # type: ignore[method-assign]
    with pytest.raises(Aborted, match="thrown this worker out"):
        bench.works.commit()
    assert "offsets" not in bench.cluster.calls


def test_at_least_once_commits_what_was_delivered_and_nothing_else() -> None:
    bench = Bench(delivery="at_least_once")
    bench.answer(0)
    assert bench.works.commit()
    bench.answer(1)
    bench.producer.refuse(KafkaError._MSG_TIMED_OUT)
    with pytest.raises(Aborted, match="predictions was not delivered"):
        bench.works.commit()
    assert bench.member.committed == [(0, 1)]


def test_a_member_for_which_an_old_request_joined_commits_nothing_that_it_read_before() -> None:
    """It sees that the group has had a generation which it was never told of, in which others had its partitions."""
    bench = Bench()
    bench.works.assigned([0])
    bench.answer(0)
    bench.member.generation += 1
    assert bench.works.commit(), "one rebalance, which takes what it takes by asking"
    bench.works.assigned()
    bench.answer(1)
    bench.member.generation += 2
    with pytest.raises(Aborted, match="thrown this worker out"):
        bench.works.commit()
    bench.works.ensure_producer()
    bench.answer(1)
    with pytest.raises(Aborted, match="thrown this worker out"):
        bench.works.commit()  # going back tells it nothing of what is its own now
    bench.works.assigned()
    bench.answer(1)
    assert bench.works.commit()


def test_epochs_of_kip_848_may_be_skipped() -> None:
    bench = Bench(group_protocol="consumer")
    bench.works.assigned([0])
    bench.answer(0)
    bench.member.generation += 5
    assert bench.works.commit()


def test_the_old_member_is_remembered_by_partition() -> None:
    """Another assignment meanwhile says nothing about the partitions that stayed."""
    bench = Bench()
    bench.works.assigned([0])
    bench.member.member = "worker-2"
    bench.works.assigned([1])
    bench.answer(5, partition=1)
    assert bench.works.commit()
    bench.answer(0, partition=0)
    with pytest.raises(Aborted, match="thrown this worker out"):
        bench.works.commit()


def test_what_is_read_after_going_back_belongs_to_the_present_member() -> None:
    bench = Bench()
    bench.works.assigned([0])
    bench.member.member = "worker-2"
    bench.works.ensure_producer()
    bench.answer(0)
    assert bench.works.commit()


def test_what_another_client_reads_is_committed_as_the_member_that_it_is() -> None:
    """Even before it has joined the group, no former member's name stays with a partition."""
    bench = Bench()
    bench.works.assigned([0])
    another = Member()
    another.member = "worker-2"
    bench.works.rejoins(cast(Consumer, another))
    bench.answer(0)
    assert bench.works.commit()
    bench.works.assigned([0])
    bench.answer(1)
    assert bench.works.commit()


def test_a_topic_that_refuses_a_record_ends_the_worker_by_name() -> None:
    bench = Bench()
    bench.answer(0)
    bench.producer.refuse(KafkaError.INVALID_RECORD)
    bench.producer.fails["produce"] = KafkaError(KafkaError._STATE, "Local: Erroneous state")
    with pytest.raises(KafkaUnusable, match=r"topic predictions refuses a record.*cleanup\.policy"):
        bench.answer(1)
    bench.works.close()


def test_a_named_worker_that_is_fenced_ends() -> None:
    bench = Bench(worker_id="w-0")
    bench.answer(0)
    bench.producer.fails["commit"] = FENCED
    with pytest.raises(KafkaUnusable, match="each running worker needs a worker_id of its own"):
        bench.works.commit()


def test_a_named_worker_goes_on_once_where_its_own_registration_may_have_fenced_it() -> None:
    """It had no answer and was repeated; the first copy may have arrived late."""
    bench = Bench(worker_id="w-0")
    bench.cluster.next_repeats = {"InitProducerId"}
    bench.works = bench.delivery()
    bench.answer(0)
    bench.producer.fails["commit"] = FENCED
    with pytest.raises(Aborted, match="fenced"):
        bench.works.commit()
    bench.answer(0)
    bench.producer.fails["commit"] = FENCED
    with pytest.raises(KafkaUnusable, match="each running worker"):
        bench.works.commit()


def test_ten_failures_that_do_not_pass_end_the_worker() -> None:
    bench = Bench()
    for _ in range(9):
        bench.answer(0)
        bench.producer.fails["commit"] = KafkaError(KafkaError.INVALID_TXN_STATE, "invalid")
        with pytest.raises(Aborted, match="committing: invalid"):
            bench.works.commit()
        del bench.producer.fails["commit"]
    bench.answer(0)
    bench.producer.fails["commit"] = KafkaError(KafkaError.INVALID_TXN_STATE, "invalid")
    with pytest.raises(KafkaUnusable, match="10 commits in a row failed"):
        bench.works.commit()


def test_a_commit_resets_that_count_and_tells_when_it_was() -> None:
    bench = Bench()
    bench.answer(0)
    assert bench.works.commit()
    assert bench.metrics.registry.get_sample_value("layercache_last_commit_timestamp_seconds")
    assert not bench.works.commit(), "there is nothing"


def test_at_least_once_a_topic_that_refuses_a_record_ends_the_worker_by_name() -> None:
    bench = Bench(delivery="at_least_once")
    bench.answer(0)
    bench.producer.refuse(KafkaError.INVALID_RECORD)
    with pytest.raises(KafkaUnusable, match=r"topic predictions refuses a record.*cleanup\.policy"):
        bench.works.commit()
    assert bench.member.committed == []


def test_a_record_that_the_producer_does_not_take_names_its_topic() -> None:
    bench = Bench()
    bench.producer.fails["produce"] = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
    with pytest.raises(KafkaUnusable, match=r"a record for topic predictions is larger than message\.max\.bytes"):
        bench.answer(0)


def test_another_client_is_the_one_that_commits() -> None:
    bench = Bench(delivery="at_least_once")
    bench.works.assigned([0])
    another = Member()
    bench.works.rejoins(cast(Consumer, another))
    bench.answer(4)
    assert bench.works.commit()
    assert (another.committed, bench.member.committed) == ([(0, 5)], [])


def test_people_hear_what_a_producer_says(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    assert bench.producer.config["log_level"] == LEVEL
    bench.producer.config["logger"].log(logging.WARNING, "%s [%s] %s", "REQTMOUT", "p", "a request timed out")
    assert caplog.messages == ["Kafka: a request timed out"]


def test_no_circle_holds_a_producer() -> None:
    """Python's collector would end it, on whatever thread, and that waits for librdkafka's own."""
    watched = WatchedProducer(FakeCluster().producer, {"transactional.id": "one"}, {})
    held = weakref.ref(watched)
    gc.disable()
    try:
        del watched
        assert held() is None
    finally:
        gc.enable()
