"""An output topic that refuses a record ends the delivery, and says which topic, why, and what to do."""

import random

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from layercache.schemas.settings import Settings, Worker
from layercache.stream.kafka.clients import KafkaUnusable, worker_config
from layercache.stream.worker.delivery.transactions import Aborted, Delivery, delivery
from layercache.stream.worker.metrics import Metrics
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from tests.conftest import Broker


def settings_with(broker: Broker, kind: str, **config: str) -> Settings:
    """Topics of one's own; that of the predictions is configured so."""
    topics = create_topics(broker.bootstrap_servers, unique_topics())
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in config.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topics.predictions, incremental_configs=entries)
    client = AdminClient({"bootstrap.servers": broker.bootstrap_servers})
    client.incremental_alter_configs([resource])[resource].result(30)
    worker = Worker.model_validate({"group_id": topics.frames, "delivery": kind})
    return Settings(kafka=broker.kafka, topics=topics, worker=worker)


@pytest.mark.parametrize("kind", ["exactly_once", "at_least_once"])
@pytest.mark.parametrize(
    ("config", "value", "setting"),
    [
        ({"cleanup_policy": "compact"}, b"small", "cleanup.policy=delete"),
        ({"max_message_bytes": "1000"}, random.Random(1).randbytes(5_000), "max.message.bytes="),
    ],
    ids=["compacted", "size"],
)
def test_what_no_worker_can_mend_is_named(
    apache_kafka: Broker, kind: str, config: dict[str, str], value: bytes, setting: str
) -> None:
    settings = settings_with(apache_kafka, kind, **config)
    consumer = Consumer(worker_config(settings))
    consumer.subscribe([settings.topics.frames])
    try:
        wait_until(lambda: not consumer.consume(1, 0.05) and bool(consumer.assignment()), "partitions")
        works = delivery(settings, "one", consumer, lambda: False, Metrics(max_batch=32))
        with pytest.raises(KafkaUnusable, match=f"topic {settings.topics.predictions} refuses a record") as ended:
            until_it_ends(works, settings, value)
        assert f"--entity-name {settings.topics.predictions} --add-config {setting}" in str(ended.value)
        works.close()
    finally:
        consumer.close()


def until_it_ends(works: Delivery, settings: Settings, value: bytes) -> None:
    """As a worker does: what was aborted is done again; but not for ever."""

    def tries_in_vain() -> bool:
        try:
            works.produce(settings.topics.predictions, value)
            works.answered(settings.topics.frames, 0, 0)
            return works.commit()
        except Aborted:
            return False

    wait_until(tries_in_vain, "an end", 10)
