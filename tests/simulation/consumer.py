"""A consumer with confluent-kafka's interface and librdkafka's ways, as far as the project's code sees them.

What is modelled, from librdkafka 2.16's sources: rebalances are served within ``consume``; ``seek`` on a partition that
has not started says ``_STATE``; ``committed`` waits beyond its time-out; who is not polled drops out of its group.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, KafkaError, KafkaException, Message, TopicPartition

from tests.simulation.broker import Broker
from tests.simulation.membership import group_metadata, membership
from tests.simulation.network import Network
from tests.simulation.offsets import UNSTABLE, Position, committed_of
from tests.simulation.partition_reader import BACKOFF_S, Fetched, PartitionReader
from tests.simulation.thread_calls import ThreadCalls
from tests.simulation.world import Process

Callback = Callable[[Any, list[TopicPartition]], None]


class SimulatedConsumer(PartitionReader):
    """See the module; ``membership`` makes it a member by the one or the other protocol."""

    def __init__(
        self, config: dict[str, Any], process: Process, broker: Broker, network: Network, threads: ThreadCalls
    ) -> None:
        super().__init__(config, process, broker, network, threads)
        self._operations: deque[tuple[str, frozenset[int], Callable[[], None]]] = deque()
        self._callbacks: dict[str, Callback] = {}
        self.max_poll_s = int(config.get("max.poll.interval.ms", 300_000)) / 1000
        self._polled_s = self.world.now
        self._polling = False
        self._applied = False
        self.membership = membership(self)

    # What applications call

    def subscribe(self, topics: list[str], on_assign: Callback, on_revoke: Callback, on_lost: Callback) -> None:
        """Joins the group."""
        (self.topic,) = topics
        self._callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost}
        self.broker.on_more.append(self._more)
        self.membership.join()
        self._watch_polls()

    def consume(self, num_messages: int = 1, timeout: float = -1.0) -> list[Message]:
        """Serves rebalances, then hands out what was fetched."""
        self._threads.enter("consume")
        world = self.world
        self._polled_s = world.now
        self._polling = True
        deadline = world.now + timeout
        found: list[Message] = []
        try:
            while True:
                self._serve()
                self._take(found, num_messages)
                left = deadline - world.now
                if len(found) >= num_messages or left <= 0:
                    return found
                self._threads.block(left, idle=not found)
        finally:
            self._polled_s = world.now
            self._polling = False

    def poll(self, timeout: float = -1.0) -> Message | None:
        """One message."""
        found = self.consume(1, timeout)
        return found[0] if found else None

    def seek(self, position: TopicPartition) -> None:
        """Reads on from there."""
        self._threads.enter("seek")
        partition = self.assigned.get(position.partition)
        if partition is None or partition.state in _NOT_STARTED or self._threads.fails("seek"):
            raise KafkaException(KafkaError(KafkaError._STATE, "Failed to seek: Local: Erroneous state"))
        self._start(position.partition, partition, position.offset)

    def assignment(self) -> list[TopicPartition]:
        """What is assigned."""
        return [TopicPartition(self.topic, number) for number in self.assigned]

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        """Adds to the assignment; positions may be given."""
        self._applied = True
        for one in partitions:
            fetched = self.assigned[one.partition] = Fetched()
            if one.offset in (OFFSET_BEGINNING, OFFSET_END) or one.offset >= 0:
                self._start_at(one.partition, fetched, one.offset)
        self._changed()

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        """Takes from the assignment."""
        self._applied = True
        for one in partitions:
            self.assigned.pop(one.partition, None)
        self._changed()

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Hands out nothing of these."""
        for one in partitions:
            if fetched := self.assigned.get(one.partition):
                fetched.paused = True

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Hands out these again, from where they were paused."""
        for one in partitions:
            fetched = self.assigned.get(one.partition)
            if fetched is not None and fetched.paused:
                fetched.paused = False
                if fetched.state == "started":
                    self._start(one.partition, fetched, fetched.next)

    def memberid(self) -> str:
        """The id that the group knows this member by; empty where it is none."""
        return self.membership.id

    def consumer_group_metadata(self) -> bytes:
        """For :meth:`SimulatedProducer.send_offsets_to_transaction`."""
        member = self.membership
        return group_metadata(member.id, member.generation, member.instance)

    def committed(self, partitions: list[TopicPartition], timeout: float = -1.0) -> list[TopicPartition]:
        """Stable offsets; asks again while they are not, and now and then overstays its time-out."""
        self._threads.enter("committed")
        outcome: list[dict[Position, tuple[int, int, str]]] = []
        self._ask([(one.topic, one.partition) for one in partitions], outcome, self._threads.waker())
        deadline = self.world.now + timeout + (2.0 if self._threads.fails("committed") else 0.0)
        while not outcome:
            if self.world.now >= deadline:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "Failed to get committed offsets"))
            self._threads.block(deadline - self.world.now)
        return [
            TopicPartition(topic, number, offset, metadata)
            for (topic, number), (offset, _, metadata) in outcome[0].items()
        ]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool = False) -> list[TopicPartition]:
        """OffsetCommit; waits for the answer."""
        assert not asynchronous
        self._threads.enter("commit")
        outcome: list[int] = []
        wake = self._threads.waker()
        wanted = committed_of(offsets)

        def answered(error: int, _: object) -> None:
            if error in _RETRIED:
                self.process.later(BACKOFF_S, send)
            else:
                outcome.append(error)
                wake()

        def send() -> None:
            member = self.membership
            who = (member.id, member.generation, member.instance)
            self.connection.send("OffsetCommit", partial(self.broker.commit, who, wanted), answered)

        send()
        while not outcome:
            self._threads.block(3600.0)
        if outcome[0]:
            raise KafkaException(KafkaError(outcome[0], retriable=outcome[0] in _PASSING))
        return offsets

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float = 0.0, cached: bool = False
    ) -> tuple[int, int] | None:
        """Where the log begins, and ends for readers of committed records; None where no answer comes."""
        if not cached:
            self._threads.enter("get_watermark_offsets")
            self._threads.block(self.world.uniform(0.001, 0.01))
            if self.process.silent or self._threads.fails("get_watermark_offsets"):
                self._threads.block(timeout)
                return None
        return 0, self.broker.logs[partition.topic, partition.partition].last_stable

    def close(self) -> None:
        """Has everything revoked, and leaves the group."""
        self._threads.enter("close")
        if self.closed:
            raise RuntimeError("Consumer closed")
        if self.assigned:
            self._operations.clear()
            self._operations.append(("revoke", frozenset(self.assigned), lambda: None))
            self._serve()
        self.closed = True
        if self._callbacks:
            self.broker.on_more.remove(self._more)
            self.membership.leave()

    # What its background threads do

    def operate(self, what: str, partitions: frozenset[int], then: Callable[[], None]) -> None:
        """Queues a rebalance for the application: assign, revoke or lost; ``then`` is done once it was served."""
        if not self.closed:
            self._operations.append((what, partitions, then))
            self._threads.wake_all()

    @property
    def rebalancing(self) -> bool:
        """True while the application has a rebalance to serve."""
        return bool(self._operations)

    def drop_operations(self) -> None:
        """What was queued is void: the membership that it was about is over."""
        self._operations.clear()

    def fail(self, error: KafkaError) -> None:
        """Tells the application by a message."""
        self._queue.append((-1, 0, 0, error))
        self._threads.wake_all()

    def _serve(self) -> None:
        while self._operations:
            what, partitions, then = self._operations.popleft()
            numbers = [TopicPartition(self.topic, number) for number in sorted(partitions)]
            if what != "assign":
                numbers = [one for one in numbers if one.partition in self.assigned]
            self.world.tell(self.process.name, what, sorted(partitions))
            self._applied = False
            self._callbacks[what](self, numbers)
            if not self._applied:  # then the binding does it
                (self.incremental_assign if what == "assign" else self.incremental_unassign)(numbers)
            then()

    def _ask(
        self, positions: list[Position], outcome: list[dict[Position, tuple[int, int, str]]], wake: Callable[[], None]
    ) -> None:
        def answered(error: int, found: dict[Position, tuple[int, int, str]]) -> None:
            if error or any(one == UNSTABLE for _, one, _ in found.values()):
                self.process.later(BACKOFF_S, send)
            else:
                outcome.append(found)
                wake()

        def send() -> None:
            self.connection.send("OffsetFetch", partial(self.broker.fetch_offsets, positions, True), answered)

        send()

    def _watch_polls(self) -> None:
        if self.closed:
            return
        if not self._polling and self.world.now - self._polled_s > self.max_poll_s:
            self.world.tell(self.process.name, "was not polled for", self.max_poll_s, "s")
            self.fail(KafkaError(KafkaError._MAX_POLL_EXCEEDED, "Application maximum poll interval exceeded"))
            self.membership.drop_out()
            self._polled_s = self.world.now
        left = max(0.05, self._polled_s + self.max_poll_s - self.world.now)
        self.process.later(left + 0.01, self._watch_polls)


#: States in which a partition cannot be sent elsewhere (``RD_KAFKA_TOPPAR_FETCH_IS_STARTED``).
_NOT_STARTED = ("pending", "queried", "starting")
_RETRIED: Sequence[int] = (
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
)
_PASSING = (*_RETRIED, KafkaError.REBALANCE_IN_PROGRESS)
