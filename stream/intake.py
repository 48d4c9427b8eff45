"""The worker's consumer: frames in, rebalances noticed, and back to where the last commit was."""

import logging
from collections.abc import Callable
from typing import Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream.clients import KafkaUnusable, is_hopeless, missing_topics, told
from stream.frames import Frame
from stream.throttle import Throttle

log = logging.getLogger(__name__)

_CALL_S = 5.0


class Owner(Protocol):
    """Who works on the frames, and must know when some are no longer its own. Called within :meth:`Intake.fetch`."""

    def revoked(self, partitions: set[int]) -> None:
        """These go to another worker: commit what was done, forget the rest."""

    def lost(self, partitions: set[int]) -> None:
        """These have gone to another worker already: nothing done on them may be committed."""


class Intake:
    """Frames of one topic, as one member of a consumer group."""

    def __init__(self, consumer: Consumer, topic: str, owner: Owner, give_up: Callable[[], bool]) -> None:
        self._consumer = consumer
        self._topic = topic
        self._owner = owner
        self._give_up = give_up
        #: assigned partition -> the first offset that we read since it was assigned, None before
        self._first: dict[int, int | None] = {}
        #: the offset that comes next
        self._next: dict[int, int] = {}
        self._throttle = Throttle()

    def subscribe(self) -> None:
        """Joins the group."""
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def fetch(self, count: int, timeout_s: float) -> list[Frame]:
        """Up to ``count`` frames; waits up to ``timeout_s`` for all of them. Raises :class:`KafkaUnusable`."""
        frames = []
        for message in self._consumer.consume(count, timeout_s):
            error = message.error()
            if error is not None:
                self._complain(error)
            elif self._is_ours(message):
                frame = Frame.of(message)
                if self._first[frame.partition] is None:
                    self._first[frame.partition] = frame.offset
                self._next[frame.partition] = frame.offset + 1
                frames.append(frame)
        return frames

    def rewind(self) -> None:
        """Goes back to the committed offset of every partition, to where we began where there is none yet."""
        while self._first:
            partitions = [TopicPartition(self._topic, partition) for partition in self._first]
            try:
                for committed in self._consumer.committed(partitions, _CALL_S):
                    self._seek(committed.partition, committed.offset)
                return
            except KafkaException as error:
                if is_hopeless(error.args[0]) or self._give_up():
                    raise KafkaUnusable(f"cannot go back to the last commit: {error.args[0].str()}") from error
                self._complain(error.args[0])
                self.fetch(1, 0)  # may bring a rebalance, after which other partitions are ours; frames are read again

    def lags(self) -> dict[int, int]:
        """Partition to how many frames are still to be read there, as far as the last fetch told."""
        lags = {}
        for partition, position in self._next.items():
            try:
                low_high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
            except KafkaException:
                continue
            if low_high is not None and low_high[1] >= 0:
                lags[partition] = max(0, low_high[1] - position)
        return lags

    def close(self) -> None:
        """Leaves the group."""
        self._consumer.close()

    def _seek(self, partition: int, committed: int) -> None:
        offset = committed
        if offset < 0:
            first = self._first[partition]
            if first is None:  # nothing was read yet: where it would begin is where it begins
                return
            offset = first
        self._consumer.seek(TopicPartition(self._topic, partition, offset))
        self._next[partition] = offset

    def _is_ours(self, message: Message) -> bool:
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        return partition in self._first and offset >= self._next.get(partition, OFFSET_BEGINNING)

    def _complain(self, error: KafkaError) -> None:
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            raise KafkaUnusable(missing_topics([self._topic], "the broker"))
        if is_hopeless(error):
            raise KafkaUnusable(f"cannot read {self._topic}: {told(error)}")
        if self._throttle.passes(error.code()):
            log.warning("reading %s: %s; waiting", self._topic, error.str())

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        for partition in _numbers(partitions):
            self._first[partition] = None
            self._next.pop(partition, None)
        log.info("assigned partitions %s; working on %s", sorted(_numbers(partitions)), sorted(self._first))

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._owner.revoked(_numbers(partitions))
        self._forget(partitions, "revoked")

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._owner.lost(_numbers(partitions))
        self._forget(partitions, "lost")

    def _forget(self, partitions: list[TopicPartition], how: str) -> None:
        for partition in _numbers(partitions):
            self._first.pop(partition, None)
            self._next.pop(partition, None)
        if partitions:
            log.info("%s partitions %s; working on %s", how, sorted(_numbers(partitions)), sorted(self._first))


def _numbers(partitions: list[TopicPartition]) -> set[int]:
    return {partition.partition for partition in partitions}
