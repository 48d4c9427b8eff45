"""The simulated clients against what librdkafka 2.16 was seen to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, TopicPartition

from tests.simulation.broker import Broker
from tests.simulation.consumer import SimulatedConsumer
from tests.simulation.membership import group_metadata
from tests.simulation.network import Network
from tests.simulation.producer import SimulatedProducer
from tests.simulation.thread_calls import ThreadCalls
from tests.simulation.world import Process, World


class Bench:
    """A broker, and a process with clients."""

    def __init__(self, kip848: bool = False) -> None:
        self.world = World(seed=3)
        self.network = Network(self.world, socket_timeout_s=2.0)
        self.broker = Broker(
            self.world, {"frames": 2, "predictions": 1}, "frames", kip848, 2.0, 0.5, 6.0, cleanup_s=0.0
        )
        self.protocol = "consumer" if kip848 else "classic"

    def process(self, name: str) -> tuple[Process, ThreadCalls]:
        process = Process(self.world, name)
        return process, ThreadCalls(process)

    def producer(self, name: str = "w", **options: Any) -> SimulatedProducer:
        process, threads = self.process(name)
        config = {"transactional.id": name, "transaction.timeout.ms": 10_000, **options}
        producer = SimulatedProducer(config, process, self.broker, self.network, threads)
        self.call(producer, producer.init_transactions, 5.0)
        return producer

    def consumer(
        self,
        name: str,
        reset: str = "earliest",
        on_lost: Callable[..., None] | None = None,
        on_assign: Callable[..., None] | None = None,
        **options: Any,
    ) -> Any:
        process, threads = self.process(name)
        config = {"auto.offset.reset": reset, "isolation.level": "read_committed", "group.protocol": self.protocol}
        consumer = SimulatedConsumer(config | options, process, self.broker, self.network, threads)
        nothing: Callable[..., None] = lambda *_: None  # noqa: E731
        consumer.subscribe(["frames"], on_assign or nothing, nothing, on_lost or nothing)
        return consumer

    def call(self, client: Any, call: Callable[..., Any], *arguments: Any) -> Any:
        """What the call returns or raises, in simulated time."""
        task = client.process.spawn(lambda: call(*arguments))
        self.world.run(self.world.now + 60.0, lambda: task.done)
        assert task.done
        if task.error is not None:
            raise task.error
        return task.result

    def poll_for(self, seconds: float, *consumers: Any) -> dict[Any, list[tuple[int, int]]]:
        """Polls all of them so long; what each got."""
        found: dict[Any, list[tuple[int, int]]] = {consumer: [] for consumer in consumers}
        end = self.world.now + seconds

        def poll(consumer: Any) -> None:
            while self.world.now < end:
                found[consumer] += [(one.partition(), one.offset()) for one in consumer.consume(10, 0.1)]

        for consumer in consumers:
            consumer.process.spawn(lambda consumer=consumer: poll(consumer))
        self.world.run(end + 1.0)
        return found


@pytest.mark.parametrize("kip848", [False, True])
@pytest.mark.parametrize("joins", [False, True])
@pytest.mark.parametrize("reset", ["earliest", "latest"])
def test_a_join_while_offsets_are_unstable_restarts_the_partition(kip848: bool, joins: bool, reset: str) -> None:
    """The table of 25 cases: nothing happens, right; a third member joins, from 0 or from the end."""
    bench = Bench(kip848)
    for number in (0, 1):
        for _ in range(10):
            bench.broker.publish("frames", number, None, b"frame")
        bench.broker.offsets.commit({("frames", number): (5, "")})
    producer = bench.producer()
    producer.begin_transaction()
    places = [TopicPartition("frames", number, 7) for number in (0, 1)]
    bench.call(producer, producer.send_offsets_to_transaction, places, group_metadata("", -1, None), 5.0)
    heir = bench.consumer("heir", reset)
    assert bench.poll_for(1.5, heir)[heir] == []
    members = [heir, bench.consumer("third", reset)] if joins else [heir]
    before_abort = bench.poll_for(4.0, *members)
    bench.call(producer, producer.abort_transaction, 5.0)
    after = bench.poll_for(3.0, *members)
    got = sorted({one for found in (before_abort, after) for ones in found.values() for one in ones})
    right = [(number, offset) for number in (0, 1) for offset in range(5, 10)]
    if not joins:
        assert got == right
    elif reset == "earliest":
        assert min(offset for _, offset in got) == 0, "the kept partition begins before what is committed"
    else:
        assert len(got) < len(right), "frames are skipped"


@pytest.mark.parametrize(
    ("begin", "came"), [(OFFSET_BEGINNING, [*range(5, 10), *range(13)]), (OFFSET_END, [*range(5, 10)])]
)
def test_who_is_sent_on_while_it_asks_where_the_log_is_goes_there_after_all(begin: int, came: list[int]) -> None:
    """As ``tests/integration/test_frame_consumer.py`` saw it: read from the beginning, or passed over to the end."""
    bench = Bench()

    def assign(consumer: SimulatedConsumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_assign([TopicPartition("frames", one.partition, begin) for one in partitions])

    consumer = bench.consumer("a", on_assign=assign)
    for _ in range(2):
        bench.network.arm("ListOffsets", "slow")
    found: list[int] = []

    def read(until: Callable[[], bool]) -> None:
        while not until():
            found.extend(one.offset() for one in consumer.consume(10, 0.01))

    def publish(count: int) -> None:
        for _ in range(count):
            bench.broker.publish("frames", 0, None, b"frame")

    def work() -> None:
        publish(10)
        read(lambda: 0 in consumer.assigned and consumer.assigned[0].state == "looked up")
        consumer.seek(TopicPartition("frames", 0, 5))
        read(lambda: consumer.assigned[0].state == "asks again")
        publish(3)
        end = bench.world.now + 2.0
        read(lambda: bench.world.now > end)

    bench.call(consumer, work)
    assert found == came


@pytest.mark.parametrize("instance", [None, "w-0"])
def test_who_was_thrown_out_while_it_rejoins_is_told_unless_it_is_a_static_member(instance: str | None) -> None:
    """A JoinGroup that is refused leaves the assignment; only MEMBER_ID_REQUIRED, which static members do not get,
    has it revoked as lost (``rd_kafka_cgrp_handle_JoinGroup``)."""
    bench, lost = Bench(), list[int]()
    options: dict[str, Any] = {"group.instance.id": instance} if instance else {}
    consumer = bench.consumer("a", on_lost=lambda _, partitions: lost.append(len(partitions)), **options)
    bench.poll_for(1.0, consumer)
    before = consumer.memberid()
    bench.broker.group.leave(before)
    consumer.membership.join()
    bench.poll_for(2.0, consumer)
    assert consumer.memberid() not in ("", before)
    assert len(consumer.assignment()) == 2
    assert lost == ([] if instance else [2])


def test_a_seek_before_the_partition_has_started_says_state() -> None:
    bench = Bench()
    consumer = bench.consumer("a")
    with pytest.raises(KafkaException) as raised:
        bench.call(consumer, consumer.seek, TopicPartition("frames", 0, 3))
    assert raised.value.args[0].code() == KafkaError._STATE


def test_an_end_without_an_answer_is_repeated_in_silence() -> None:
    """The call returns without an error; the lines of ``debug=protocol`` tell of two requests and one answer."""
    lines: list[tuple[str, str]] = []

    class Log:
        def log(self, level: int, form: str, facility: str, client: str, text: str) -> None:
            lines.append((facility, text))

    bench = Bench()
    producer = bench.producer(debug="protocol", logger=Log())
    producer.begin_transaction()
    producer.produce("predictions", b"one")
    bench.network.arm("EndTxn", "late")
    bench.call(producer, producer.commit_transaction, 5.0)
    bench.call(producer, producer.poll, 0.0)
    ends = [facility for facility, text in lines if "EndTxn" in text]
    assert ends == ["SEND", "SEND", "RECV"]


def test_a_commit_that_times_out_is_resumed() -> None:
    bench = Bench()
    producer = bench.producer()
    producer.begin_transaction()
    producer.produce("predictions", b"one")
    bench.broker.fail_over("transactions", 3.0, int(KafkaError.NOT_COORDINATOR))
    with pytest.raises(KafkaException) as raised:
        bench.call(producer, producer.commit_transaction, 1.0)
    assert raised.value.args[0].retriable()
    with pytest.raises(KafkaException) as raised:
        bench.call(producer, producer.abort_transaction, 1.0)
    assert raised.value.args[0].code() == KafkaError._CONFLICT
    bench.call(producer, producer.commit_transaction, 5.0)
    bench.world.run(bench.world.now + 1.0)
    assert [record.value for _, record in bench.broker.read("predictions")[0]] == [b"one"]


def test_an_abort_while_an_acknowledgement_is_lost_loses_the_next_record() -> None:
    """Seen with 2.16: the purged record's sequence number is the next one's, which then counts as a repetition."""
    bench = Bench()
    producer = bench.producer()
    producer.begin_transaction()
    producer.produce("predictions", b"one")
    bench.network.arm("Produce", "reply_lost")
    bench.world.run(bench.world.now + 0.03)
    bench.call(producer, producer.abort_transaction, 5.0)
    producer.begin_transaction()
    producer.produce("predictions", b"two")
    bench.call(producer, producer.commit_transaction, 5.0)
    bench.world.run(bench.world.now + 1.0)
    assert [record.value for _, record in bench.broker.read("predictions")[0]] == []


def test_another_producer_of_the_same_name_fences() -> None:
    bench = Bench()
    older = bench.producer()
    bench.producer()
    older.begin_transaction()
    older.produce("predictions", b"one")
    with pytest.raises(KafkaException) as raised:
        bench.call(older, older.commit_transaction, 5.0)
    assert raised.value.args[0].code() == KafkaError._FENCED
    assert raised.value.args[0].fatal()
