"""Frames onto a topic, as fast as can be or at a rate, and their predictions back: the two ends of what is measured."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupState,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from layercache.schemas.settings import Topics

#: Cameras that the frames come from: the keys of their records, dealt evenly to partitions.
STREAMS = 16

_PATIENCE_S = 30.0
_ASK_S = 5.0
#: Between two looks at the clock; a rate is kept on average.
_TICK_S = 0.002


@dataclass(frozen=True)
class Load:
    """The frames of a run: ``pictures`` again and again, for ``model``."""

    model: str
    pictures: tuple[bytes, ...]
    content_type: str

    @property
    def frame_bytes(self) -> int:
        """A frame's mean size."""
        return round(sum(map(len, self.pictures)) / len(self.pictures))


class Answer(msgspec.Struct):
    """What every system's prediction says, among other things."""

    id: str
    label: int


decode = msgspec.json.Decoder(Answer).decode


def create_topics(servers: str, topics: Topics) -> None:
    """All topics; predictions bear the broker's time, since not every client's can be relied on."""
    large = {"max.message.bytes": str(topics.max_record_bytes)}
    wanted = [
        NewTopic(topics.frames, topics.partitions, 1, config=large),
        NewTopic(topics.predictions, topics.partitions, 1, config={"message.timestamp.type": "LogAppendTime"}),
        NewTopic(topics.distillation, 1, 1, config=large),
        NewTopic(topics.dead_letters, 1, 1, config=large),
    ]
    admin = _admin(servers)  # its answers end with it
    for created in admin.create_topics(wanted, operation_timeout=_PATIENCE_S).values():
        created.result(_PATIENCE_S)


def delete_topics(servers: str, topics: Topics) -> None:
    """All of them, and whatever a system made beside: it bears the name of one of them."""
    admin = _admin(servers)
    own = (topics.frames, topics.predictions, topics.distillation, topics.dead_letters)
    names = [name for name in admin.list_topics(timeout=_PATIENCE_S).topics if any(one in name for one in own)]
    for deleted in admin.delete_topics(names, operation_timeout=_PATIENCE_S).values():
        deleted.result(_PATIENCE_S)


def assignments(servers: str, group: str) -> list[int]:
    """How many partitions each member of a group has; empty while the group changes, or the broker does not say."""
    admin = _admin(servers)
    try:
        found = admin.describe_consumer_groups([group], request_timeout=_ASK_S)[group].result(2 * _ASK_S)
    except (KafkaException, TimeoutError):  # the first group of all waits for its coordinator
        return []
    if found.state != ConsumerGroupState.STABLE:
        return []
    return [len(member.assignment.topic_partitions) for member in found.members]


def publish(servers: str, topics: Topics, load: Load, count: int, rate: float | None = None) -> None:
    """``count`` frames, ``rate`` a second or as fast as can be.

    A frame's id is its number and when it was published, in nanoseconds: see :func:`published`.
    """
    at_once = {"linger.ms": 0} if rate else {"linger.ms": 20, "batch.size": 1_000_000}
    producer = Producer({"bootstrap.servers": servers, "message.max.bytes": 5_000_000, **at_once})
    keys = [b"camera-%d" % stream for stream in range(STREAMS)]
    pictures, kind = load.pictures, load.content_type.encode()
    began = time.monotonic()
    for number in range(count):
        if rate:
            while (early := began + number / rate - time.monotonic()) > 0:
                producer.poll(min(early, _TICK_S))
        headers: Any = [("content-type", kind), ("ce_id", b"%08d-%d" % (number, time.time_ns()))]
        stream = number % STREAMS
        while True:
            try:
                producer.produce(
                    topics.frames, pictures[number % len(pictures)], keys[stream], stream % topics.partitions,
                    headers=headers,
                )  # fmt: skip
                break
            except BufferError:
                producer.poll(0.05)
    left = producer.flush(_PATIENCE_S)
    if left:
        raise RuntimeError(f"{left} frames were not published within {_PATIENCE_S:.0f} s")


def published(name: str) -> tuple[int, int]:
    """A frame's number, and when it was published (nanoseconds since the epoch).

    >>> published("00000017-1700000000000000000")
    (17, 1700000000000000000)
    """
    number, _, at = name.partition("-")
    return int(number), int(at)


class Predictions:
    """Reads committed predictions; ``from_end``: those alone that are still to come."""

    def __init__(self, servers: str, topics: Topics, from_end: bool = False) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers, "group.id": f"reader-{topics.predictions}",
                "isolation.level": "read_committed", "enable.auto.commit": False, "fetch.queue.backoff.ms": 2,
                "queued.min.messages": 1_000_000, "fetch.wait.max.ms": 100,
            }
        )  # fmt: skip
        self._partitions = [TopicPartition(topics.predictions, part) for part in range(topics.partitions)]
        for part in self._partitions:
            part.offset = self._end(part) if from_end else OFFSET_BEGINNING
        self._consumer.assign(self._partitions)

    def __enter__(self) -> "Predictions":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def written(self) -> int:
        """Records on the topic, aborted ones and transactions' markers included."""
        return sum(self._end(part) for part in self._partitions)

    def batches(self, quiet_s: float) -> Iterator[Sequence[Message]]:
        """What is there, in batches, until nothing comes for ``quiet_s``."""
        while messages := self._consumer.consume(10_000, quiet_s):
            yield [message for message in messages if message.error() is None]

    def one(self, patience_s: float) -> Message | None:
        """The next one as soon as it can be read."""
        message = self._consumer.poll(patience_s)
        return message if message is not None and message.error() is None else None

    def _end(self, part: TopicPartition) -> int:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                watermarks = self._consumer.get_watermark_offsets(part, _PATIENCE_S)
            except KafkaException:  # a topic that was just made may have no leader yet
                if time.monotonic() > deadline:
                    raise
                self._consumer.poll(0.05)
                continue
            if watermarks is None:
                raise TimeoutError(f"the broker did not say where {part.topic} ends within {_PATIENCE_S:.0f} s")
            return watermarks[1]


def _admin(servers: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": servers, "log_level": 0})
