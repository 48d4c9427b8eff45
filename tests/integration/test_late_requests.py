"""A request of a transaction that arrives after that transaction was over changes nothing (KIP-890).

The proxy holds one request on one connection while everything else flows. librdkafka repeats it by itself, in silence,
after ``socket.timeout.ms`` or, where its connection breaks, at once; the held copy arrives during the next transaction.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from confluent_kafka import Consumer, TopicPartition

from layercache.schemas.settings import Kafka, Settings, Worker
from layercache.stream.kafka.clients import worker_config
from layercache.stream.worker.delivery.transactions import Delivery, delivery
from layercache.stream.worker.metrics import Metrics
from testbed.kafka_proxy import (
    ADD_OFFSETS_TO_TXN,
    ADD_PARTITIONS_TO_TXN,
    END_TXN,
    TXN_OFFSET_COMMIT,
    KafkaProxy,
    ends,
    is_api,
)
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from testbed.worker_process import Reader, reading
from tests.conftest import Broker

#: What Kafka answers to a request of an older epoch: INVALID_PRODUCER_EPOCH.
OLD_EPOCH = 47

by_reset_or_timeout = pytest.mark.parametrize("reset", [True, False], ids=["reset", "timeout"])


@dataclass
class Stream:
    """A member of the workers' group with its delivery, by way of the proxy, and a reader of what it answers."""

    settings: Settings
    consumer: Consumer
    works: Delivery
    reader: Reader
    proxy: KafkaProxy

    def answer(self, offset: int) -> None:
        """Answers the frame at ``offset`` of partition 0, and sees that the answer has left."""
        self.works.produce(self.settings.topics.predictions, b"%d" % offset, b"key")
        self.works.answered(self.settings.topics.frames, 0, offset)

    def begin(self, offset: int) -> None:
        """Answers the frame, and waits until the broker knows of a transaction with the answer in it."""
        before = self.proxy.count(is_api(ADD_PARTITIONS_TO_TXN))
        self.answer(offset)
        assert self.works._watched.producer.flush(20) == 0
        assert self.proxy.count(is_api(ADD_PARTITIONS_TO_TXN)) > before

    def epochs(self) -> list[int]:
        """The producer's epoch in every request so far that ended a transaction of this stream."""
        own = self.settings.topics.frames.encode()
        return [request.epoch for request in self.proxy.seen if request.api == END_TXN and own in request.body]

    def answers(self, wanted: int) -> list[int]:
        """The offsets of the frames whose answers are committed; waits for as many."""
        self.reader.read_until(lambda: len(self.reader.messages) >= wanted, f"{wanted} answers", 20)
        self.reader.read(0.5)
        return sorted(int(message.value() or b"") for message in self.reader.messages)

    def committed(self) -> int:
        """The group's offset on partition 0."""
        return self.consumer.committed([TopicPartition(self.settings.topics.frames, 0)], 20)[0].offset


@contextmanager
def stream(broker: Broker, **worker: object) -> Iterator[Stream]:
    topics = create_topics(broker.bootstrap_servers, unique_topics())
    direct = Settings(kafka=broker.kafka, topics=topics)
    through = Settings(
        kafka=Kafka(
            bootstrap_servers=broker.detour_servers,
            producer_options={"socket.timeout.ms": 1_000, "linger.ms": 0},
        ),
        topics=topics,
        worker=Worker.model_validate({"group_id": topics.frames} | worker),
    )
    assert broker.proxy is not None
    consumer = Consumer(worker_config(through))
    consumer.subscribe([topics.frames])
    try:
        wait_until(lambda: not consumer.consume(1, 0.05) and bool(consumer.assignment()), "partitions")
        works = delivery(through, "one", consumer, lambda: False, Metrics(max_batch=32))
        with reading(direct, topics.predictions) as reader:
            yield Stream(through, consumer, works, reader, broker.proxy)
            works.close()
    finally:
        consumer.close()


@by_reset_or_timeout
def test_a_late_commit_commits_no_later_transaction(apache_kafka: Broker, reset: bool) -> None:
    """The later one is taken back, by a rebalance for example, and its frame answered again."""
    with stream(apache_kafka) as one:
        one.answer(0)
        late = one.proxy.hold(ends(commit=True), reset)
        assert one.works.commit()
        one.begin(1)
        error = late.release_end()
        one.works.abort()
        one.answer(1)
        assert one.works.commit()
        assert one.answers(2) == [0, 1]
        assert one.committed() == 2
        assert error == OLD_EPOCH


@by_reset_or_timeout
def test_a_late_abort_takes_back_no_later_transaction(apache_kafka: Broker, reset: bool) -> None:
    """The later one would be lost, and its frame's offset committed."""
    with stream(apache_kafka) as one:
        one.begin(0)
        late = one.proxy.hold(ends(commit=False), reset)
        one.works.abort()
        one.begin(0)
        error = late.release_end()
        assert one.works.commit()
        assert one.committed() == 1
        assert one.answers(1) == [0]
        assert error == OLD_EPOCH


def test_late_offsets_set_no_group_back(apache_kafka: Broker) -> None:
    """Those of the earlier transaction arrive after those of the later one, and before its end."""
    with stream(apache_kafka) as one, ThreadPoolExecutor(1) as side_thread:
        one.answer(0)
        late = one.proxy.hold(is_api(TXN_OFFSET_COMMIT), reset=True)
        assert one.works.commit()
        one.answer(1)
        end = one.proxy.hold(ends(commit=True))
        committing = side_thread.submit(one.works.commit)
        assert end.arrived.wait(20)
        late.release()
        end.release()
        assert committing.result(20)
        assert one.answers(2) == [0, 1]
        assert one.committed() == 2


@pytest.mark.parametrize("api", [ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, TXN_OFFSET_COMMIT, END_TXN])
def test_a_producer_that_repeated_a_request_is_replaced(apache_kafka: Broker, api: int) -> None:
    """Its successor has another epoch, by which brokers know late requests; and who repeated nothing goes on."""
    with stream(apache_kafka) as one:
        one.answer(0)
        assert one.works.commit()
        late = one.proxy.hold(is_api(api), reset=True)
        one.answer(1)
        assert one.works.commit()
        one.begin(2)
        late.release()
        assert one.works.commit()
        one.answer(3)
        assert one.works.commit()
        first, *repeated, third, fourth = one.epochs()
        assert set(repeated) == {first}
        assert third == fourth == first + 1
        assert one.answers(4) == [0, 1, 2, 3]
        assert one.committed() == 4


def test_this_librdkafka_still_needs_it_and_says_so_in_the_words_we_know(apache_kafka: Broker) -> None:
    """Where this fails, librdkafka speaks EndTxn v5 (KIP-890), or words its log otherwise: see
    layercache.stream.worker.delivery.request_watch."""
    with stream(apache_kafka) as one:
        one.answer(0)
        assert one.works.commit()
        watch = one.works._watched.watch
        assert watch is not None
        assert watch.hears()
        assert watch.unanswered() == ()
        end = [request for request in one.proxy.seen if request.api == END_TXN][-1]
        assert end.version < 5
        # Each kind of request is counted once, none by two names.
        assert watch.counts() == dict.fromkeys(
            ("InitProducerId", "AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "EndTxn"), (1, 1)
        )
