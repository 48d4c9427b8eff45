"""A service waits for its broker, and ends where a topic is missing, since no waiting makes one."""

import logging

import pytest

from layercache.schemas.settings import Kafka, Settings, Topics
from layercache.stream.kafka.clients import KafkaUnusable
from layercache.stream.kafka.reach import wait_for_topics
from testbed.ports import free_ports
from tests.conftest import Broker


def test_a_missing_topic_is_named_with_the_way_out(broker: Broker, topics: Topics) -> None:
    settings = Settings(kafka=broker.kafka)
    assert wait_for_topics(settings, lambda: False, [topics.frames])
    with pytest.raises(KafkaUnusable, match=r"no topic frames-of-nobody at .*`layercache topics create`"):
        wait_for_topics(settings, lambda: False, [topics.frames, "frames-of-nobody"])


def test_a_broker_that_does_not_answer_is_waited_for_until_the_service_shall_stop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    (port,) = free_ports(1)
    settings = Settings(kafka=Kafka(bootstrap_servers=f"127.0.0.1:{port}"))
    assert not wait_for_topics(settings, lambda: bool(caplog.records), ["frames"])
    (line,) = caplog.records
    assert line.getMessage().startswith(f"no answer from Kafka at 127.0.0.1:{port}")
    assert line.getMessage().endswith("trying again")
