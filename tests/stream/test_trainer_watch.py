"""Whether the trainer keeps up, by what the broker says of its group."""

import time

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.settings import Settings, Topics, Trainer, Worker
from stream.trainer_watch import TrainerWatch, trainer_watch
from tests.conftest import Broker
from tests.support.waiting import wait_until


class Told:
    """Offsets of a topic of one partition; ``times`` are its records' timestamps in seconds."""

    def __init__(self, times: list[float], committed: int = -1001, first: int = 0) -> None:
        self.times = times
        self.read_to = committed
        self.first = first

    def committed(self) -> dict[int, int]:
        return {0: self.read_to}

    def earliest(self) -> dict[int, int]:
        return {0: self.first}

    def since(self, timestamp_ms: int) -> dict[int, int | None]:
        later = (n for n, when in enumerate(self.times) if n >= self.first and when * 1000 >= timestamp_ms)
        return {0: next(later, None)}


def behind(offsets: Told, now: float = 100.0) -> bool:
    watch = TrainerWatch(offsets, max_lag_s=30.0, clock=lambda: now)
    watch.look()
    assert watch.looks == 1
    return watch.is_behind


def test_a_record_that_has_waited_too_long_says_so() -> None:
    times = [10.0, 60.0, 80.0, 99.0]
    assert behind(Told(times, committed=1))
    assert not behind(Told(times, committed=2))
    assert not behind(Told(times, committed=4))


def test_a_trainer_that_was_never_there_is_behind_once_records_have_waited() -> None:
    assert not behind(Told([80.0, 99.0]))
    assert behind(Told([60.0, 99.0]))


def test_what_retention_has_deleted_does_not_wait() -> None:
    assert not behind(Told([10.0, 60.0, 80.0, 99.0], first=2))
    assert not behind(Told([10.0, 60.0, 80.0, 99.0], committed=0, first=2))


def test_where_nothing_came_of_late_nobody_is_behind() -> None:
    assert not behind(Told([10.0, 20.0]))
    assert not behind(Told([]))


def test_a_broker_that_does_not_answer_is_complained_of_once(caplog: pytest.LogCaptureFixture) -> None:
    class Away(Told):
        def committed(self) -> dict[int, int]:
            raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "not yours"))

    watch = TrainerWatch(Away([10.0, 99.0]), max_lag_s=30.0, clock=lambda: 100.0)
    watch.is_behind = True
    watch.look()
    watch.look()
    assert (watch.is_behind, watch.looks) == (False, 2)
    assert [record.message for record in caplog.records].count(
        "cannot see whether the trainer keeps up: not yours"
    ) == 1


def test_a_real_broker_says_the_same(broker: Broker, topics: Topics) -> None:
    settings = Settings(
        kafka=broker.kafka,
        topics=topics,
        worker=Worker(distillation_max_lag_s=0.4),
        trainer=Trainer(group_id=f"of-{topics.distillation}", checkpoint_s=0.1),
    )
    watch = trainer_watch(settings)
    watch.look()
    assert not watch.is_behind
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    trainer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": settings.trainer.group_id})
    sent = 0

    def send_and_look() -> bool:
        nonlocal sent
        producer.produce(topics.distillation, b"a record")
        assert producer.flush(30) == 0
        sent += 1
        watch.look()
        return watch.is_behind

    try:
        began = time.monotonic()
        wait_until(send_and_look, "records have waited for too long")
        assert time.monotonic() - began > 0.4
        trainer.commit(offsets=[TopicPartition(topics.distillation, 0, sent)], asynchronous=False)
        assert not send_and_look()
    finally:
        trainer.close()
