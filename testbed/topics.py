"""The topics of a test."""

import uuid

from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import PartitionMetadata
from confluent_kafka.cimpl import NewTopic

from layercache.schemas.settings import Topics
from testbed.waiting import wait_until


def create_topics(bootstrap_servers: str, topics: Topics) -> Topics:
    """Creates all four topics and returns their names again."""
    client = AdminClient({"bootstrap.servers": bootstrap_servers})
    config = {"max.message.bytes": str(topics.max_record_bytes)}
    wanted = [
        NewTopic(topics.frames, topics.partitions, 1, config=config),
        NewTopic(topics.predictions, topics.partitions, 1),
        NewTopic(topics.distillation, 1, 1, config=config),
        NewTopic(topics.dead_letters, 1, 1, config=config),
    ]
    for created in client.create_topics(wanted, operation_timeout=30).values():
        created.result(30)
    return topics


def partitions_of(topic: str, client: AdminClient | Consumer) -> dict[int, PartitionMetadata]:
    """A topic's partitions, even just after its creation: other brokers learn of it later than the client."""
    found: dict[int, PartitionMetadata] = {}

    def is_known() -> bool:
        found.update(client.list_topics(topic, timeout=30).topics[topic].partitions)
        return bool(found)

    wait_until(is_known, f"the broker knows {topic}")
    return found


def unique_topics(partitions: int = 2) -> Topics:
    """Names of topics that no other test uses."""
    tag = uuid.uuid4().hex[:8]
    return Topics(
        frames=f"frames-{tag}",
        predictions=f"predictions-{tag}",
        distillation=f"distillation-{tag}",
        dead_letters=f"frames-{tag}.dlq",
        partitions=partitions,
    )
