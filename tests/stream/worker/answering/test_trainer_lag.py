"""Whether the trainer keeps up, by what the broker says of its group."""

import time

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from layercache.schemas.settings import Settings, Topics, Trainer, Worker
from layercache.stream.kafka.offsets import TopicOffsets
from layercache.stream.worker.answering.trainer_lag import TrainerWatch, trainer_watch
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from tests.conftest import Broker


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


class Clock:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def seen(watch: TrainerWatch, clock: Clock, now: float) -> bool:
    clock.now = now
    watch.look()
    return watch.is_behind


def behind(offsets: Told, now: float = 100.0) -> bool:
    """After a thirty seconds' lag was seen for as long again, of records that kept coming."""
    clock = Clock()
    watch = TrainerWatch(offsets, max_lag_s=30.0, clock=clock)
    assert not seen(watch, clock, now)
    offsets.times += [now + wait for wait in (10.0, 20.0, 30.0)]
    is_behind = [seen(watch, clock, now + wait) for wait in (10.0, 20.0, 30.0)]
    assert watch.looks == 4
    assert not any(is_behind[:2])
    return is_behind[2]


def test_a_record_that_has_waited_too_long_says_so() -> None:
    assert behind(Told([10.0, 60.0, 80.0, 99.0], committed=1))
    assert not behind(Told([10.0, 60.0, 80.0, 99.0], committed=4))


def test_a_trainer_that_goes_on_too_far_behind_is_behind_until_it_is_not() -> None:
    clock, offsets = Clock(), Told([float(second) for second in range(400)], committed=0)
    watch = TrainerWatch(offsets, max_lag_s=30.0, clock=clock)

    def read_to(offset: int, now: float) -> bool:
        offsets.read_to = offset
        return seen(watch, clock, now)

    assert not any(read_to(now - 40, now) for now in (100, 110, 120))
    assert all(read_to(now - 40, now) for now in (130, 140, 150))
    assert not any(read_to(now - 20, now) for now in (160, 170))
    assert not any(read_to(now - 40, now) for now in (180, 190, 200))  # counted anew


def test_markers_of_transactions_are_no_records_that_wait() -> None:
    """After a pause, of the first record that comes, offsets look as if others had waited before it."""
    clock, offsets = Clock(), Told([0.0, 0.0, 0.1], committed=1)  # a record, and the markers of two transactions
    watch = TrainerWatch(offsets, max_lag_s=30.0, clock=clock)
    assert not any(seen(watch, clock, now) for now in (30.05, 35.0, 55.0))  # first between the markers
    offsets.times += [60.0, 60.1]
    assert not any(seen(watch, clock, now) for now in (60.1, 67.0, 75.0))
    offsets.read_to = 4  # at the next checkpoint, and the next marker
    assert not seen(watch, clock, 76.0)
    assert not any(seen(watch, clock, now) for now in (110.0, 140.0))
    offsets.times += [150.0, 150.1]
    assert not any(seen(watch, clock, now) for now in (150.1, 160.0, 170.0))


def test_one_that_stands_still_is_noticed_although_records_come_in_bursts() -> None:
    clock, offsets = Clock(), Told([], committed=0)
    watch = TrainerWatch(offsets, max_lag_s=30.0, clock=clock)
    found = []
    for burst in range(0, 400, 40):  # pauses are longer than what it may be behind
        offsets.times.append(float(burst))
        found += [seen(watch, clock, burst + wait) for wait in (1.0, 11.0, 21.0, 35.0)]
    assert not any(found[:8])
    assert found[-4:] == [True, True, True, False]  # once nothing has come of late, nobody is in a hurry


def test_a_trainer_that_was_never_there_is_behind_once_records_have_waited() -> None:
    assert behind(Told([60.0, 99.0]))


def test_what_retention_has_deleted_does_not_wait() -> None:
    assert behind(Told([10.0, 60.0, 80.0, 99.0], first=1))
    assert not behind(Told([10.0, 60.0, 80.0, 99.0], first=4))
    assert not behind(Told([10.0, 60.0, 80.0, 99.0], committed=0, first=4))


def test_where_nothing_came_of_late_nobody_is_behind() -> None:
    clock, offsets = Clock(), Told([10.0, 20.0])
    watch = TrainerWatch(offsets, max_lag_s=30.0, clock=clock)
    assert not any(seen(watch, clock, now) for now in (100.0, 110.0, 140.0))


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


def test_a_trainer_that_has_read_all_transactions_is_not_behind(apache_kafka: Broker) -> None:
    topics = create_topics(apache_kafka.bootstrap_servers, unique_topics())
    settings = Settings(
        kafka=apache_kafka.kafka,
        topics=topics,
        worker=Worker(distillation_max_lag_s=0.5),
        trainer=Trainer(group_id=f"of-{topics.distillation}", checkpoint_s=0.1),
    )
    servers = {"bootstrap.servers": apache_kafka.bootstrap_servers}
    producer = Producer(servers | {"transactional.id": f"to-{topics.distillation}"})
    producer.init_transactions(30)
    trainer = Consumer(servers | {"group.id": settings.trainer.group_id})
    reader = Consumer(servers | {"group.id": f"tester-{topics.distillation}"})
    watch, offsets = trainer_watch(settings), TopicOffsets(reader, topics.distillation)

    def send_and_look() -> bool:
        producer.begin_transaction()
        producer.produce(topics.distillation, b"a record")
        producer.commit_transaction(30)
        watch.look()
        return watch.is_behind

    try:
        assert not send_and_look()
        trainer.commit(offsets=[TopicPartition(topics.distillation, 0, 1)], asynchronous=False)  # all but the marker
        wait_until(lambda: offsets.since(int((time.time() - 0.5) * 1000)) == {0: None}, "the marker is old")
        assert not send_and_look()
        assert offsets.since(int((time.time() - 60) * 1000)) == {0: 0}
        wait_until(send_and_look, "records have waited for too long")
    finally:
        trainer.close()
        reader.close()
