"""The part of a consumer that reads its assigned partitions: where they start, and what is fetched of them.

Modelled after librdkafka 2.16's ``rdkafka_assignment.c`` and ``rdkafka_partition.c``: starting positions are asked for
as stable offsets, for all that wait together; where the assignment has changed before an answer
``UNSTABLE_OFFSET_COMMIT`` comes, the question is given up, and the partition starts by ``auto.offset.reset``, as if
nothing had ever been committed. An answer to where a log begins or ends that comes after a seek has the client ask
anew, half a second later, and go there nevertheless (issue 2256).
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

from confluent_kafka import OFFSET_END, OFFSET_INVALID, KafkaError, Message

from tests.simulation.broker import Broker
from tests.simulation.network import Connection, Network, Reply
from tests.simulation.offsets import UNSTABLE, Position
from tests.simulation.partition_log import Record
from tests.simulation.thread_calls import ThreadCalls
from tests.simulation.world import Process

#: A pause before a request is repeated.
BACKOFF_S = 0.1
#: The pause after an answer to where a log begins or ends that came too late (``rd_kafka_toppar_offset_retry``).
_OUTDATED_S = 0.5
#: How long the broker may let that question wait: behind a fetch on the same connection (``fetch.wait.max.ms``).
_BEHIND_FETCH_S = 0.1
#: What one fetch brings of a partition at most.
_FETCHED = 8


class Fetched:
    """One assigned partition: where it stands, and what was fetched of it."""

    __slots__ = ("fetching", "next", "paused", "position", "state", "told_end", "version")

    def __init__(self) -> None:
        self.state = "pending"  # then queried or, where it is told where to start, starting and looked up; then started
        self.position = -1  # of the fetcher
        self.next = -1  # of the application
        self.told_end = -1
        self.version = 0
        self.paused = False
        self.fetching = False


class PartitionReader:
    """Assigned partitions of one topic; :class:`tests.simulation.consumer.SimulatedConsumer` assigns them."""

    def __init__(
        self, config: dict[str, Any], process: Process, broker: Broker, network: Network, threads: ThreadCalls
    ) -> None:
        self.config = config
        self.process = process
        self.world = process.world
        self.broker = broker
        self.connection = Connection(network, process)
        self._leader = Connection(network, process)
        self.topic = ""
        self.assigned: dict[int, Fetched] = {}
        self.closed = False
        self._threads = threads
        self._queue: deque[tuple[int, int, int, Record | KafkaError]] = deque()
        self._version = 0  # of the assignment
        self._reset: str = config.get("auto.offset.reset", "latest")
        self._tells_ends = bool(config.get("enable.partition.eof"))
        self._stable = config.get("isolation.level") == "read_committed"

    def _changed(self) -> None:
        self._version += 1
        self._query()

    def _query(self) -> None:
        if any(fetched.state == "queried" for fetched in self.assigned.values()):
            return
        pending = {number: fetched for number, fetched in self.assigned.items() if fetched.state == "pending"}
        if pending:
            for fetched in pending.values():
                fetched.state = "queried"
            self._send_query(pending, self._version)

    def _send_query(self, queried: dict[int, Fetched], version: int) -> None:
        if self.closed:
            return
        positions = [(self.topic, number) for number in queried]
        call = partial(self.broker.fetch_offsets, positions, self._stable)
        self.connection.send("OffsetFetch", call, partial(self._queried, queried, version))

    def _queried(
        self, queried: dict[int, Fetched], version: int, error: int, found: dict[Position, tuple[int, int, str]]
    ) -> None:
        unstable = not error and any(one == UNSTABLE for _, one, _ in found.values())
        if error or (unstable and version == self._version):
            self.process.later(BACKOFF_S, partial(self._send_query, queried, version))
            return
        for number, fetched in queried.items():
            if self.assigned.get(number) is fetched and fetched.state == "queried":
                # An unstable one, after a change: as if nothing had been committed. That is librdkafka's fault.
                offset, _, _ = found[self.topic, number]
                if offset == OFFSET_INVALID:
                    log = self.broker.logs[self.topic, number]
                    offset = 0 if self._reset == "earliest" else len(log.records)
                    self.world.tell(self.process.name, "partition", number, "starts by auto.offset.reset at", offset)
                self._start(number, fetched, offset)
        self._query()

    def _start(self, number: int, fetched: Fetched, offset: int) -> None:
        fetched.state = "started"
        fetched.position = fetched.next = offset
        fetched.told_end = -1
        fetched.version += 1
        fetched.fetching = False
        self._queue = deque(one for one in self._queue if one[0] != number)
        self._fetch(number, fetched)

    def _start_at(self, number: int, fetched: Fetched, offset: int) -> None:
        """Starts at an offset that was given, a logical one perhaps."""
        fetched.state = "starting"

        def start() -> None:
            if self.assigned.get(number) is fetched and fetched.state == "starting":
                if offset >= 0:
                    self._start(number, fetched, offset)
                else:
                    self._look_up(number, fetched, offset)

        self.process.later(self.world.uniform(0.001, 0.01), start)

    def _look_up(self, number: int, fetched: Fetched, logical: int) -> None:
        """Asks the broker where the log begins or ends, and goes there."""
        fetched.state, version = "looked up", fetched.version

        def is_outdated() -> bool:
            return fetched.version != version

        def tell(reply: Reply) -> None:
            log = self.broker.logs[self.topic, number]
            self.world.later(
                self.world.uniform(0.0, _BEHIND_FETCH_S),
                lambda: reply(0, log.last_stable if logical == OFFSET_END else 0),
            )

        def answered(error: int, offset: int) -> None:
            if self.assigned.get(number) is not fetched:
                return
            if error or is_outdated():
                self.world.tell(self.process.name, "partition", number, "asks once more for its", logical)
                fetched.state, retried = "asks again", fetched.version
                self.process.later(_OUTDATED_S, lambda: again(retried))
            else:
                fetched.state, fetched.position = "started", offset
                fetched.fetching, fetched.told_end = False, -1
                self._fetch(number, fetched)

        def again(retried: int) -> None:
            if self.assigned.get(number) is fetched and fetched.state == "asks again" and fetched.version == retried:
                self._look_up(number, fetched, logical)

        self._leader.send("ListOffsets", tell, answered)

    def _more(self, position: Position) -> None:
        topic, number = position
        fetched = self.assigned.get(number) if topic == self.topic else None
        if fetched is not None:
            self._fetch(number, fetched)

    def _fetch(self, number: int, fetched: Fetched) -> None:
        if fetched.state != "started" or fetched.fetching or fetched.paused or self.closed:
            return
        if fetched.position < self.broker.logs[self.topic, number].last_stable:
            fetched.fetching = True
            self.process.later(
                self.world.uniform(0.001, 0.012), partial(self._arrive, number, fetched, fetched.version)
            )

    def _arrive(self, number: int, fetched: Fetched, version: int) -> None:
        if version != fetched.version or fetched.state != "started" or self.assigned.get(number) is not fetched:
            return
        fetched.fetching = False
        if self.process.silent:  # cut off: no data
            self.process.later(0.1, partial(self._fetch, number, fetched))
            return
        records, fetched.position = self.broker.logs[self.topic, number].committed(fetched.position, _FETCHED)
        self._queue.extend((number, version, offset, record) for offset, record in records)
        if self._tells_ends and fetched.position >= self.broker.logs[self.topic, number].last_stable:
            self._tell_end(number, fetched)
        if records:
            self._threads.wake_all()
        self._fetch(number, fetched)

    def _tell_end(self, number: int, fetched: Fetched) -> None:
        if fetched.told_end != fetched.position:
            fetched.told_end = fetched.position
            end = KafkaError(KafkaError._PARTITION_EOF)
            self._queue.append((number, fetched.version, fetched.position, end))
            self._threads.wake_all()

    def _take(self, found: list[Message], count: int) -> None:
        queue = self._queue
        while queue and len(found) < count:
            number, version, offset, record = queue.popleft()
            fetched = self.assigned.get(number)
            if number >= 0 and (fetched is None or fetched.version != version or fetched.paused):
                continue
            if isinstance(record, KafkaError):
                found.append(Message(topic=self.topic, partition=number, offset=offset, error=record))
                continue
            assert fetched is not None
            fetched.next = offset + 1
            found.append(
                Message(
                    topic=self.topic,
                    partition=number,
                    offset=offset,
                    key=record.key,
                    value=record.value,
                    timestamp=(1, round(record.at_s * 1000)),
                )
            )
