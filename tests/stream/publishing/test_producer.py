"""The one producer of frames: what it refuses, and that each frame's fate is told, against the embedded broker."""

import pytest

from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Kafka, Settings
from layercache.stream.kafka.clients import RECORD_SLACK_BYTES, KafkaUnusable
from layercache.stream.publishing.producer import FrameProducer, FrameTooLarge
from testbed.ports import free_ports
from testbed.topics import create_topics, unique_topics
from tests.conftest import Broker


@pytest.fixture
def settings(embedded_broker: Broker) -> Settings:
    topics = create_topics(embedded_broker.bootstrap_servers, unique_topics())
    return Settings(kafka=embedded_broker.kafka, topics=topics)


def test_each_frame_is_acknowledged_once(settings: Settings) -> None:
    producer = FrameProducer(settings)
    assert producer.connect()
    done: list[str | None] = []
    for number in range(20):
        producer.produce(b"picture", FrameHeaders(ce_id=str(number)), b"camera-1", done.append)
    assert producer.flush(30) == producer.unacknowledged == 0
    assert done == [None] * 20


def test_size_counts_the_value_the_key_and_the_headers(settings: Settings) -> None:
    producer = FrameProducer(settings)
    room = settings.topics.max_record_bytes - RECORD_SLACK_BYTES
    done: list[str | None] = []
    producer.produce(bytes(room - 14), FrameHeaders(ce_id="12345"), b"1234", done.append)  # the header's name has 5
    with pytest.raises(FrameTooLarge, match=r"4,995,905 bytes, and the topic takes 5,000,000: .*max_record_bytes"):
        producer.produce(bytes(room - 13), FrameHeaders(ce_id="12345"), b"1234", done.append)
    assert producer.flush(30) == 0
    assert done == [None]


@pytest.mark.patient
def test_frames_that_no_broker_takes_are_told_with_the_reason() -> None:
    (port,) = free_ports(1)
    options: dict[str, str | int | float | bool] = {"delivery.timeout.ms": 500}
    kafka = Kafka(bootstrap_servers=f"127.0.0.1:{port}", producer_options=options)
    producer = FrameProducer(Settings(kafka=kafka))
    done: list[str | None] = []
    producer.produce(b"picture", FrameHeaders(), None, done.append)
    assert producer.flush(30) == 0
    (why,) = done
    assert why is not None and "timed out" in why, why
    producer.produce(b"picture", FrameHeaders(), None, done.append)
    producer.purge()
    assert (len(done), done[1] is None, producer.unacknowledged) == (2, False, 0)
    with pytest.raises(KafkaUnusable, match="no answer from Kafka"):
        producer.connect()
