"""The generation in librdkafka's metadata of a member."""

from confluent_kafka import Consumer

from layercache.stream.worker.delivery.group_metadata import generation_of


def test_librdkafka_still_writes_metadata_in_the_format_that_is_read() -> None:
    """Fails where a newer one does not: generations that a member has missed would then go unnoticed."""
    consumer = Consumer({"bootstrap.servers": "localhost:1", "group.id": "group", "log_level": 0})
    try:
        assert generation_of(consumer.consumer_group_metadata()) == -1
    finally:
        consumer.close()
