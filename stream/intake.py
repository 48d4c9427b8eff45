"""The worker's consumer: frames in, rebalances noticed, and back to where the last commit was."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream.clients import REPLACED, KafkaUnusable, describe_error, is_hopeless, is_replaced, missing_topics
from stream.frames import Frame, frames_of
from stream.metrics import Metrics
from stream.patience import SYSTEM_CLOCK, Clock, Stuck
from stream.throttle import Throttle

log = logging.getLogger(__name__)

_CALL_S = 5.0
#: How often a worker that waits for something else looks what its group wants: rebalances wait no longer for it.
_MEMBERSHIP_S = 1.0
#: Frames that come by such looks and are kept; more are read again.
_MAX_AHEAD = 16


class Owner(Protocol):
    """Who works on the frames, and must know when some are no longer its own. Called within :meth:`Intake.fetch`."""

    def revoked(self, partitions: set[int]) -> None:
        """These go to another worker: commit what was done, forget the rest."""

    def lost(self, partitions: set[int]) -> None:
        """These have gone to another worker already: nothing done on them may be committed."""


class Intake:
    """Frames of one topic, as one member of a consumer group."""

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        owner: Owner,
        give_up: Callable[[], bool],
        metrics: Metrics,
        poll_budget_s: float = float("inf"),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._consumer = consumer
        self._metrics = metrics
        self._clock = clock
        self._topic = topic
        self._owner = owner
        self._give_up = give_up
        self._poll_budget_s = poll_budget_s
        self._polled = clock.now()
        #: read while something else was waited for, and not yet fetched
        self._ahead: list[Frame] = []
        #: assigned partition -> the first offset that we read since it was assigned, None before
        self._first: dict[int, int | None] = {}
        #: the offset that comes next
        self._next: dict[int, int] = {}
        self._throttle = Throttle(clock=clock.now)

    def subscribe(self) -> None:
        """Joins the group."""
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def fetch(self, count: int, timeout_s: float) -> list[Frame]:
        """Up to ``count`` frames; waits up to ``timeout_s`` for all of them. Raises :class:`KafkaUnusable`."""
        if self._ahead:
            frames, self._ahead = self._ahead, []
            return frames
        return self._read(count, timeout_s)

    def keep_membership(self) -> float:
        """Shows the group that this member lives, while its work takes long; returns in how many seconds to come again.

        Serves rebalances like :meth:`fetch`. Without it a batch that takes longer than ``max.poll.interval.ms`` would
        lose its partitions, be read again, and never be done. Raises :class:`KafkaUnusable`.
        """
        every_s = min(_MEMBERSHIP_S, self._poll_budget_s / 4)  # which leaves the most of the budget to a commit
        left = self._polled + every_s - self._clock.now()
        if left > 0:
            return left
        self._ahead += self._read(1, 0)
        if len(self._ahead) > _MAX_AHEAD:
            ahead, self._ahead = self._ahead, []
            for frame in reversed(ahead):
                self._seek(frame.partition, frame.offset)
        return every_s

    def time_left(self) -> float:
        """For how many seconds a call may block before the group must see this member again."""
        return max(0.0, self._polled + self._poll_budget_s - self._clock.now())

    def _read(self, count: int, timeout_s: float) -> list[Frame]:
        self._polled = self._clock.now()
        messages = self._consumer.consume(count, timeout_s)
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._complain(error)
            messages = [message for message in messages if message.error() is None]
        frames = self._ours(frames_of(self._topic, messages))
        self._polled = self._clock.now()
        return frames

    def _ours(self, frames: list[Frame]) -> list[Frame]:
        """Those of partitions that are assigned, from the offset on that comes next there; remembers how far we are."""
        begins = {frame.partition: frame.offset for frame in reversed(frames)}
        if any(not self._is_ours(partition, offset) for partition, offset in begins.items()):
            frames = [frame for frame in frames if self._is_ours(frame.partition, frame.offset)]
            begins = {frame.partition: frame.offset for frame in reversed(frames)}
        for partition, offset in begins.items():
            if self._first[partition] is None:
                self._first[partition] = offset
        self._next.update((frame.partition, frame.offset + 1) for frame in frames)
        return frames

    def rewind(self) -> bool:
        """Goes back to the committed offset of every partition, to where we began where there is none yet.

        False where the broker does not tell them just now: nothing may be answered before it was asked again.
        """
        self._ahead.clear()
        if not self._first:
            return True
        partitions = [TopicPartition(self._topic, partition) for partition in self._first]
        try:
            # It exceeds its own timeout while a transaction over these offsets is open.
            found = self._clock.call_with_timeout(2 * _CALL_S, partial(self._consumer.committed, partitions, _CALL_S))
            for committed in found:
                if committed.error is not None:  # then its offset says nothing
                    raise KafkaException(committed.error)
            for committed in found:
                self._seek(committed.partition, committed.offset)
            return True
        except KafkaException as error:
            if is_hopeless(error.args[0]) or self._give_up():
                raise KafkaUnusable(f"cannot go back to the last commit: {error.args[0].str()}") from error
            self._complain(error.args[0])
        except Stuck as error:
            if self._give_up():
                raise KafkaUnusable("cannot go back to the last commit: the broker does not tell it") from error
            log.warning("waiting for the broker to tell the last commit; a transaction over it may still be open")
        self._read(1, 0.1)  # may bring a rebalance, after which other partitions are ours; frames are read again
        return False

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

    def _is_ours(self, partition: int, offset: int) -> bool:
        return partition in self._first and offset >= self._next.get(partition, OFFSET_BEGINNING)

    def _complain(self, error: KafkaError) -> None:
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            raise KafkaUnusable(missing_topics([self._topic], "the broker"))
        if is_replaced(error):
            raise KafkaUnusable(f"{REPLACED} ({error.str()})")
        if is_hopeless(error):
            raise KafkaUnusable(f"cannot read {self._topic}: {describe_error(error)}")
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
        self._ahead = [frame for frame in self._ahead if frame.partition in self._first]
        if partitions:
            log.info("%s partitions %s; working on %s", how, sorted(_numbers(partitions)), sorted(self._first))


def _numbers(partitions: list[TopicPartition]) -> set[int]:
    return {partition.partition for partition in partitions}
