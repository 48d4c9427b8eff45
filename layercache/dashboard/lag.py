"""How far worker and trainer are behind, by the broker's offsets; this also shows whether the broker answers."""

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
    """Reads the lag of one group in its topic, through consumers that do not join the group."""

    def __init__(self, settings: Settings, who: Literal["workers", "trainer"], board: Board) -> None:
        is_workers = who == "workers"
        self._who = who
        self.group = settings.worker.group_id if is_workers else settings.trainer.group_id
        self._topic = settings.topics.frames if is_workers else settings.topics.distillation
        self._settings = settings
        self._board = board
        self._troubles = Troubles()
        self._offsets: tuple[Consumer, TopicOffsets] | None = None
        self._prober: Consumer | None = None
        self._previous: dict[int, PartitionLag] = {}
        self._markers_only: dict[int, PartitionLag] = {}
        """Lags of partitions where only transaction markers are left to read."""

    def look(self) -> GroupLag | None:
        """Reads the lag once; None where the broker does not answer or refuses, which goes onto the board."""
        try:
            found = self._read()
        except KafkaUnusable as error:
            self._board.put("broker", f"answer {self.group}", str(error))
            return None
        except KafkaException as error:
            self._report(error)
            return None
        self._board.clear("broker", f"answer {self.group}")
        self._board.clear("topics", self.group)
        return found

    def close(self) -> None:
        """Closes both clients."""
        for consumer in (self._offsets[0] if self._offsets else None, self._prober):
            if consumer is not None:
                consumer.close()

    def _read(self) -> GroupLag | None:
        if self._offsets is None:
            # With read_committed the broker answers only once no transaction over the offsets is open, and that of a
            # killed worker stays open for seconds.
            config = consumer_config(self._settings, self.group, isolation_level="read_uncommitted")
            consumer = connect(Consumer, config, self._troubles)
            self._offsets = consumer, TopicOffsets(consumer, self._topic)
        lags = {one.partition: one for one in self._offsets[1].lags()}
        if not lags:
            return None  # the topic does not exist: the thread that reads it reports that
        unmoved = [one for one in lags.values() if one.lag and one == self._previous.get(one.partition)]
        self._probe_for_records([one for one in unmoved if one != self._markers_only.get(one.partition)])
        self._previous = lags
        shown = tuple(
            _without_lag(one) if one == self._markers_only.get(one.partition) else one for one in lags.values()
        )
        return GroupLag(who=self._who, group=self.group, topic=self._topic, partitions=shown)

    def _probe_for_records(self, lags: Iterable[PartitionLag]) -> None:
        """Finds lags that stand still because only transaction markers are left at the end of the partition.

        The broker gives readers no markers, so no group commits past them; a reader reaches the end without a record.
        """
        waiting = {one.partition: one for one in lags if one.committed is not None}
        if not waiting:
            return
        if self._prober is None:
            # Earliest: the committed offset may have been deleted, and from the end a partition would look empty.
            config = tail_config(self._settings, auto_offset_reset="earliest", fetch_wait_max_ms=50)
            config["enable.partition.eof"] = True
            self._prober = connect(Consumer, config, Troubles())
        places = [TopicPartition(self._topic, one.partition, one.committed or 0) for one in waiting.values()]
        deadline = time.monotonic() + _PROBE_S
        self._prober.assign(places)
        try:
            while waiting and time.monotonic() < deadline:
                message = self._prober.poll(_POLL_S)
                if message is None or message.partition() not in waiting:
                    continue
                error, partition = message.error(), message.partition() or 0
                if error is None:
                    del waiting[partition]
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._markers_only[partition] = waiting.pop(partition)
        finally:
            self._prober.unassign()
        if waiting:  # a client that knew an older topic of this name may never read this one (FrameConsumer.rejoin)
            self._prober.close()
            self._prober = None

    def _report(self, error: KafkaException) -> None:
        cause = error.args[0]
        if is_hopeless(cause):  # the broker answers, and refuses
            self._board.put(
                "topics", self.group, f"the lag of group {self.group} cannot be read: {describe_error(cause)}"
            )
        else:
            self._board.put("broker", f"answer {self.group}", no_answer(self._settings, self._troubles))


def _without_lag(one: PartitionLag) -> PartitionLag:
    return PartitionLag(partition=one.partition, committed=one.committed, end=one.end, lag=0)
