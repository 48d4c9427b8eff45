"""The part of a producer that sends records: queues by partition, sequence numbers, repetitions, delivery reports.

Modelled after librdkafka 2.16: a batch whose acknowledgement is lost waits to be sent again under its number; an abort
purges it, and its number goes to the next batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from tests.simulation.broker import Broker
from tests.simulation.network import Connection, Network
from tests.simulation.offsets import Position
from tests.simulation.thread_calls import ThreadCalls
from tests.simulation.world import Process

TRANSPORT, TIMED_OUT = KafkaError._TRANSPORT, KafkaError._TIMED_OUT
#: Answers after which a request is sent again.
PASSING = {
    int(TRANSPORT),
    int(TIMED_OUT),
    int(KafkaError.NOT_COORDINATOR),
    int(KafkaError.COORDINATOR_NOT_AVAILABLE),
    int(KafkaError.COORDINATOR_LOAD_IN_PROGRESS),
    int(KafkaError.CONCURRENT_TRANSACTIONS),
    int(KafkaError.NOT_ENOUGH_REPLICAS),
}
#: A retry's pause: librdkafka doubles it from 0.1 s on.
BACKOFF_S = 0.1
_LINGER_S = 0.002


Records = list[tuple[bytes | None, bytes | None]]


class Batch:
    """Records of one partition under one sequence number."""

    __slots__ = ("first", "records")

    def __init__(self, first: int, records: Records) -> None:
        self.first = first
        self.records = records


class Lane:
    """What goes to one partition, in order: one batch is under way at most."""

    __slots__ = ("next", "queued", "registered", "retry", "waiting")

    def __init__(self) -> None:
        self.next = 0
        self.queued: Records = []
        self.waiting: Batch | None = None  # under way
        self.retry: Batch | None = None  # to be sent again
        self.registered = False


class RecordSender:
    """An idempotent producer without transactions; :class:`tests.simulation.producer.SimulatedProducer` adds those."""

    def __init__(
        self, config: dict[str, Any], process: Process, broker: Broker, network: Network, threads: ThreadCalls
    ) -> None:
        self.config = config
        self.process = process
        self.world = process.world
        self.broker = broker
        self.name: str | None = config.get("transactional.id")
        self.pid, self.epoch = (-1, -1) if self.name else (_new_pid(process), 0)
        self._threads = threads
        self._data = Connection(network, process)
        self._lanes: dict[Position, Lane] = {}
        self._reports: deque[tuple[KafkaError, Message]] = deque()
        self._on_delivery: Callable[[KafkaError | None, Any], None] | None = config.get("on_delivery")
        self._left = 0  # records whose end is not known
        self._failed_deliveries = False
        self._pumping = False
        self._fatal: KafkaError | None = None
        self._fatal_untold = False

    def __len__(self) -> int:
        return self._left + len(self._reports)

    def produce(self, topic: str, value: Any = None, key: Any = None, headers: Any = None, **_: Any) -> None:
        """Queues a record."""
        if not self.process.alive:
            self._threads.enter("produce")
        if self._fatal:
            raise KafkaException(KafkaError(KafkaError._FATAL, "Local: Fatal error"))
        if not self._may_queue():
            raise KafkaException(KafkaError(KafkaError._STATE, "Local: Erroneous state"))
        position = (topic, _partition_of(key, self.broker.partitions[topic]))
        lane = self._lanes.get(position)
        if lane is None:
            lane = self._lanes[position] = Lane()
        lane.queued.append((key, value))
        self._left += 1
        self._pump_soon(_LINGER_S)

    def poll(self, timeout: float = 0.0) -> int:
        """Serves reports, and raises what has become fatal."""
        self._threads.enter("poll")
        if timeout > 0 and not self._reports:
            self._threads.block(timeout)
        return self._serve()

    def flush(self, timeout: float = -1.0) -> int:
        """Waits for all reports; how many are left."""
        self._threads.enter("flush")
        self._flush(self.world.now + timeout)
        return len(self)

    def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:
        """Drops what is not delivered."""
        self._purge_queues()
        for position, lane in self._lanes.items():
            if lane.waiting is not None:
                self._settle(position, len(lane.waiting.records), KafkaError(KafkaError._PURGE_INFLIGHT))
                lane.waiting = None

    def _flush(self, deadline: float) -> bool:
        while True:
            self._serve()
            if not len(self):
                return True
            left = deadline - self.world.now
            if left <= 0:
                return False
            self._threads.block(left)

    def _serve(self) -> int:
        served = len(self._reports)
        while self._reports:
            error, message = self._reports.popleft()
            if self._on_delivery is not None:
                self._on_delivery(error, message)
        self._tell_requests()
        if self._fatal_untold and self._fatal:
            self._fatal_untold = False
            raise KafkaException(self._fatal)
        return served

    def _pump_soon(self, delay_s: float) -> None:
        if not self._pumping:
            self._pumping = True
            self.process.later(delay_s, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        if not self._may_send():
            return
        unregistered = set()
        for position, lane in self._lanes.items():
            if not lane.queued and lane.retry is None:
                continue
            if self.name and not lane.registered:
                unregistered.add(position)
            elif lane.waiting is None:
                self._send(position, lane)
        if unregistered:
            self._register(unregistered)

    def _send(self, position: Position, lane: Lane) -> None:
        batch = lane.retry
        if batch is None:
            batch = Batch(lane.next, lane.queued)
            lane.queued = []
            lane.next += len(batch.records)
        lane.retry = None
        lane.waiting = batch
        call = partial(
            self.broker.produce,
            position,
            self.pid,
            self.epoch,
            batch.first,
            batch.records,
            self.name,
            self.process.name,
        )
        self._data.send("Produce", call, partial(self._sent, position, lane, batch))

    def _sent(self, position: Position, lane: Lane, batch: Batch, error: int, _: object) -> None:
        if lane.waiting is not batch:
            return  # purged
        lane.waiting = None
        if not error:
            self._settle(position, len(batch.records), None)
            self._pump_soon(0.0)
        elif error in PASSING:
            if not self._may_send():
                # It waits to be sent again, and the abort purges it: its numbers go to the next ones.
                lane.next = batch.first
                self._settle(position, len(batch.records), KafkaError(KafkaError._PURGE_QUEUE))
            else:
                lane.retry = batch
                self._pump_soon(BACKOFF_S)
        else:
            self._settle(position, len(batch.records), KafkaError(error))
            if not self.name:
                lane.next = batch.first
                self._pump_soon(BACKOFF_S)
            elif error == KafkaError.INVALID_PRODUCER_EPOCH:
                self._die(error, "ProduceRequest failed: transactional producer fenced by newer producer instance")
            else:
                self._fail(error, "ProduceRequest failed", bump=True)

    def _settle(self, position: Position, count: int, error: KafkaError | None) -> None:
        self._left -= count
        if error is not None:
            self._failed_deliveries = True
            topic, partition = position
            self._reports.extend([(error, Message(topic=topic, partition=partition))] * count)
        self._threads.wake_all()

    def _purge_queues(self) -> None:
        for position, lane in self._lanes.items():
            count = len(lane.queued)
            lane.queued = []
            if lane.retry is not None:
                count += len(lane.retry.records)
                lane.next = lane.retry.first
                lane.retry = None
            if count:
                self._settle(position, count, KafkaError(KafkaError._PURGE_QUEUE))

    def _may_queue(self) -> bool:
        return True

    def _may_send(self) -> bool:
        return True

    def _register(self, positions: set[Position]) -> None:
        """Has partitions added to the transaction."""

    def _tell_requests(self) -> None:
        """Writes what has been logged meanwhile."""

    def _fail(self, error: int, why: str, bump: bool = False) -> None:
        """Only transactions can fail."""

    def _die(self, error: int, why: str) -> None:
        """Only what can be fenced can die."""


def _partition_of(key: object, count: int) -> int:
    return sum(key) % count if isinstance(key, bytes) else 0


def _new_pid(process: Process) -> int:
    process.world.producer_ids += 1
    return 10_000 + process.world.producer_ids
