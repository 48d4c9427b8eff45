"""What the broker tells of a group's committed offsets, asked while another client reads, and never waited for.

A consumer that never joins asks. The client that reads does not: the binding lets one call at a time into a client, and
``committed`` starves while ``consume`` runs. An admin client does not either: it ends the whole process where the
broker goes away while it asks about a group (a failed assertion, confluentinc/librdkafka #4605 and #3663), and where
the broker does not know the group (a segmentation fault, #5040); all seen with 2.16.
"""

import queue
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition

from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import CLIENTS, ClientFactory, admin_client, consumer_config, is_hopeless
from layercache.stream.kafka.waiting import SYSTEM_CLOCK, Clock
from layercache.stream.worker.consuming.positions import PartitionReport

#: How long one question about all partitions may take. While a transaction is open over one of them librdkafka asks on
#: until it has ended, and tells nothing of the others: the client then asks about one partition after the other.
_TOGETHER_S = 1.0
#: How long the question about one partition may take, at first and at most; the time doubles now and then, for brokers
#: that are far away.
_ALONE_S, _ALONE_AT_MOST_S = 0.25, 2.0
_REQUEST_S = 2.0
_STAMP, _BEGAN = "topic-id=", "began="


@dataclass(frozen=True)
class Answer:
    """What is known of a question so far; there may be several for one question."""

    number: int
    topic_id: str | None = None
    """The topic's id as it is now, after its cluster's; None where the broker gives topics none, or did not answer."""
    reports: Mapping[int, PartitionReport] = field(default_factory=dict)
    error: KafkaError | None = None
    """Why the broker told nothing: an error that no waiting cures, or one that has been in the way."""


class CommittedOffsets(Protocol):
    """Asks for the stable committed offsets of one group and topic. Nothing here blocks."""

    @property
    def is_busy(self) -> bool:
        """True while a question is under way; ask no other meanwhile."""

    def ask(self, number: int, partitions: Sequence[int]) -> None:
        """Asks for the topic's id, and about ``partitions``, perhaps none; the answers name ``number``."""

    def answers(self) -> Iterable[Answer]:
        """The answers that have come since the last call."""

    def close(self) -> None:
        """Asks nothing more."""


def stamp(topic_id: str | None, began: int = 0) -> str:
    """The metadata to commit offsets with: the id of their topic, which an offset alone does not say, and a note.

    The note is how many workers began at the offset in a row (:mod:`layercache.stream.worker.caution`).

    >>> stamp("a-cluster/Qn3ZrYrQTIuKnk9Ax4ntsA"), stamp(None)
    ('topic-id=a-cluster/Qn3ZrYrQTIuKnk9Ax4ntsA', '')
    >>> stamp("a-cluster/Qn3ZrYrQTIuKnk9Ax4ntsA", began=2)
    'topic-id=a-cluster/Qn3ZrYrQTIuKnk9Ax4ntsA began=2'
    """
    parts = [f"{_STAMP}{topic_id}"] if topic_id else []
    return " ".join([*parts, f"{_BEGAN}{began}"] if began else parts)


def topic_of(metadata: str | None, topic_id: str | None) -> str | None:
    """The topic id that :func:`stamp` put into the metadata; None where it names no topic of ``topic_id``'s cluster.

    Such is an offset that was committed in another cluster and copied to this one: its topic has another id here.

    >>> here = "a-cluster/Qn3ZrYrQTIuKnk9Ax4ntsA"
    >>> topic_of(stamp("a-cluster/the-old-topic", began=1), here), topic_of(stamp("another/the-old-topic"), here)
    ('a-cluster/the-old-topic', None)
    >>> topic_of("reset by hand", here), topic_of(None, here)
    (None, None)
    """
    said = _part(metadata, _STAMP)
    cluster = (topic_id or "").partition("/")[0]
    return said if said and said.partition("/")[0] == cluster else None


def began_of(metadata: str | None) -> int:
    """The note that :func:`stamp` put into the metadata; 0 for any other.

    >>> began_of(stamp("Qn3ZrYrQTIuKnk9Ax4ntsA", began=2)), began_of(stamp(None)), began_of("began=never")
    (2, 0, 0)
    """
    found = _part(metadata, _BEGAN)
    return int(found) if found and found.isdecimal() else 0


def _part(metadata: str | None, name: str) -> str | None:
    found = [part.removeprefix(name) for part in (metadata or "").split() if part.startswith(name)]
    return found[0] or None if found else None


class CommittedOffsetsClient:
    """:class:`CommittedOffsets` by two clients of its own, one question at a time, each in a thread.

    Needs the rights of a member: read (or describe) on the group, describe on the topic.
    """

    def __init__(self, settings: Settings, clock: Clock = SYSTEM_CLOCK, clients: ClientFactory = CLIENTS) -> None:
        self._topic = settings.topics.frames
        config = consumer_config(settings, settings.worker.group_id)
        # A client that reads committed records asks for stable offsets. It is no member of the group, no static one
        # either.
        config |= {"isolation.level": "read_committed", "log_level": 0}
        config.pop("group.instance.id", None)
        self._consumer = clients.consumer(config)
        self._admin = admin_client(settings, clients=clients)
        self._clock = clock
        self._asking: Future[None] | None = None
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._cluster_id: str | None = None
        self._alone_s = _ALONE_S
        #: partition -> how many questions about it alone were in vain: others come first
        self._in_vain: dict[int, int] = {}

    @property
    def is_busy(self) -> bool:
        return self._asking is not None and not self._asking.done()

    def ask(self, number: int, partitions: Sequence[int]) -> None:
        wanted = list(partitions)
        self._asking = self._clock.start_call(lambda: self._ask(number, wanted))

    def answers(self) -> Iterable[Answer]:
        while not self._answers.empty():
            yield self._answers.get()
        if self._asking is not None and self._asking.done():
            self._asking.result()  # raises what is no error of Kafka's, which nothing else would show

    def close(self) -> None:
        if not self.is_busy:  # a client that waits for a broker is left behind, with its thread
            self._consumer.close()

    def _ask(self, number: int, partitions: list[int]) -> None:
        try:
            topic_id = self._topic_id()
            self._answers.put(Answer(number, topic_id))
            if partitions:
                self._ask_offsets(number, topic_id, partitions)
        except KafkaException as error:
            self._answers.put(Answer(number, error=error.args[0]))

    def _ask_offsets(self, number: int, topic_id: str | None, partitions: list[int]) -> None:
        try:
            reports = self._reports_of(topic_id, partitions, _TOGETHER_S)
        except KafkaException as error:
            if is_hopeless(error.args[0]) or len(partitions) == 1:
                raise
        else:
            self._alone_s, self._in_vain = _ALONE_S, {}
            self._answers.put(Answer(number, topic_id, reports))
            return
        self._in_vain = {partition: self._in_vain.get(partition, 0) for partition in partitions}
        waiting: KafkaError | None = None
        for partition in sorted(partitions, key=self._in_vain.__getitem__):
            try:
                self._answers.put(Answer(number, topic_id, self._reports_of(topic_id, [partition], self._alone_s)))
            except KafkaException as error:
                if is_hopeless(error.args[0]):
                    raise
                waiting = error.args[0]
                self._in_vain[partition] += 1
        if waiting is not None:
            self._alone_s = min(2 * self._alone_s, _ALONE_AT_MOST_S)
            self._answers.put(Answer(number, topic_id, error=waiting))

    def _reports_of(self, topic_id: str | None, partitions: list[int], timeout_s: float) -> dict[int, PartitionReport]:
        """Reports on the partitions of which the broker tells; raises ``KafkaException`` where it tells of none."""
        errors: list[KafkaError] = []
        while (message := self._consumer.poll(0)) is not None:  # nothing is subscribed: these are errors
            errors.append(message.error())  # type: ignore[arg-type]
        if refused := [error for error in errors if is_hopeless(error)]:
            raise KafkaException(refused[0])
        reports = {}
        for one in self._consumer.committed([TopicPartition(self._topic, n) for n in partitions], timeout_s):
            if one.error is not None:  # then its offset says nothing
                errors.append(one.error)
                continue
            low_end = self._watermarks(one.partition)
            if low_end is None:
                errors.append(KafkaError(KafkaError._TIMED_OUT))
                continue
            committed = one.offset if one.offset >= 0 else None
            reports[one.partition] = PartitionReport(
                committed, *low_end, topic_id, topic_of(one.metadata, topic_id), began_of(one.metadata)
            )
        if not reports:
            raise KafkaException(errors[-1])
        return reports

    def _watermarks(self, partition: int) -> tuple[int, int] | None:
        """The log's first offset and its end. Raises ``KafkaException``."""
        place = TopicPartition(self._topic, partition)
        try:
            return self._consumer.get_watermark_offsets(place, _REQUEST_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError._UNKNOWN_PARTITION:
                raise
            # The partition was added just now, and this client would notice only when it next looks at the topic.
            self._consumer.list_topics(self._topic, timeout=_REQUEST_S)
            return self._consumer.get_watermark_offsets(place, _REQUEST_S)

    def _topic_id(self) -> str | None:
        described = self._admin.describe_topics(TopicCollection([self._topic]), request_timeout=_REQUEST_S)
        found = described[self._topic].result().topic_id
        is_any = found.get_most_significant_bits() or found.get_least_significant_bits()
        if not is_any:
            return None
        if self._cluster_id is None:
            self._cluster_id = self._admin.list_topics(self._topic, timeout=_REQUEST_S).cluster_id
        return f"{self._cluster_id}/{found}"
