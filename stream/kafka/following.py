"""Following topics outside of any consumer group: from their end, their beginning or near the end, for as long as one
likes.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import Config, Troubles, consumer_config, is_hopeless
from layercache.stream.kafka.offsets import watermarks
from layercache.stream.kafka.reach import PATIENCE_S, cluster, connect, partitions_of, unreadable

log = logging.getLogger(__name__)

_METADATA_S, _REQUEST_S, _POLL_S = 1.0, 5.0, 0.1
#: How often a follower looks for partitions that were added.
_PARTITIONS_EVERY_S = 30.0

Partition = tuple[str, int]
"""A topic and the number of one of its partitions."""


def follow(
    settings: Settings,
    topic: str | Sequence[str],
    stop: threading.Event,
    from_beginning: bool = False,
    ready: Callable[[int], None] = lambda partitions: None,
    partitions_every_s: float = _PARTITIONS_EVERY_S,
) -> Iterator[Message | None]:
    """The committed records of a topic or several, as they come; None whenever there was none for a moment.

    Starts at the end or the beginning; calls ``ready`` with the number of partitions once every later record is sure to
    be seen. Joins no group, so no other reader gets fewer records. Ends when ``stop`` is set. Partitions that are added
    later are read from their beginning; ``partitions_every_s`` is how often, in seconds, to look for them.

    Raises :class:`~layercache.stream.kafka.clients.KafkaUnusable` where the broker cannot be reached or has no such
    topic.
    """
    topics = [topic] if isinstance(topic, str) else topic
    before_end = None if from_beginning else 0
    follower = TopicFollower(settings, topics, before_end, partitions_every_s=partitions_every_s)
    try:
        if not (partitions := follower.open(stop.is_set)):
            return
        ready(partitions)
        while not stop.is_set():
            yield next(iter(follower.read(1, _POLL_S)), None)
    finally:
        follower.close()


class TopicFollower:
    """Reads the committed records of ``topics`` as they come, and takes none away from any other reader.

    It begins ``before_end`` records before the end, of all partitions of a topic together, or with None at the
    beginning. Partitions that are added later are read from their beginning. After :meth:`close` it may be opened
    again, and goes on where it was; a topic that was made anew meanwhile is begun as at first.

    Every method may raise :class:`~layercache.stream.kafka.clients.KafkaUnusable`, and where another attempt may
    succeed :class:`~layercache.stream.kafka.reach.NoAnswer`.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Sequence[str],
        before_end: int | None = 0,
        config: Config | None = None,
        partitions_every_s: float = _PARTITIONS_EVERY_S,
    ) -> None:
        self.topics = tuple(topics)
        self.positions: dict[Partition, int] = {}
        """By partition, the offset that is read next."""
        self._settings = settings
        self._before_end = before_end
        # Assigned by hand, the group is only a name that the client asks for.
        self._config = consumer_config(settings, "layercache-watch") if config is None else config
        self._partitions_every_s = partitions_every_s
        self._look_again = 0.0
        self._troubles = Troubles()
        self._consumer: Consumer | None = None

    def open(self, stopping: Callable[[], bool] = lambda: False, patience_s: float = PATIENCE_S) -> int:
        """Connects, and returns the number of partitions once every later record is sure to be seen.

        0 where ``stopping`` came first. A broker, and each partition's leader, has ``patience_s`` seconds to answer.
        """
        # Not the client of last time: one that knew an earlier topic of this name may never read the new one.
        self._consumer = consumer = connect(Consumer, self._config, self._troubles)
        metadata = cluster(consumer, self._settings, self._troubles, stopping, patience_s)
        if metadata is None:
            return 0
        found = {name: partitions_of(metadata, name, self._settings) for name in self.topics}
        self.positions = {
            (name, number): self._start(consumer, (name, number), len(numbers), patience_s)
            for name, numbers in found.items()
            for number in numbers
        }
        self._assign(consumer)
        self._look_again = time.monotonic() + self._partitions_every_s
        return len(self.positions)

    def read(self, most: int, timeout_s: float) -> list[Message]:
        """Up to ``most`` records, once there are as many or ``timeout_s`` seconds have passed."""
        consumer = self._open_consumer
        if time.monotonic() >= self._look_again:
            self._assign_added(consumer)
            self._look_again = time.monotonic() + self._partitions_every_s
        records = []
        for message in consumer.consume(most, timeout_s):
            if (error := message.error()) is None:
                self.positions[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1
                records.append(message)
            # No group is joined, and yet the client asks for its coordinator; who may not is still shown records.
            elif is_hopeless(error) and error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise unreadable(self.topics, KafkaException(error))
            # Other errors the client cures by itself.
        return records

    def watermarks(self) -> dict[Partition, tuple[int, int]]:
        """By partition, the first offset that is still there, and the one after the last."""
        return {partition: self._watermarks(self._open_consumer, partition, _REQUEST_S) for partition in self.positions}

    def seek(self, positions: Mapping[Partition, int]) -> None:
        """Goes on at these offsets; partitions that are not named go on where they are."""
        self.positions.update(positions)
        self._assign(self._open_consumer)

    def close(self) -> None:
        """Leaves the broker."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    @property
    def _open_consumer(self) -> Consumer:
        if self._consumer is None:
            raise RuntimeError("the follower is not open")
        return self._consumer

    def _start(self, consumer: Consumer, partition: Partition, partitions: int, patience_s: float) -> int:
        """A number for the end: "the end" itself would be looked up later, and miss what comes until then.

        The embedded broker's number is too low where records came in batches: following then begins with the latest
        batch.
        """
        before = self.positions.get(partition)
        if before is None and self._before_end is None:
            return OFFSET_BEGINNING
        low, end = self._watermarks(consumer, partition, patience_s)
        # A topic that was made anew ends before the place where the old one was left.
        if before is not None and low <= before <= end:
            return before
        return low if self._before_end is None else max(low, end - -(-self._before_end // partitions))

    def _watermarks(self, consumer: Consumer, partition: Partition, timeout_s: float) -> tuple[int, int]:
        try:
            return watermarks(consumer, TopicPartition(*partition), timeout_s)
        except KafkaException as error:
            raise unreadable([partition[0]], error) from error

    def _assign(self, consumer: Consumer) -> None:
        consumer.assign([TopicPartition(*partition, offset) for partition, offset in self.positions.items()])

    def _assign_added(self, consumer: Consumer) -> None:
        """Partitions that are not known yet, from their beginning; the others go on where they are.

        Where no broker answers, or one that does not know a topic just now, the next look finds them.
        """
        try:
            known = consumer.list_topics(timeout=_METADATA_S).topics
            found = {(name, number) for name in self.topics if name in known for number in known[name].partitions}
            if added := sorted(found - self.positions.keys()):
                # Not by a new assignment: it would drop what has been fetched, and start all partitions anew.
                consumer.incremental_assign([TopicPartition(*one, OFFSET_BEGINNING) for one in added])
                self.positions.update(dict.fromkeys(added, OFFSET_BEGINNING))
        except KafkaException as error:
            log.debug("looking for new partitions of %s failed: %s", " and ".join(self.topics), error)
