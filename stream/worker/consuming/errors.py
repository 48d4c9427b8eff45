"""What the errors of a consumer's clients mean: the worker ends by those that no waiting cures, and logs the others."""

import logging
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError

from layercache.stream.kafka.clients import (
    REPLACED,
    KafkaUnusable,
    describe_error,
    is_hopeless,
    is_replaced,
    missing_topics,
)
from layercache.stream.kafka.throttle import Throttle

log = logging.getLogger(__name__)


class ConsumerErrors:
    """Judges the errors of one topic's clients: raises :class:`KafkaUnusable`, or logs one of a kind now and then."""

    def __init__(self, topic: str, clock: Callable[[], float]) -> None:
        self._topic = topic
        self._throttle = Throttle(clock=clock)

    def reading_failed(self, error: KafkaError) -> None:
        """The reading client got this error in place of a frame."""
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            raise KafkaUnusable(missing_topics([self._topic], "the broker"))
        if is_replaced(error):
            raise KafkaUnusable(f"{REPLACED} ({error.str()})")
        self._end_if_hopeless(error)
        if self._throttle.passes(error.code()):
            log.warning("reading %s: %s; waiting", self._topic, error.str())

    def seek_failed(self, partition: int, offset: int, error: KafkaError) -> None:
        """Most often ``_STATE``: the client has not begun to read the partition yet."""
        self._end_if_hopeless(error)
        if self._throttle.passes(("seek", error.code())):
            log.info("partition %d cannot go to offset %d yet: %s", partition, offset, error.str())

    def question_failed(self, partitions: Sequence[int], error: KafkaError) -> None:
        """The broker did not tell where these partitions begin."""
        # A topic that is being made anew is unknown for a moment. Where it stays away, the reading client gets an
        # error of its own.
        if is_hopeless(error) and error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART and partitions:
            raise KafkaUnusable(f"cannot ask where partitions {partitions} begin: {describe_error(error)}")
        if partitions and self._throttle.passes("no answer"):
            log.warning(
                "the broker does not tell yet where partitions %s begin (%s); a transaction over their offsets may "
                "still be open, of a worker that was killed; waiting", partitions, error.str(),
            )  # fmt: skip

    def _end_if_hopeless(self, error: KafkaError) -> None:
        if is_hopeless(error):
            raise KafkaUnusable(f"cannot read {self._topic}: {describe_error(error)}")
