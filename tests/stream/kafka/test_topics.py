"""Creating topics: as the settings say, as often as one likes, with errors that say what to do."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from layercache.broker import EmbeddedBroker
from layercache.schemas.dead_letter import HEADROOM_BYTES
from layercache.schemas.settings import Kafka, Settings, Topics
from layercache.stream.kafka.clients import KafkaUnusable
from layercache.stream.kafka.topics import Outcome, create, wanted_topics
from testbed.ports import free_ports
from testbed.topics import unique_topics
from tests.conftest import Broker


def settings_on(broker: Broker, **changes: int) -> Settings:
    return Settings(kafka=broker.kafka, topics=unique_topics(partitions=3).model_copy(update=changes))


def names(topics: Topics) -> list[str]:
    return [topics.frames, topics.predictions, topics.distillation, topics.dead_letters]


def partitions(settings: Settings) -> list[int]:
    metadata = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers}).list_topics(timeout=20)
    return [len(metadata.topics[name].partitions) for name in names(settings.topics)]


def test_topics_are_created_with_the_settings_partitions(broker: Broker) -> None:
    settings = settings_on(broker)
    outcomes = create(settings)
    assert outcomes == [
        Outcome(name=name, created=True, partitions=count)
        for name, count in zip(names(settings.topics), (3, 3, 1, 3), strict=True)
    ]
    assert partitions(settings) == [3, 3, 1, 3]


def test_creating_again_changes_nothing(broker: Broker) -> None:
    settings = settings_on(broker)
    create(settings)
    again = create(settings)
    assert [outcome.created for outcome in again] == [False] * 4
    assert [outcome.warnings for outcome in again] == [()] * 4
    assert partitions(settings) == [3, 3, 1, 3]


def test_what_is_missing_is_created_beside_what_exists(broker: Broker) -> None:
    settings = settings_on(broker)
    client = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    for created in client.create_topics([NewTopic(settings.topics.predictions, 7, 1)]).values():
        created.result(20)
    outcomes = {outcome.name: outcome for outcome in create(settings)}
    assert [outcomes[name].created for name in names(settings.topics)] == [True, False, True, True]
    existing = outcomes[settings.topics.predictions]
    assert existing.partitions == 7
    assert existing.warnings[0] == "has 7 partitions, the settings ask for 3"


def test_two_that_create_at_once_both_succeed(broker: Broker) -> None:
    settings = settings_on(broker)
    barrier = threading.Barrier(2)

    def both(_: int) -> list[Outcome]:
        barrier.wait(20)
        return create(settings)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(both, range(2))
    assert [a.created + b.created for a, b in zip(first, second, strict=True)] == [1] * 4
    assert [outcome.warnings for outcome in first + second] == [()] * 8


def test_topics_have_the_settings_sizes_and_retention_on_apache_kafka(apache_kafka: Broker) -> None:
    settings = settings_on(
        apache_kafka,
        max_record_bytes=2_000_000,
        distillation_retention_ms=7_200_000,
        distillation_retention_bytes=300_000_000,
    )
    create(settings)
    client = AdminClient({"bootstrap.servers": settings.kafka.bootstrap_servers})
    found = {}
    for name in names(settings.topics):
        (future,) = client.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
        config = future.result(20)
        asked = ("max.message.bytes", "cleanup.policy", "retention.ms", "retention.bytes")
        found[name] = {key: config[key].value for key in asked}
    topics = settings.topics
    week = str(7 * 24 * 3_600_000)
    kept = {"cleanup.policy": "delete", "retention.ms": week, "retention.bytes": "-1"}
    assert found == {
        topics.frames: kept | {"max.message.bytes": "2000000"},
        topics.predictions: kept | {"max.message.bytes": "2000000"},
        topics.distillation: kept
        | {"max.message.bytes": "2000000", "retention.ms": "7200000", "retention.bytes": "300000000"},
        topics.dead_letters: kept | {"max.message.bytes": str(2_000_000 + HEADROOM_BYTES)},
    }


def test_a_topic_that_takes_smaller_records_is_told_on_apache_kafka(apache_kafka: Broker) -> None:
    settings = settings_on(apache_kafka, max_record_bytes=1_000_000)
    create(settings)
    larger = Settings(kafka=settings.kafka, topics=settings.topics.model_copy(update={"max_record_bytes": 3_000_000}))
    frames, *_ = create(larger)
    assert frames.warnings == ("takes records of at most 1,000,000 bytes, the settings ask for 3,000,000",)


def test_too_high_a_replication_factor_says_how_many_brokers_there_are(apache_kafka: Broker) -> None:
    said: list[str] = []
    with pytest.raises(KafkaUnusable, match=r"topics\.replication is 3 and 1 broker\(s\) are up"):
        create(settings_on(apache_kafka, replication=3), wait_s=1.0, waiting=said.append)
    assert said == [f"waiting up to 1 s for 3 broker(s) at {apache_kafka.bootstrap_servers}"]


@pytest.mark.patient
def test_a_broker_that_never_answers_is_told_when_the_wait_is_over() -> None:
    (port,) = free_ports(1)
    begun = time.monotonic()
    with pytest.raises(KafkaUnusable, match=rf"no answer from Kafka at 127\.0\.0\.1:{port} \(.*refused"):
        create(Settings(kafka=Kafka(bootstrap_servers=f"127.0.0.1:{port}")), wait_s=2.0)
    assert 2.0 <= time.monotonic() - begun < 10.0


@pytest.mark.process
def test_a_broker_that_comes_up_later_is_waited_for() -> None:
    (port,) = free_ports(1)
    settings = Settings(kafka=Kafka(bootstrap_servers=f"127.0.0.1:{port}"), topics=unique_topics())
    waiting = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        creating = pool.submit(create, settings, 60.0, lambda what: waiting.set())
        assert waiting.wait(30), "it did not say that it waits"
        with EmbeddedBroker(port):
            outcomes = creating.result(60)
    assert [outcome.created for outcome in outcomes] == [True] * 4


def test_an_option_that_librdkafka_does_not_know_is_named() -> None:
    with pytest.raises(KafkaUnusable, match=r"no\.such\.option"):
        create(Settings(kafka=Kafka(options={"no.such.option": 1})))


def test_one_partition_for_the_one_trainer() -> None:
    counts = {topic.name: topic.partitions for topic in wanted_topics(Settings(topics=Topics(partitions=12)))}
    assert counts == {"frames": 12, "predictions": 12, "distillation": 1, "frames.dlq": 12}


def test_outcomes_are_json() -> None:
    outcome = Outcome(name="frames", created=False, partitions=4, warnings=("has 4",))
    assert msgspec.json.encode(outcome) == b'{"name":"frames","created":false,"partitions":4,"warnings":["has 4"]}'
