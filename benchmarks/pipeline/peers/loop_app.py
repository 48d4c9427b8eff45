"""The do-nothing job as a bare loop on confluent-kafka, with transactions: the ceiling for anything from Python."""

import time
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer

from benchmarks.pipeline.peers.job import Config, frame_id, nothing

_READ_AT_ONCE = 10_000


def main() -> None:
    config = Config.from_arguments()
    consumer = Consumer(
        {
            "bootstrap.servers": config.servers, "group.id": config.group, "auto.offset.reset": "earliest",
            "enable.auto.commit": False, "isolation.level": "read_committed",
            # with the default of 1,000 it sleeps a second each time that its queue was full
            "fetch.queue.backoff.ms": 2,
        }
    )  # fmt: skip
    producer = Producer(
        {
            "bootstrap.servers": config.servers, "transactional.id": config.group, "linger.ms": 2,
            "compression.type": "zstd", "delivery.report.only.error": True, "queue.buffering.max.messages": 1_000_000,
        }
    )  # fmt: skip
    producer.init_transactions(30)
    consumer.subscribe([config.frames])
    encode = msgspec.json.Encoder().encode
    while True:
        ends = time.monotonic() + config.commit_interval_ms / 1000
        producer.begin_transaction()
        while (left := ends - time.monotonic()) > 0:
            for message in consumer.consume(_READ_AT_ONCE, min(left, 0.01)):
                headers: Any = message.headers()  # the stub allows a dictionary, which no consumer returns
                prediction = encode(nothing(frame_id(headers)))
                producer.produce(config.predictions, prediction, message.key())
            producer.poll(0)
        positions = [at for at in consumer.position(consumer.assignment()) if at.offset >= 0]
        if positions:
            producer.send_offsets_to_transaction(positions, consumer.consumer_group_metadata())
        producer.commit_transaction()


if __name__ == "__main__":
    main()
