"""When a commit is due, and that no wait outlasts the group's patience. No broker: nothing listens on port 1."""

import time
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from layercache.schemas.settings import Kafka, Settings, Worker
from layercache.stream.kafka.clients import consumer_config, long_running
from layercache.stream.kafka.waiting import Deadline, Stuck
from layercache.stream.worker.delivery.transactions import Aborted, AtLeastOnce
from layercache.stream.worker.metrics import Metrics


def delivery_to_nowhere(time_left: Callable[[], float] = lambda: 600.0, **worker: object) -> AtLeastOnce:
    kafka = Kafka(bootstrap_servers="localhost:1", producer_options={"queue.buffering.max.messages": 2})
    given = {"delivery": "at_least_once", "commit_interval_ms": 60_000.0} | worker
    settings = Settings(kafka=kafka, worker=Worker.model_validate(given))
    consumer = Consumer(long_running(consumer_config(settings, "nobody")))
    return AtLeastOnce(settings, consumer, lambda: False, time_left, Metrics(max_batch=32))


def test_a_commit_is_due_by_time() -> None:
    delivery = delivery_to_nowhere()
    assert delivery.due_in(time.monotonic()) is None
    delivery.answered("frames", 0, 5)
    due = delivery.due_in(time.monotonic())
    assert due is not None
    assert 50.0 < due <= 60.0
    assert delivery.due_in(time.monotonic() + 61.0) == 0.0


def test_a_commit_is_due_by_count() -> None:
    delivery = delivery_to_nowhere(commit_max_frames=10)
    delivery.answered("frames", 0, 5, frames=6)
    assert delivery.due_in(time.monotonic()) != 0.0
    delivery.answered("frames", 1, 3, frames=4)
    assert delivery.due_in(time.monotonic()) == 0.0
    delivery.abort()
    delivery.answered("frames", 0, 5, frames=6)
    assert delivery.due_in(time.monotonic()) != 0.0


def test_a_full_queue_is_waited_for_no_longer_than_the_group_waits() -> None:
    delivery = delivery_to_nowhere(time_left=lambda: 0.2)
    delivery.produce("predictions", b"1")
    delivery.produce("predictions", b"2")
    began = time.monotonic()
    with pytest.raises(Aborted, match="queue stays full"):
        delivery.produce("predictions", b"3")
    assert time.monotonic() - began < 5
    assert delivery.due_in(time.monotonic()) is None
    # The next frame gets a producer that has room again.
    delivery.produce("predictions", b"1")


def test_a_commit_ends_with_the_groups_patience() -> None:
    delivery = delivery_to_nowhere(time_left=lambda: 0.2)
    delivery.produce("predictions", b"1")
    delivery.answered("frames", 0, 0)
    began = time.monotonic()
    with pytest.raises(Aborted, match="1 records are not delivered"):
        delivery.commit()
    assert time.monotonic() - began < 5
    assert delivery.due_in(time.monotonic()) is None


class Fenced:
    """Tells what has become fatal by the next poll, as librdkafka does."""

    def poll(self, _: float) -> int:
        raise KafkaException(KafkaError(KafkaError._FENCED, "fenced by a newer instance", fatal=True))

    def purge(self, **_: bool) -> None:
        """Nothing is left."""


def test_a_producer_that_became_useless_is_replaced_whatever_call_tells() -> None:
    delivery = delivery_to_nowhere()
    delivery.answered("frames", 0, 0)
    delivery._watched.producer = Fenced()  # type: ignore[assignment]
    with pytest.raises(Aborted, match="fenced by a newer instance"):
        delivery.commit()
    delivery.ensure_producer()
    delivery.produce("predictions", b"1")


def test_without_time_nothing_is_begun() -> None:
    """A call that is begun and not waited for goes on by itself, and may succeed when nobody counts on it any more."""
    delivery = delivery_to_nowhere()
    begun: list[float] = []
    with pytest.raises(Stuck):
        delivery._persist(begun.append, "trying", Deadline(0.0))
    assert not begun
