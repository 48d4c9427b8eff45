"""How far worker and trainer are behind, as the broker knows it; and so whether the broker answers at all."""

import time
from collections.abc import Iterable
from typing import Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from layercache.dashboard.board import Board
from layercache.dashboard.state import GroupLag
from layercache.dashboard.tail import tail_config
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import KafkaUnusable, Troubles, consumer_config, describe_error, is_hopeless
from layercache.stream.kafka.offsets import PartitionLag, TopicOffsets
from layercache.stream.kafka.reach import connect, no_answer

_PROBE_S, _POLL_S = 2.0, 0.1


class GroupWatch:
    """Asks about one group and its topic, by consumers that join nothing."""

    def __init__(self, settings: Settings, who: Literal["workers", "trainer"], board: Board) -> None:
        is_workers = who == "workers"
        self._who = who
        self.group = settings.worker.group_id if is_workers else settings.trainer.group_id
        self._topic = settings.topics.frames if is_workers else settings.topics.distillation
        self._settings = settings
        self._board = board
        self._troubles = Troubles()
        self._asking: tuple[Consumer, TopicOffsets] | None = None
        self._probing: Consumer | None = None
        self._before: dict[int, PartitionLag] = {}
        self._empty: dict[int, PartitionLag] = {}
        """Partitions of which is known that nothing but markers is left, and at which state."""

    def look(self) -> GroupLag | None:
        """Asks once; None where the broker does not answer, or may not be asked, which the board then says."""
        try:
            found = self._ask()
        except KafkaUnusable as error:
            self._board.put("broker", f"answer {self.group}", str(error))
            return None
        except KafkaException as error:
            self._complain(error)
            return None
        self._board.clear("broker", f"answer {self.group}")
        self._board.clear("topics", self.group)
        return found

    def close(self) -> None:
        """Leaves the broker."""
        for consumer in (self._asking[0] if self._asking else None, self._probing):
            if consumer is not None:
                consumer.close()

    def _ask(self) -> GroupLag | None:
        if self._asking is None:
            # Where committed offsets are to be stable, asking waits for every transaction over them: one of a worker
            # that was killed stays open for seconds.
            config = consumer_config(self._settings, self.group, isolation_level="read_uncommitted")
            consumer = connect(Consumer, config, self._troubles)
            self._asking = consumer, TopicOffsets(consumer, self._topic)
        lags = {one.partition: one for one in self._asking[1].lags()}
        if not lags:
            return None  # there is no such topic: the follower that reads it reports that
        unmoved = [one for one in lags.values() if one.lag and one == self._before.get(one.partition)]
        self._look_closer([one for one in unmoved if one != self._empty.get(one.partition)])
        self._before = lags
        shown = tuple(_nothing_left(one) if one == self._empty.get(one.partition) else one for one in lags.values())
        return GroupLag(who=self._who, group=self.group, topic=self._topic, partitions=shown)

    def _look_closer(self, lags: Iterable[PartitionLag]) -> None:
        """A lag that stands still may be none: at the end of a partition lie the markers of transactions.

        No reader is given those, so no group acknowledges them; a reader comes to the end without having met a record.
        """
        waiting = {one.partition: one for one in lags if one.committed is not None}
        if not waiting:
            return
        if self._probing is None:
            # Earliest: what was committed may have been deleted since, and from the end nothing would seem to be left.
            config = tail_config(self._settings, auto_offset_reset="earliest", fetch_wait_max_ms=50)
            config["enable.partition.eof"] = True
            self._probing = connect(Consumer, config, Troubles())
        places = [TopicPartition(self._topic, one.partition, one.committed or 0) for one in waiting.values()]
        deadline = time.monotonic() + _PROBE_S
        self._probing.assign(places)
        try:
            while waiting and time.monotonic() < deadline:
                message = self._probing.poll(_POLL_S)
                if message is None or message.partition() not in waiting:
                    continue
                error, partition = message.error(), message.partition() or 0
                if error is None:
                    del waiting[partition]
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._empty[partition] = waiting.pop(partition)
        finally:
            self._probing.unassign()
        if waiting:  # one that knew another topic of the name may never read this one (FrameConsumer.rejoin)
            self._probing.close()
            self._probing = None

    def _complain(self, error: KafkaException) -> None:
        cause = error.args[0]
        if is_hopeless(cause):  # it answers, and refuses
            self._board.put(
                "topics", self.group, f"the lag of group {self.group} cannot be read: {describe_error(cause)}"
            )
        else:
            self._board.put("broker", f"answer {self.group}", no_answer(self._settings, self._troubles))


def _nothing_left(one: PartitionLag) -> PartitionLag:
    return PartitionLag(partition=one.partition, committed=one.committed, end=one.end, lag=0)
