"""Publishing headers whose names are no text, as producers in other languages can."""

import asyncio
from collections.abc import Sequence
from unittest.mock import patch

from aiokafka import AIOKafkaProducer
from aiokafka.record import default_records

Headers = list[tuple[str, bytes | None]]


class NotUtf8(str):
    """A header's name that goes over the wire as bytes that are not UTF-8."""

    def encode(self, *_: object) -> bytes:
        """The bytes, whatever the text."""
        return b"\xff\xfename"


def publish_with_headers(servers: str, topic: str, value: bytes, records: Sequence[Headers]) -> None:
    """Publishes ``value`` to partition 0 once for each of ``records``, with these headers."""
    # The compiled encoder of aiokafka asks no str how it wants to be encoded.
    slow = default_records._DefaultRecordBatchBuilderPy
    with (
        patch("aiokafka.producer.message_accumulator.DefaultRecordBatchBuilder", slow),
        patch("aiokafka.producer.producer.DefaultRecordBatchBuilder", slow),
    ):
        asyncio.run(_publish(servers, topic, value, records))


async def _publish(servers: str, topic: str, value: bytes, records: Sequence[Headers]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for headers in records:
            await producer.send_and_wait(topic, value, headers=headers, partition=0)
