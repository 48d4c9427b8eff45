"""A reply of the broker is lost, the transaction aborted, and what comes next must still be written."""

import os
import uuid
import zlib
from pathlib import Path

import pytest
from confluent_kafka import Consumer, ElectionType, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from layercache.schemas.settings import Kafka, Settings, Topics, Worker
from layercache.stream.kafka.clients import worker_config
from layercache.stream.kafka.topics import create
from layercache.stream.worker.delivery.transactions import Aborted, Delivery, delivery
from layercache.stream.worker.metrics import Metrics
from testbed.apache_kafka import KafkaCluster
from testbed.topics import unique_topics
from testbed.waiting import wait_until
from testbed.worker_process import reading
from tests.support.require import missing

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

PARTITIONS = 6
#: A slow node keeps what it leads: otherwise another would lead the partition than the one whose replies are lost.
STAYS = {"broker.session.timeout.ms": 120_000}
#: Requests are given up before the records in them: those wait to be sent again when the transaction is aborted.
QUICKLY: dict[str, str | int | float | bool] = {"socket.timeout.ms": 4_000}


def warm_up(cluster: KafkaCluster, topics: Topics) -> None:
    """The first transaction and the first commit make the broker's own topics, by which coordinators are known."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers, "transactional.id": "warms-up"})
    producer.init_transactions(60)
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": "warms-up"})
    consumer.commit(offsets=[TopicPartition(topics.frames, 0, 0)], asynchronous=False)
    consumer.close()


def coordinating_partition(name: str, partitions: int) -> int:
    """The partition whose leader coordinates the group or the transactions of that name.

    Java's ``hashCode``, which has a sign, then its absolute value: not its lower 31 bits, as for a record's key.
    """
    found = 0
    for character in name:
        found = (31 * found + ord(character)) & 0xFFFFFFFF
    return abs(found - (found >> 31 << 32)) % partitions


def leading(cluster: KafkaCluster, topic: str) -> list[int]:
    """The place of the node that leads each partition."""
    return [cluster.nodes.index(leader) for leader in cluster.leaders(topic)]


def group_apart(cluster: KafkaCluster, topic: str) -> tuple[str, int, list[int]] | None:
    """A group whose coordinator is not that of its worker's transactions; its place, and two partitions that it leads.

    None where a single node leads everything, as after the others were slow; then leadership is shared out again.
    """
    groups, transactions = leading(cluster, "__consumer_offsets"), leading(cluster, "__transaction_state")
    leaders = leading(cluster, topic)
    for _ in range(1_000):
        group = f"group-{uuid.uuid4().hex[:8]}"
        node = groups[coordinating_partition(group, len(groups))]
        led = [partition for partition, leader in enumerate(leaders) if leader == node]
        if node != transactions[coordinating_partition(f"{group}-one", len(transactions))] and len(led) > 1:
            return group, node, led[:2]
    client = AdminClient({"bootstrap.servers": cluster.bootstrap_servers})
    client.elect_leaders(ElectionType.PREFERRED).result(30)
    return None


def key_of(partition: int) -> bytes:
    """A key that librdkafka's own partitioner sends there."""
    return next(key for key in (str(n).encode() for n in range(1_000)) if zlib.crc32(key) % PARTITIONS == partition)


def committed_in_the_end(works: Delivery, topic: str, value: bytes, key: bytes, frame: tuple[str, int]) -> None:
    """As a worker does: what was aborted is done again."""

    def is_done() -> bool:
        try:
            works.produce(topic, value, key)
            works.answered(frame[0], 0, frame[1])
            return works.commit()
        except Aborted:
            return False

    wait_until(is_done, "a commit", 90)


def test_what_follows_an_abort_is_written_though_a_reply_was_lost(tmp_path: Path) -> None:
    """Its sequence numbers would be those of the aborted records, and the broker would take it for a repetition."""
    if "KAFKA_HOME" not in os.environ:
        missing("apache-kafka", "set KAFKA_HOME to an unpacked distribution (needs Java 17): replies are swallowed")
    with KafkaCluster(Path(os.environ["KAFKA_HOME"]), tmp_path, properties=STAYS) as cluster:
        wait_until(lambda: is_written(cluster), "leadership shared out among the nodes", 120)


def is_written(cluster: KafkaCluster) -> bool:
    """The test; False where a single node leads everything."""
    topics = unique_topics(PARTITIONS).model_copy(update={"replication": 3})
    direct = Settings(kafka=Kafka(bootstrap_servers=cluster.bootstrap_servers), topics=topics)
    create(direct, wait_s=60)
    warm_up(cluster, topics)
    apart = group_apart(cluster, topics.predictions)
    if apart is None:
        return False
    group, node, (first, partition) = apart
    through = Settings(
        kafka=Kafka(bootstrap_servers=cluster.detour_servers, producer_options=QUICKLY),
        topics=topics,
        worker=Worker(group_id=group, worker_id="one", transaction_timeout_ms=20_000),
    )
    consumer = Consumer(worker_config(through))
    consumer.subscribe([topics.frames])
    looker = Consumer(
        {
            "bootstrap.servers": cluster.bootstrap_servers,
            "group.id": "looks",
            "isolation.level": "read_uncommitted",
        }
    )
    try:
        wait_until(lambda: not consumer.consume(1, 0.1) and bool(consumer.assignment()), "partitions", 60)
        works = delivery(through, "one", consumer, lambda: False, Metrics(max_batch=32))
        key = key_of(partition)
        committed_in_the_end(works, topics.predictions, b"before", key_of(first), (topics.frames, 0))

        def end() -> int:
            found = looker.get_watermark_offsets(TopicPartition(topics.predictions, partition), 20)
            assert found is not None
            return found[1]

        before = end()
        cluster.proxies[node].half_open()
        works.produce(topics.predictions, b"again", key)
        works.answered(topics.frames, 0, 1)
        wait_until(lambda: end() > before, "the record, whose reply is lost", 20)
        with pytest.raises(Aborted):
            works.commit()
        cluster.proxies[node].heal()
        committed_in_the_end(works, topics.predictions, b"again", key, (topics.frames, 1))
        works.close()
        with reading(direct, topics.predictions) as reader:
            reader.read_until(lambda: len(reader.messages) >= 2, "both answers", 20)
            assert sorted(message.value() or b"" for message in reader.messages) == [b"again", b"before"]
        return True
    finally:
        consumer.close()
        looker.close()
