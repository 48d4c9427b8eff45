"""Whether the trainer keeps up with the distillation topic: asked of the broker in a thread of its own."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from schemas.settings import Settings
from stream.clients import admin_client

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
_REQUEST_S = 5.0
#: The trainer acknowledges what a checkpoint holds, so it is never less behind than the time between two of them.
_CHECKPOINTS = 2


class Offsets(Protocol):
    """What is asked of the broker about one topic, by partition."""

    def committed(self) -> dict[int, int]:
        """Where the trainer would go on; a negative number where it has never committed."""

    def earliest(self) -> dict[int, int]:
        """The first record that is still there."""

    def since(self, timestamp_ms: int) -> dict[int, int | None]:
        """The first record from that time on; None where there is none."""


class TrainerWatch:
    """Says whether records of the distillation topic have waited for the trainer for more than ``max_lag_s`` seconds.

    A trainer that has never been there counts as one that stands still: the topic's retention bounds what waits for
    it. Where the broker does not answer, or may not be asked, the trainer counts as keeping up.
    """

    def __init__(self, offsets: Offsets, max_lag_s: float, clock: Callable[[], float] = time.time) -> None:
        self._offsets = offsets
        self._max_lag_s = max_lag_s
        self._clock = clock
        self._trouble: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_behind = False
        #: How often it has looked: a new number says that ``is_behind`` is news.
        self.looks = 0

    def look(self) -> None:
        """Asks once."""
        try:
            is_behind = self._asked()
            self._trouble = None
        except KafkaException as error:
            is_behind = False
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.warning("cannot see whether the trainer keeps up: %s", error.args[0].str())
        if is_behind != self.is_behind:
            log.info("the trainer %s", "is behind: teaching less" if is_behind else "keeps up again: teaching more")
        self.is_behind = is_behind
        self.looks += 1

    def start(self) -> None:
        """Looks every few seconds."""
        self._thread = threading.Thread(target=self._run, name="trainer-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; one that waits for a broker is left behind."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_S):
            self.look()

    def _asked(self) -> bool:
        committed, earliest = self._offsets.committed(), self._offsets.earliest()
        recent = self._offsets.since(int((self._clock() - self._max_lag_s) * 1000))
        # What retention has deleted waits no more; and where nothing came of late, nobody is in a hurry.
        return any(
            first is not None and first > max(committed.get(partition, 0), earliest.get(partition, 0))
            for partition, first in recent.items()
        )


class TopicOffsets:
    """:class:`Offsets` by an admin client; every method may raise ``KafkaException``."""

    def __init__(self, client: AdminClient, topic: str, group_id: str) -> None:
        self._client = client
        self._topic = topic
        self._group_id = group_id

    def committed(self) -> dict[int, int]:
        asked = [ConsumerGroupTopicPartitions(self._group_id, self._partitions())]
        (answer,) = self._client.list_consumer_group_offsets(asked, request_timeout=_REQUEST_S).values()
        return {partition.partition: partition.offset for partition in answer.result().topic_partitions}

    def earliest(self) -> dict[int, int]:
        return {partition: offset for partition, (offset, _) in self._listed(OffsetSpec.earliest()).items()}  # type: ignore[no-untyped-call]

    def since(self, timestamp_ms: int) -> dict[int, int | None]:
        listed = self._listed(OffsetSpec.for_timestamp(timestamp_ms))
        # Apache Kafka says -1 for both where there is no such record, others only for the timestamp.
        return {partition: offset if min(offset, when) >= 0 else None for partition, (offset, when) in listed.items()}

    def _listed(self, spec: OffsetSpec) -> dict[int, tuple[int, int]]:
        futures = self._client.list_offsets(dict.fromkeys(self._partitions(), spec), request_timeout=_REQUEST_S)
        answers = {partition.partition: future.result() for partition, future in futures.items()}
        return {partition: (answer.offset, answer.timestamp) for partition, answer in answers.items()}

    def _partitions(self) -> list[TopicPartition]:
        known = self._client.list_topics(self._topic, timeout=_REQUEST_S).topics[self._topic].partitions
        return [TopicPartition(self._topic, partition) for partition in known]


def trainer_watch(settings: Settings) -> TrainerWatch:
    """A watch over the trainer that the settings name."""
    offsets = TopicOffsets(admin_client(settings), settings.topics.distillation, settings.trainer.group_id)
    return TrainerWatch(
        offsets, max(settings.worker.distillation_max_lag_s, _CHECKPOINTS * settings.trainer.checkpoint_s)
    )
