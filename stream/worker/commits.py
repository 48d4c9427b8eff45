"""Commits of what was answered, and of the notes that :mod:`layercache.stream.worker.caution` wants on the broker."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

from layercache.stream.frames.frame import Frame
from layercache.stream.kafka.clients import KafkaUnusable
from layercache.stream.worker.caution import Caution
from layercache.stream.worker.delivery.delivery import Aborted, Delivery
from layercache.stream.worker.metrics import Metrics

log = logging.getLogger(__name__)


class Commits:
    """Commits through ``delivery`` for one topic of frames.

    ``metadata`` makes what the broker keeps with an offset of its note; ``on_commit`` gets the seconds that each commit
    took. Every method may raise what :class:`layercache.stream.worker.delivery.delivery.Delivery` raises.
    """

    def __init__(
        self,
        topic: str,
        delivery: Delivery,
        caution: Caution,
        metrics: Metrics,
        metadata: Callable[[int], str],
        on_commit: Callable[[float], None],
    ) -> None:
        self._topic = topic
        self._delivery = delivery
        self._caution = caution
        self._metrics = metrics
        self._metadata = metadata
        self._on_commit = on_commit

    def commit(self) -> None:
        """Commits what is open, if anything is."""
        with self._metrics.stage("commit") as stopwatch:
            try:
                offsets = self._delivery.open_offsets()
                committed = self._delivery.commit(self._metadata_of)
                if committed:
                    self._metrics.commits.labels("committed").inc()
                    self._caution.committed(offsets)
            except (Aborted, KafkaUnusable) as error:
                self._caution.uncertain()
                if isinstance(error, Aborted):
                    self._metrics.commits.labels("aborted").inc()
                raise
        if committed:
            self._on_commit(stopwatch.seconds)

    def abort(self) -> None:
        """Takes back what is open, since it can no longer be committed."""
        self._delivery.abort()
        self._metrics.commits.labels("aborted").inc()

    def begin(self, frames: Sequence[Frame]) -> None:
        """Commits notes, where they are still missing, that say that the worker begins with these frames.

        Call this before anything touches the frames: they may end this process.
        """
        if notes := self._caution.begin(frames):
            self._note(notes)
            self.commit()

    def take_back_notes_of(self, partitions: Iterable[int]) -> None:
        """Makes the next commit take the notes of these partitions back, which go to other workers."""
        self._note(self._caution.take_back(partitions))

    def take_all_notes_back(self) -> None:
        """This process did not die of a frame: the next worker need not suspect any. Raises nothing."""
        notes = self._caution.take_back()
        if not notes:
            return
        try:
            self._delivery.abort()
            self._note(notes)
            self.commit()
        except (Aborted, KafkaUnusable) as error:
            log.info("a note stays with the offsets of partitions %s: %s", sorted(notes), error)

    def _note(self, offsets: Mapping[int, int]) -> None:
        """Makes the next commit repeat these committed offsets, with their notes, where it has no newer ones."""
        for partition, offset in offsets.items():
            if partition not in self._delivery.open_offsets():
                self._delivery.answered(self._topic, partition, offset - 1, 0)

    def _metadata_of(self, partition: int) -> str:
        return self._metadata(self._caution.note(partition))
