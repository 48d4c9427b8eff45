"""Where a topic begins and ends, where a group is in it, and so how far it is behind."""

from collections.abc import Mapping
from typing import Protocol

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

_REQUEST_S = 5.0


class PartitionLag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a group is in one partition."""

    partition: int
    committed: int | None
    """Where the group would go on; None where it has never been."""
    end: int
    """After the last record."""
    lag: int
    """Records still to be read, those that are there no longer not counted."""


def partition_lags(watermarks: Mapping[int, tuple[int, int]], committed: Mapping[int, int]) -> tuple[PartitionLag, ...]:
    """By partition, what is still to be read; what retention has deleted is not.

    A negative offset is what Kafka says of a group that has never been there.

    >>> [one.lag for one in partition_lags({0: (6, 10), 1: (0, 8), 2: (5, 8)}, {0: 4, 1: 8, 2: -1001})]
    [4, 0, 3]
    """
    return tuple(
        PartitionLag(
            partition=partition,
            committed=at if (at := committed.get(partition, -1)) >= 0 else None,
            end=end,
            lag=max(0, end - max(at, low)),
        )
        for partition, (low, end) in sorted(watermarks.items())
    )


class GroupOffsets(Protocol):
    """What the broker knows about one topic and one group, by partition; see :class:`TopicOffsets`."""

    def committed(self) -> dict[int, int]:
        """Where the group would go on; a negative number where it has never committed."""

    def earliest(self) -> dict[int, int]:
        """The first record that is still there."""

    def since(self, timestamp_ms: int) -> dict[int, int | None]:
        """The first record from that time on; None where there is none."""


def is_waiting(offsets: GroupOffsets, timestamp_ms: int) -> dict[int, bool | None]:
    """By partition, whether the group has yet to read the first record from that time on; None where there is none.

    What retention has deleted waits no more.
    """
    committed, earliest = offsets.committed(), offsets.earliest()
    return {
        partition: None if first is None else first > max(committed.get(partition, 0), earliest.get(partition, 0))
        for partition, first in offsets.since(timestamp_ms).items()
    }


def watermarks(consumer: Consumer, partition: TopicPartition, timeout_s: float = _REQUEST_S) -> tuple[int, int]:
    """The first offset that is still there, and the one after the last. Raises ``KafkaException``."""
    found = consumer.get_watermark_offsets(partition, timeout_s)
    if found is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    return found


class TopicOffsets:
    """What the broker knows about one topic and one group, by a consumer that never joins; every method may raise
    ``KafkaException``.

    Not by an admin client: librdkafka ends the whole process by a failed assertion where an admin request about a group
    times out while its broker is away (confluentinc/librdkafka #4605, #3663, in 2.16 still).
    """

    def __init__(self, consumer: Consumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic

    def committed(self) -> dict[int, int]:
        """By partition, where the group would go on; a negative number where it has never committed."""
        while self._consumer.poll(0) is not None:  # nothing is subscribed: these are errors that nothing else reads
            pass
        found = self._consumer.committed(self._partitions(), _REQUEST_S)
        for one in found:
            if one.error is not None:  # then its offset says nothing
                raise KafkaException(one.error)
        return {one.partition: one.offset for one in found}

    def earliest(self) -> dict[int, int]:
        """By partition, the first record that is still there."""
        return {partition: low for partition, (low, _) in self.watermarks().items()}

    def watermarks(self) -> dict[int, tuple[int, int]]:
        """By partition, the first offset that is still there, and the one after the last."""
        return {one.partition: watermarks(self._consumer, one) for one in self._partitions()}

    def lags(self) -> tuple[PartitionLag, ...]:
        """See :func:`partition_lags`; none where there is no such topic."""
        found = self.watermarks()
        return partition_lags(found, self.committed()) if found else ()

    def since(self, timestamp_ms: int) -> dict[int, int | None]:
        """By partition, the first record from that time on; None where there is none."""
        asked = [TopicPartition(self._topic, one.partition, timestamp_ms) for one in self._partitions()]
        found = {}
        for one in self._consumer.offsets_for_times(asked, _REQUEST_S):
            if one.error is not None:
                raise KafkaException(one.error)
            # Without such a record it is OFFSET_END from Apache Kafka, and from others the end itself.
            is_there = 0 <= one.offset < watermarks(self._consumer, one)[1]
            found[one.partition] = one.offset if is_there else None
        return found

    def _partitions(self) -> list[TopicPartition]:
        known = self._consumer.list_topics(self._topic, timeout=_REQUEST_S).topics[self._topic].partitions
        return [TopicPartition(self._topic, partition) for partition in known]
