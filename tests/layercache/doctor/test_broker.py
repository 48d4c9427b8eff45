"""What the doctor says of a broker: the embedded one and Apache Kafka, and one that is not there."""

import time
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from layercache.doctor import broker as brokers
from layercache.doctor import groups, topics
from layercache.doctor.checks import Finding
from layercache.schemas.settings import Kafka, Settings, Trainer, Worker
from layercache.stream.kafka.clients import consumer_config
from layercache.stream.kafka.offsets import TopicOffsets
from layercache.stream.kafka.topics import create
from testbed.ports import free_ports
from testbed.topics import unique_topics
from tests.conftest import Broker


@pytest.fixture
def settings(broker: Broker) -> Settings:
    names = unique_topics()
    group = names.frames
    return Settings(
        kafka=broker.kafka, topics=names, worker=Worker(group_id=group), trainer=Trainer(group_id=f"{group}-trainer")
    )


def asked(settings: Settings) -> tuple[dict[str, Finding], list[tuple[AdminClient, ClusterMetadata]]]:
    reached: list[tuple[AdminClient, ClusterMetadata]] = []
    found = {one.check: one for one in brokers.check(settings, lambda *both: reached.append(both))}
    return found, reached


def of_topics(settings: Settings) -> list[Finding]:
    _, reached = asked(settings)
    return list(topics.check(settings, *reached[0]))


def of_groups(settings: Settings) -> dict[str, Finding]:
    return {one.check: one for one in groups.check(settings)}


def test_a_broker_that_answers_is_well(settings: Settings, broker: Broker) -> None:
    found, reached = asked(settings)
    assert len(reached) == 1
    assert found["reach"].state == "ok"
    assert "1 broker" in found["reach"].found
    assert (found["login"].state, found["login"].found) == ("ok", "PLAINTEXT")
    if broker.transactional:
        assert found["transactions"].state == "ok"


def test_topics_that_are_missing_are_errors_until_they_are_created(settings: Settings) -> None:
    assert [(one.state, one.fix.partition(",")[0]) for one in of_topics(settings)] == [
        ("error", "`layercache topics create`")
    ] * 4
    create(settings)
    assert {one.state for one in of_topics(settings)} == {"ok"}


def test_topics_that_do_not_fit_the_settings_are_told(apache_kafka: Broker) -> None:
    names = unique_topics()
    here = Settings(kafka=apache_kafka.kafka, topics=names)
    create(here)
    sizes: dict[str, Any] = {"max_record_bytes": 9_000_000, "partitions": 8, "distillation_retention_ms": 3_600_000}
    found = of_topics(here.model_copy(update={"topics": names.model_copy(update=sizes)}))
    errors = {one.check: one.found for one in found if one.state == "error"}
    assert set(errors) == {names.frames, names.predictions, names.distillation, names.dead_letters}
    assert errors[names.frames] == "takes records of at most 5,000,000 bytes, workers may send 9,000,000"
    warnings = [one.found for one in found if one.state == "warning" and one.check == names.distillation]
    assert warnings == ["keeps frames for 24 h, not for 1 h as in the settings"]


def test_nobody_has_read_yet(settings: Settings) -> None:
    create(settings)
    found = of_groups(settings)
    assert {one.found for one in found.values() if one.state != "ok"} == set()
    assert "has ever answered a frame; 0 wait" in found["workers"].found
    assert found["trainer"].found == "no worker has sent anything to learn from yet"
    assert found["clock"].state == "ok"


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_who_has_just_become_leader_is_asked_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    create(settings)
    refusals = [KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))]
    real = TopicOffsets.watermarks

    def refused_once(offsets: TopicOffsets) -> dict[int, tuple[int, int]]:
        if refusals:
            raise refusals.pop()
        return real(offsets)

    monkeypatch.setattr(TopicOffsets, "watermarks", refused_once)
    assert of_groups(settings)["workers"].state == "ok"
    assert not refusals


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_who_stays_without_a_leader_is_told_to_wait(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    create(settings)

    def refused(_: TopicOffsets) -> dict[int, tuple[int, int]]:
        raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))

    monkeypatch.setattr(TopicOffsets, "watermarks", refused)
    monkeypatch.setattr(groups, "_PATIENCE_S", 0.0)
    workers = of_groups(settings)["workers"]
    assert (workers.state, workers.fix) == ("warning", "ask again once the broker has settled")


def send(settings: Settings, topic: str, count: int, partition: int = 0, at_ms: int = 0) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for _ in range(count):
        producer.produce(topic, b"x", partition=partition, timestamp=at_ms)
        assert producer.flush(30) == 0  # one by one: to the embedded broker's ends a batch is one record


def commit(settings: Settings, group: str, topic: str, offset: int) -> None:
    consumer = Consumer(consumer_config(settings, group))
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


def test_frames_that_wait_are_counted(settings: Settings) -> None:
    create(settings)
    send(settings, settings.topics.frames, 7)
    found = of_groups(settings)["workers"]
    assert (found.state, found.fix) == ("warning", "start `layercache worker`, or check worker.group_id")
    commit(settings, settings.worker.group_id, settings.topics.frames, 3)
    found = of_groups(settings)["workers"]
    assert (found.state, found.found.partition(": ")[2]) == ("ok", "4 frames wait, at most 4 on partition 0")


def test_a_trainer_that_was_never_there_is_behind_or_keeps_up_is_told_apart(apache_kafka: Broker) -> None:
    settings = Settings(
        kafka=apache_kafka.kafka, topics=unique_topics(), trainer=Trainer(group_id=unique_topics().frames)
    )
    create(settings)
    now_ms = time.time_ns() // 1_000_000
    send(settings, settings.topics.distillation, 2, at_ms=now_ms - 500_000)
    send(settings, settings.topics.distillation, 1, at_ms=now_ms - 300_000)
    found = of_groups(settings)["trainer"]
    assert found.state == "warning"
    assert "the latest record for it is ten minutes old at most, and none of group" in found.found
    commit(settings, settings.trainer.group_id, settings.topics.distillation, 1)
    send(settings, settings.topics.distillation, 1, at_ms=now_ms)
    found = of_groups(settings)["trainer"]
    assert found.state == "warning"
    assert "a minute old at most, and it is more than 120 s behind" in found.found
    commit(settings, settings.trainer.group_id, settings.topics.distillation, 4)
    assert of_groups(settings)["trainer"].state == "ok"


def test_records_from_the_future_betray_a_clock(apache_kafka: Broker) -> None:
    settings = Settings(kafka=apache_kafka.kafka, topics=unique_topics())
    create(settings)
    send(settings, settings.topics.frames, 1, at_ms=time.time_ns() // 1_000_000 + 3_600_000)
    (warning, *_) = [one for one in groups.check(settings) if one.check == "clock"]
    assert warning.state == "warning"
    assert settings.topics.frames in warning.found


@pytest.mark.patient
def test_a_broker_that_is_not_there_takes_seconds() -> None:
    (port,) = free_ports(1)
    began = time.monotonic()
    found, reached = asked(Settings(kafka=Kafka(bootstrap_servers=f"127.0.0.1:{port}")))
    assert time.monotonic() - began < 3 * brokers.PATIENCE_S
    assert reached == []
    assert found["reach"].state == "error"
    assert f"no answer from Kafka at 127.0.0.1:{port}" in found["reach"].found
    assert "check that it runs" in found["reach"].fix


def test_logins_are_judged_without_a_broker() -> None:
    def logins(servers: str, **options: str) -> dict[str, str]:
        kafka = Kafka(bootstrap_servers=servers, options=dict(options))
        return {one.check: one.state for one in brokers._logins(Settings(kafka=kafka))}

    assert logins("localhost:9092") == {"login": "ok"}
    assert logins("kafka.example.org:9092") == {"login": "warning"}
    plain = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"}
    assert logins("kafka.example.org:9092", **plain) == {"login": "ok", "encryption": "warning"}
    kerberos = {"security.protocol": "SASL_SSL", "sasl.mechanism": "GSSAPI"}
    assert logins("kafka.example.org:9092", **kerberos) == {"login": "ok", "trainer's login": "error"}


def test_transactions_are_judged_by_what_the_broker_says_of_itself() -> None:
    metadata = ClusterMetadata()
    metadata.brokers, metadata.topics = {1: None}, {}  # type: ignore[dict-item]
    few = brokers._transactions(Settings(), {"transaction.state.log.replication.factor": "3"}, metadata)
    assert (few.state, few.fix) == (
        "error", "start more brokers, or set it to what there is; until then workers wait"
    )  # fmt: skip
    short = brokers._transactions(Settings(), {"transaction.max.timeout.ms": "5000"}, metadata)
    assert "the broker allows 5,000" in short.found
    assert brokers._transactions(Settings(), {}, metadata).state == "warning"
    metadata.topics = {"__transaction_state": None}  # type: ignore[dict-item]
    assert brokers._transactions(Settings(), {"any": "thing"}, metadata).state == "ok"


def test_options_that_void_the_promise_are_named_before_any_broker_is_asked() -> None:
    def options(**kafka: Any) -> Finding:
        findings = brokers.check(Settings(kafka=Kafka(**kafka)), lambda *_: None)
        return next(one for one in findings if one.check == "options")

    void = options(options={"isolation.level": "read_uncommitted"})
    assert (void.state, void.fix) == ("error", "leave it out")
    assert void.found.startswith("isolation.level = read_uncommitted (kafka.options or -X) voids exactly_once: frames")
    assert options(options={"auto.offset.reset": "latest"}).found == "none voids exactly_once"
