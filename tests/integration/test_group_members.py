"""Workers of different models that share a group are told of each other, by Apache Kafka."""

import logging
from typing import Any

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from layercache.doctor import groups
from layercache.schemas.settings import Settings, Trainer, Worker
from layercache.stream.kafka.clients import worker_config
from layercache.stream.worker.members import GroupCheck, client_id, named_clients
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from tests.conftest import Broker

OLD, NEW = "3f9a52c1e0b7d4aa", "81c0ffee00112233"


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_workers_of_two_models_in_one_group_are_told(
    apache_kafka: Broker, caplog: pytest.LogCaptureFixture, protocol: Any
) -> None:
    names = create_topics(apache_kafka.bootstrap_servers, unique_topics())
    settings = Settings(
        kafka=apache_kafka.kafka,
        topics=names,
        worker=Worker(group_id=names.frames, group_protocol=protocol),
        trainer=Trainer(group_id=f"{names.frames}-trainer"),
    )
    consumers: list[Consumer] = []

    def join(fingerprint: str) -> None:
        name = client_id(fingerprint, f"worker-{len(consumers)}")
        consumer = named_clients(name).consumer(worker_config(settings))
        consumers.append(consumer)
        consumer.subscribe([names.frames])
        wait_until(lambda: all([one.consume(1, 0.1) or one.assignment() for one in consumers]), "all have partitions")

    def models(fingerprint: str | None = None) -> tuple[str, str]:
        [found] = [one for one in groups.check(settings, fingerprint) if one.check == "models"]
        return found.state, found.found

    caplog.set_level(logging.WARNING)
    try:
        assert models() == ("ok", f"group {names.frames} has no members just now")
        join(OLD)
        assert GroupCheck(settings, OLD, lambda: True).look() == []
        assert models(OLD) == ("ok", f"workers in group {names.frames}: 1, of model 3f9a52c1e0b7")
        assert models(NEW)[0] == "warning"
        assert models(NEW)[1].endswith("these settings name model 81c0ffee0011")
        join(NEW)
        state, found = models(OLD)
        assert state == "warning"
        assert "2, of model 3f9a52c1e0b7, 81c0ffee0011: each frame is answered by one" in found
        assert "another model" not in caplog.text
        others = GroupCheck(settings, NEW, lambda: True).look()
        if protocol == "classic":
            assert others == ["3f9a52c1e0b7"]
            assert "has workers of another model, 3f9a52c1e0b7, beside this one's, 81c0ffee0011" in caplog.text
    finally:
        for consumer in consumers:
            consumer.close()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_new_partitions_are_noticed_within_half_a_minute(apache_kafka: Broker, protocol: Any) -> None:
    """With librdkafka's own interval of 300 s it took 260 s."""
    names = create_topics(apache_kafka.bootstrap_servers, unique_topics())
    worker = Worker(group_id=names.frames, group_protocol=protocol)
    consumer = Consumer(worker_config(Settings(kafka=apache_kafka.kafka, topics=names, worker=worker)))
    consumer.subscribe([names.frames])

    def assigned() -> int:
        consumer.consume(1, 0.1)
        return len(consumer.assignment())

    try:
        wait_until(lambda: assigned() > 0, "its partitions")
        more = assigned() + 1
        client = AdminClient({"bootstrap.servers": apache_kafka.bootstrap_servers})
        client.create_partitions([NewPartitions(names.frames, more)])[names.frames].result(30)
        wait_until(lambda: assigned() == more, "the new partition", seconds=30)
    finally:
        consumer.close()
