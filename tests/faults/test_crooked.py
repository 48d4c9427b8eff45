"""The harness's own record with a crooked header arrives where it says, with all that a frame needs."""

from confluent_kafka import Consumer, Message, TopicPartition

from layercache.stream.kafka.record_headers import headers_of
from testbed.waiting import wait_until
from tests.faults.harness.crooked import partition_of, publish


def test_it_lands_at_the_offset_that_the_broker_named() -> None:
    consumer = Consumer(
        {
            "test.mock.num.brokers": 1,
            "bootstrap.servers": "mock",
            "group.id": "g",
            "allow.auto.create.topics": True,
            "log_level": 0,
        }
    )
    try:
        (broker,) = consumer.list_topics("frames", timeout=10).brokers.values()
        partition = partition_of(b"camera-61", 4)
        offsets = [
            publish(f"{broker.host}:{broker.port}", "frames", partition, b"camera-61", b"picture", str(number))
            for number in (7, 8)
        ]
        assert offsets == [0, 1]
        consumer.assign([TopicPartition("frames", partition, 1)])
        found: list[Message] = []

        def has_come() -> bool:
            found.extend(consumer.consume(1, 0.1))
            return bool(found)

        wait_until(has_come, "the second record", 20)
        assert (found[0].key(), found[0].value(), found[0].offset()) == (b"camera-61", b"picture", 1)
        assert list(headers_of(found[0])) == [("ce_id", b"8")]
    finally:
        consumer.close()
