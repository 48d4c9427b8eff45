"""Watching: following a topic live, outside of any consumer group, and what the latest predictions add up to."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from layercache.schemas.dead_letter import DeadLetterHeaders
from layercache.schemas.frame import FrameHeaders, default_id
from layercache.schemas.prediction import FULL, Prediction
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import KafkaUnusable, Troubles, consumer_config, describe_error, is_hopeless
from layercache.stream.kafka.reach import cluster, connect, partitions_of
from layercache.stream.kafka.record_headers import headers_of

log = logging.getLogger(__name__)

_POLL_S = 0.1
_OFFSETS_S = 10.0
_METADATA_S = 1.0
#: How often to look for partitions that were added.
_PARTITIONS_EVERY_S = 30.0


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
    be seen. Joins no group, so nobody else gets fewer records. Ends when ``stop`` is set. Partitions that are added
    later are read from their beginning; ``partitions_every_s`` is how often, in seconds, to look for them.

    Raises :class:`KafkaUnusable` where the broker cannot be reached or has no such topic.
    """
    troubles = Troubles()
    topics = [topic] if isinstance(topic, str) else topic
    # Assigned by hand, the group is only a name that the client asks for.
    consumer = connect(Consumer, consumer_config(settings, "layercache-watch"), troubles)
    try:
        metadata = cluster(consumer, settings, troubles, stop.is_set)
        if metadata is None:
            return
        partitions = [
            TopicPartition(name, number) for name in topics for number in partitions_of(metadata, name, settings)
        ]
        consumer.assign([_start(consumer, partition, from_beginning) for partition in partitions])
        ready(len(partitions))
        known = {(partition.topic, partition.partition) for partition in partitions}
        look_again = time.monotonic() + partitions_every_s
        while not stop.is_set():
            if time.monotonic() >= look_again:
                _assign_added(consumer, topics, known)
                look_again = time.monotonic() + partitions_every_s
            message = consumer.poll(_POLL_S)
            error = message.error() if message else None
            if error is not None:
                # No group is joined, and yet the client asks for its coordinator; who may not is still shown records.
                if is_hopeless(error) and error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
                    raise KafkaUnusable(f"{' and '.join(topics)} cannot be read: {describe_error(error)}")
                message = None  # the client tries again by itself
            yield message
    finally:
        consumer.close()


def _start(consumer: Consumer, partition: TopicPartition, from_beginning: bool) -> TopicPartition:
    """A number for the end: "the end" itself would be looked up later, and miss what comes until then.

    The embedded broker's number is too low where records came in batches: watching then begins with the latest batch.
    """
    if from_beginning:
        return TopicPartition(partition.topic, partition.partition, OFFSET_BEGINNING)
    try:
        _, end = consumer.get_watermark_offsets(partition, timeout=_OFFSETS_S)
    except KafkaException as error:
        raise KafkaUnusable(f"{partition.topic} cannot be read: {error.args[0].str()}") from error
    return TopicPartition(partition.topic, partition.partition, end)


def _assign_added(consumer: Consumer, topics: Sequence[str], known: set[tuple[str, int]]) -> None:
    """Partitions that are not ``known`` yet, from their beginning; the others go on where they are.

    Where no broker answers, or one that does not know a topic just now, the next look finds them.
    """
    try:
        metadata = consumer.list_topics(timeout=_METADATA_S).topics
        found = {(name, number) for name in topics if name in metadata for number in metadata[name].partitions}
        if added := found - known:
            # Not by a new assignment: it would drop what has been fetched, and start all partitions anew.
            consumer.incremental_assign([TopicPartition(*one, OFFSET_BEGINNING) for one in sorted(added)])
            known |= added
    except KafkaException as error:
        log.debug("looking for new partitions of %s failed: %s", " and ".join(topics), error)


def json_line(value: bytes) -> bytes:
    """A JSON document on one line, as it was otherwise."""
    return msgspec.json.format(value, indent=-1)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter without its picture, as ``watch --dead-letters`` shows it."""

    id: str
    topic: str
    partition: int
    offset: int
    reason: str
    message: str


def read_dead_letter(message: Message) -> DeadLetter:
    """From a record of the dead-letter topic. Raises ``msgspec.ValidationError`` where it is none."""
    raw = headers_of(message)
    told = DeadLetterHeaders.read(raw)
    frame = FrameHeaders.read(raw)
    partition, offset = int(told.partition), int(told.offset)
    return DeadLetter(
        id=frame.ce_id or default_id(told.topic, partition, offset),
        topic=told.topic,
        partition=partition,
        offset=offset,
        reason=told.reason,
        message=told.message,
    )


@dataclass
class Tally:
    """What the predictions seen so far add up to."""

    window: int = 1_000
    """Hit rate over so many latest predictions."""
    rate_s: float = 5.0
    """Predictions per second over so many seconds."""
    total: int = 0
    audited: int = 0
    exits: Counter[str] = field(default_factory=Counter)
    _hits: deque[bool] = field(default_factory=deque)
    _times: deque[float] = field(default_factory=deque)
    _begun: float | None = None

    def add(self, prediction: Prediction, now: float) -> None:
        """Counts one prediction, seen at ``now`` (monotonic seconds)."""
        self.total += 1
        self.audited += prediction.audited
        self.exits[prediction.exit] += 1
        self._hits.append(prediction.exit != FULL)
        if len(self._hits) > self.window:
            self._hits.popleft()
        self._begun = now if self._begun is None else self._begun
        self._times.append(now)
        self._forget(now)

    @property
    def hit_rate(self) -> float:
        """Share of the latest ``window`` predictions, audited ones included, that left at an exit."""
        return sum(self._hits) / len(self._hits) if self._hits else 0.0

    def per_second(self, now: float | None = None) -> float:
        """Predictions per second of late."""
        now = time.monotonic() if now is None else now
        self._forget(now)
        if self._begun is None:
            return 0.0
        span = min(self.rate_s, now - self._begun)
        return len(self._times) / max(span, 1.0)

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - self.rate_s:
            self._times.popleft()
