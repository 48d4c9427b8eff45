"""Who may commit: slow workers keep their partitions, those that were thrown out or replaced commit nothing."""

import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from layercache.schemas.settings import Kafka, Settings, Store, Worker
from layercache.stream.kafka.clients import KafkaUnusable, long_running, worker_config
from layercache.stream.worker.delivery.transactions import Aborted, delivery
from layercache.stream.worker.metrics import Metrics
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from testbed.worker_process import Picture, Reader, WorkerProcess, publish, reading, running_worker
from tests.conftest import Broker
from tests.support import tiny_model as tiny
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import TinyModel

RED = encode(coloured("red"), "PNG")
#: Added to the tiny model: it waits while a file is there, so long at most.
SLOWLY = """

import time
from pathlib import Path

import torch


def slowly(x: Tensor) -> Tensor:
    until = time.monotonic() + {seconds}
    while Path({flag!r}).exists() and time.monotonic() < until:
        time.sleep(0.02)
    return x


torch.fx.wrap("slowly")
"""


def settings_for(broker: Broker, model: TinyModel, folder: Path, partitions: int = 2, **worker: object) -> Settings:
    topics = create_topics(broker.bootstrap_servers, unique_topics(partitions))
    given = {"group_id": topics.frames, "torch_threads": 1, "max_batch": 8} | worker
    store = Store(url=f"file://{folder}/heads")
    return Settings(
        kafka=broker.kafka, topics=topics, model=model.settings, store=store, worker=Worker.model_validate(given)
    )


def of(settings: Settings, **worker: object) -> Settings:
    """The same with another worker section, validated."""
    changed = Worker.model_validate(settings.worker.model_dump() | worker)
    return settings.model_copy(update={"worker": changed})


def numbered(numbers: range) -> list[Picture]:
    return [Picture(RED, id=str(number), key=f"camera-{number % 7}") for number in numbers]


def answered_once(reader: Reader, frames: int, seconds: float = 120.0) -> None:
    """Waits for an answer to each of ``frames`` frames and asserts that none has two."""
    reader.read_until(lambda: len(reader.messages) >= frames, f"{frames} answers", seconds)
    reader.read(1.0)
    assert Counter(one.id for one in reader.predictions()) == {str(number): 1 for number in range(frames)}


def committed(settings: Settings) -> int:
    """How many frames the group has committed."""
    consumer = Consumer({"bootstrap.servers": settings.kafka.bootstrap_servers, "group.id": settings.worker.group_id})
    try:
        partitions = [TopicPartition(settings.topics.frames, number) for number in range(settings.topics.partitions)]
        return sum(max(0, one.offset) for one in consumer.committed(partitions, 30))
    finally:
        consumer.close()


def members(settings: Settings) -> int:
    """How many members the broker says that the group has."""
    group = settings.worker.group_id
    client = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    return len(client.describe_consumer_groups([group])[group].result(30).members)


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_who_was_thrown_out_of_the_group_cannot_commit(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that was away for longer than ``max.poll.interval.ms`` and goes on as if nothing had been."""
    settings = settings_for(apache_kafka, tiny_model, tmp_path, partitions=1, group_protocol=protocol)
    publish(settings, numbered(range(1)))
    config = worker_config(settings) | {"session.timeout.ms": 1_500, "max.poll.interval.ms": 1_500}
    if protocol == "consumer":
        del config["session.timeout.ms"]
    consumer = Consumer(long_running(config))
    consumer.subscribe([settings.topics.frames])
    try:
        wait_until(lambda: bool(consumer.consume(1, 0.2)), "a frame")
        works = delivery(settings, "slow", consumer, lambda: False, Metrics(max_batch=32))
        works.answered(settings.topics.frames, 0, 0)
        wait_until(lambda: not members(settings), "it is thrown out")
        with pytest.raises(Aborted):
            works.commit()
        assert committed(settings) == 0
        works.close()
        consumer.consume(1, 0)
        assert "maximum poll interval (1500ms) exceeded" in caplog.text
    finally:
        consumer.close()


def test_who_is_no_member_cannot_commit(apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path) -> None:
    """Its metadata have no member and no generation, with which brokers take a transaction's offsets from anybody."""
    settings = settings_for(apache_kafka, tiny_model, tmp_path, partitions=1)
    owner, stranger = Consumer(worker_config(settings)), Consumer(worker_config(settings))
    owner.subscribe([settings.topics.frames])
    try:
        wait_until(lambda: not owner.consume(1, 0.2) and bool(owner.assignment()), "the owner has the partition")
        works = delivery(settings, "stranger", stranger, lambda: False, Metrics(max_batch=32))
        works.answered(settings.topics.frames, 0, 0)
        with pytest.raises(Aborted, match="thrown this worker out"):
            works.commit()
        assert committed(settings) == 0
        works.close()
    finally:
        owner.close()
        stranger.close()


def slow_model(folder: Path, seconds: float) -> tuple[TinyModel, Path]:
    """The tiny model, and the file that makes it take so long for every micro-batch."""
    flag, model = folder / "slow", tiny.write(folder / "slow-model")
    source = (model.folder / "tiny.py").read_text()
    source = source.replace("self.first(x)", "self.first(slowly(x))")
    (model.folder / "tiny.py").write_text(source + SLOWLY.format(flag=str(flag), seconds=seconds))
    return model, flag


@pytest.mark.slow
def test_a_model_slower_than_the_group_is_patient_loses_nothing(apache_kafka: Broker, tmp_path: Path) -> None:
    """Each micro-batch takes twice ``max.poll.interval.ms`` and longer than a transaction may."""
    model, flag = slow_model(tmp_path, seconds=4.0)
    settings = settings_for(apache_kafka, model, tmp_path, transaction_timeout_ms=2_000)
    patience = {"max.poll.interval.ms": 2_000, "session.timeout.ms": 2_000, "heartbeat.interval.ms": 500}
    settings = settings.model_copy(
        update={"kafka": Kafka(bootstrap_servers=apache_kafka.bootstrap_servers, consumer_options=patience)}
    )
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        worker.wait_for("assigned partitions")
        flag.touch()
        publish(settings, numbered(range(20)))
        answered_once(reader, 20)
        assert not worker.said("lost partitions")
        assert not worker.said("WARNING layercache.stream.worker.loop")
        flag.unlink()
        assert worker.stop() == 0


@pytest.mark.slow
def test_a_rebalance_does_not_wait_for_a_slow_model(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """The second worker gets its partition while the first one's model still works on a micro-batch."""
    model, flag = slow_model(tmp_path, seconds=200.0)
    settings = settings_for(apache_kafka, model, tmp_path)
    with running_worker(settings, tmp_path, "first") as first, reading(settings, settings.topics.predictions) as reader:
        first.wait_for("assigned partitions [0, 1]")
        flag.touch()
        publish(settings, numbered(range(8)))
        quick = settings.model_copy(update={"model": tiny_model.settings})
        with running_worker(quick, tmp_path, "second") as second:
            first.wait_for("revoked partitions")
            second.wait_for("assigned partitions")
            reader.read()
            assert not reader.messages
            flag.unlink()
            answered_once(reader, 8)
            assert (first.stop(), second.stop()) == (0, 0)


@pytest.mark.slow
def test_a_worker_that_slept_through_its_transaction_repeats_nothing(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path
) -> None:
    settings = settings_for(
        apache_kafka, tiny_model, tmp_path, partitions=1, commit_interval_ms=2_500, transaction_timeout_ms=3_000
    )
    with ExitStack() as stack:
        reader = stack.enter_context(reading(settings, settings.topics.predictions))
        zombie = stack.enter_context(running_worker(settings, tmp_path, "zombie"))
        zombie.wait_for("assigned partitions")
        publish(settings, numbered(range(40)))
        with_open_transaction(zombie, settings)
        heir = stack.enter_context(running_worker(of(settings, commit_interval_ms=200), tmp_path, "heir"))
        reader.read_until(lambda: len(reader.messages) >= 40, "the heir's answers")
        zombie.process.send_signal(signal.SIGCONT)
        zombie.wait_for("lost partitions")
        publish(settings, numbered(range(40, 80)))
        answered_once(reader, 80)
        # It has a name of its own making, so it may start anew.
        assert zombie.process.poll() is None
        assert (zombie.stop(), heir.stop()) == (0, 0)
        assert committed(settings) == 80


@pytest.mark.slow
def test_a_named_worker_ends_where_another_has_its_name(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """Stopped with a transaction open, started again elsewhere under the same name, and then continued."""
    settings = settings_for(apache_kafka, tiny_model, tmp_path, partitions=1, commit_interval_ms=2_500, worker_id="w-0")
    with ExitStack() as stack:
        reader = stack.enter_context(reading(settings, settings.topics.predictions))
        zombie = stack.enter_context(running_worker(settings, tmp_path, "zombie"))
        zombie.wait_for("assigned partitions")
        publish(settings, numbered(range(40)))
        with_open_transaction(zombie, settings)
        heir = stack.enter_context(running_worker(settings, tmp_path, "heir"))
        reader.read_until(lambda: len(reader.messages) >= 40, "the heir's answers")
        zombie.process.send_signal(signal.SIGCONT)
        assert zombie.process.wait(60) == 1
        assert zombie.said("each running worker needs a worker_id of its own")
        answered_once(reader, 40)
        assert heir.stop() == 0


def test_who_has_no_longer_its_name_takes_it_from_nobody(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path
) -> None:
    """A record of it was refused or is on its way: it needs a new producer, but may not have one of this name."""
    settings = settings_for(apache_kafka, tiny_model, tmp_path, partitions=1, worker_id="w-0")
    consumers = [Consumer(worker_config(settings)) for _ in range(2)]
    try:
        works = delivery(settings, "w-0", consumers[0], lambda: False, Metrics(max_batch=32))
        works.produce(settings.topics.predictions, b"first")
        until_sent(settings)
        heir = delivery(settings, "w-0", consumers[1], lambda: False, Metrics(max_batch=32))
        works.produce(settings.topics.predictions, b"second")
        with pytest.raises(KafkaUnusable, match="each running worker needs a worker_id of its own"):
            works.abort()
        heir.produce(settings.topics.predictions, b"of the heir")
        heir.close()
    finally:
        for consumer in consumers:
            consumer.close()


def with_open_transaction(worker: WorkerProcess, settings: Settings) -> None:
    """Stops ``worker`` at a moment when it has sent predictions and not committed them.

    It has one partition: before it touches another one's first frames it would commit what it has answered.
    """
    until_sent(settings)
    worker.process.send_signal(signal.SIGSTOP)
    assert committed(settings) == 0


def until_sent(settings: Settings) -> None:
    """Waits for the first prediction, committed or not."""
    dirty = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": "dirty",
            "isolation.level": "read_uncommitted",
        }
    )
    try:
        topic = settings.topics.predictions
        dirty.assign([TopicPartition(topic, number, 0) for number in range(settings.topics.partitions)])
        wait_until(lambda: bool(dirty.consume(1, 0.1)), "a prediction that is not committed")
    finally:
        dirty.close()


def static(settings: Settings, name: str, **worker: object) -> Settings:
    # At least once: a transactional.id would end the other one first.
    return of(settings, worker_id=name, static_membership=True, delivery="at_least_once", **worker)


def test_a_static_member_that_is_replaced_ends(apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path) -> None:
    settings = static(settings_for(apache_kafka, tiny_model, tmp_path), "w-0")
    with running_worker(settings, tmp_path, "first") as first:
        first.wait_for("assigned partitions")
        with running_worker(settings, tmp_path, "second") as second:
            second.wait_for("assigned partitions [0, 1]")
            assert first.process.wait(60) == 1
            assert first.said("another worker of the group has this worker_id")
            assert second.stop() == 0


def test_with_kip_848_a_second_static_member_of_the_name_ends(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path
) -> None:
    settings = static(settings_for(apache_kafka, tiny_model, tmp_path), "w-0", group_protocol="consumer")
    with running_worker(settings, tmp_path, "first") as first:
        first.wait_for("assigned partitions [0, 1]")
        with running_worker(settings, tmp_path, "second") as second:
            assert second.process.wait(120) == 1
            assert second.said("another worker of the group has this worker_id")
        assert first.stop() == 0


class Member:
    """A consumer with a worker's configuration, and how often its partitions changed."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.changes = 0
        self.consumer = Consumer(worker_config(of(settings, worker_id=name)))
        self.consumer.subscribe([settings.topics.frames], on_assign=self._changed, on_revoke=self._changed)

    def _changed(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self.changes += bool(partitions)

    def partitions(self) -> list[int]:
        """Polls, and returns what is assigned."""
        self.consumer.poll(0.1)
        return sorted(one.partition for one in self.consumer.assignment())


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_static_member_comes_back_to_its_partitions(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path, protocol: str
) -> None:
    """A restart within the session time-out moves nothing: the other member's partitions stay as they are."""
    settings = settings_for(apache_kafka, tiny_model, tmp_path, group_protocol=protocol, static_membership=True,
                            worker_id="w-0")  # fmt: skip
    leaver, other = Member(settings, "w-0"), Member(settings, "w-1")
    wait_until(lambda: len(leaver.partitions()) == len(other.partitions()) == 1, "each has one", 60)
    its, changes = leaver.partitions(), other.changes
    leaver.consumer.close()
    back = Member(settings, "w-0")
    try:
        wait_until(lambda: other.partitions() != its and back.partitions() == its, "it has its partition back", 60)
        assert other.changes == changes
    finally:
        back.consumer.close()
        other.consumer.close()


@pytest.mark.slow
def test_kip_848_shares_hands_over_and_outlives_a_killed_worker(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path
) -> None:
    settings = settings_for(apache_kafka, tiny_model, tmp_path, partitions=4, group_protocol="consumer")
    with ExitStack() as stack:
        reader = stack.enter_context(reading(settings, settings.topics.predictions))
        first = stack.enter_context(running_worker(settings, tmp_path, "first"))
        first.wait_for("assigned partitions [0, 1, 2, 3]")
        publish(settings, numbered(range(100)))
        second = stack.enter_context(running_worker(settings, tmp_path, "second"))
        second.wait_for("assigned partitions")
        publish(settings, numbered(range(100, 200)))
        answered_once(reader, 200)
        first.process.kill()
        publish(settings, numbered(range(200, 300)))
        wait_until(lambda: second.said("working on [0, 1, 2, 3]"), "all partitions are the second's", 120)
        answered_once(reader, 300)
        assert second.stop() == 0
        assert committed(settings) == 300


def test_at_least_once_loses_nothing_to_a_kill(apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path) -> None:
    """What the killed worker had sent and not committed is sent again, under the same ids."""
    settings = settings_for(
        apache_kafka, tiny_model, tmp_path, delivery="at_least_once", commit_interval_ms=60_000.0, max_wait_ms=5.0,
        partitions=1,  # before it touches another one's first frames a worker would commit what it has answered
    )  # fmt: skip
    with reading(settings, settings.topics.predictions) as reader:
        with running_worker(settings, tmp_path, "killed") as killed:
            killed.wait_for("assigned partitions")
            publish(settings, numbered(range(40)))
            reader.read_count(40)
            killed.process.kill()
            killed.process.wait(30)
        assert committed(settings) == 0
        with running_worker(of(settings, commit_interval_ms=200.0), tmp_path, "heir") as heir:
            reader.read_until(lambda: len(reader.messages) >= 80, "every answer again")
            assert heir.stop() == 0
        assert Counter(one.id for one in reader.predictions()) == {str(number): 2 for number in range(40)}
        assert committed(settings) == 40


def under_load(settings: Settings, reader: Reader, until: Callable[[], bool], sent: int, what: str) -> int:
    """Publishes and reads until ``until``; returns how many frames there are then."""
    deadline = time.monotonic() + 120
    while not until():
        assert time.monotonic() < deadline, what
        publish(settings, numbered(range(sent, sent + 20)))
        sent += 20
        reader.read(0.1)
    return sent


def fingerprint(worker: WorkerProcess) -> str:
    """Of the worker's model, as it says it."""
    return worker.log.read_text().split("fingerprint ")[1][:12]


def by_last(reader: Reader) -> str:
    """Which model the latest answer is from."""
    return reader.predictions()[-1].model[:12]


@pytest.mark.slow
def test_a_model_is_replaced_under_load(apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path) -> None:
    """Old and new worker share the group for a while; every frame is answered once, and says by which model."""
    old = settings_for(apache_kafka, tiny_model, tmp_path)
    new = old.model_copy(update={"model": tiny.write(tmp_path / "new-model", seed=7).settings})
    with reading(old, old.topics.predictions) as reader, running_worker(old, tmp_path, "old") as leaving:
        leaving.wait_for("assigned partitions")
        sent = under_load(old, reader, lambda: len(reader.messages) > 20, 0, "the old one's answers")
        with running_worker(new, tmp_path, "new") as coming:
            sent = under_load(old, reader, lambda: coming.said("assigned partitions"), sent, "the new one works")
            assert leaving.stop() == 0
            sent = under_load(
                old, reader, lambda: by_last(reader) == fingerprint(coming), sent, "the new one's answers"
            )
            answered_once(reader, sent)
            assert coming.stop() == 0
        by_model = Counter(one.model[:12] for one in reader.predictions())
        assert set(by_model) == {fingerprint(leaving), fingerprint(coming)}
        assert len(by_model) == 2
        assert all(one.class_name == "red" for one in reader.predictions())
