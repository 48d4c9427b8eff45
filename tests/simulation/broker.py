"""The broker: topics, one group, and the transaction coordinator, as requests reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError

from tests.simulation.classic_group import ClassicGroup
from tests.simulation.consumer_group import ConsumerGroup
from tests.simulation.network import Reply
from tests.simulation.offsets import Committed, Offsets, Position
from tests.simulation.partition_log import PartitionLog, Record
from tests.simulation.transaction_coordinator import TransactionCoordinator
from tests.simulation.world import Process, World

NOT_COORDINATOR = int(KafkaError.NOT_COORDINATOR)
LOADING = int(KafkaError.COORDINATOR_LOAD_IN_PROGRESS)
NOT_ENOUGH_REPLICAS = int(KafkaError.NOT_ENOUGH_REPLICAS)

Batch = list[tuple[bytes | None, bytes | None]]


class Broker:
    """Serves requests at once; whatever takes time is the network's, or a marker's that waits to be written."""

    def __init__(
        self,
        world: World,
        topics: dict[str, int],
        frames: str,
        kip848: bool,
        session_s: float,
        heartbeat_s: float,
        rebalance_s: float,
        cleanup_s: float,
    ) -> None:
        self._world = world
        self.heartbeat_s = heartbeat_s
        self.session_s = session_s
        self.logs: dict[Position, PartitionLog] = {
            (topic, number): PartitionLog() for topic, count in topics.items() for number in range(count)
        }
        self.partitions = topics
        self.transactions = TransactionCoordinator(world, self, cleanup_s)
        self.offsets = Offsets(lambda pid, epoch: self.transactions.has(pid, epoch, None))
        group = ConsumerGroup if kip848 else ClassicGroup
        self.group: ClassicGroup | ConsumerGroup = group(world, topics[frames], session_s, heartbeat_s, rebalance_s)
        #: until when each coordinator is away, and what it answers meanwhile
        self._away: dict[str, tuple[float, int]] = {}
        self.on_more: list[Callable[[Position], None]] = []

    def fail_over(self, coordinator: str, seconds: float, error: int) -> None:
        """``group`` or ``transactions`` moves: it answers with the ``error`` for so long, and forgets nothing."""
        self._away[coordinator] = (self._world.now + seconds, error)

    def heal(self) -> None:
        """Both coordinators are back."""
        self._away.clear()

    def away(self, coordinator: str) -> int:
        """The error with which the coordinator answers just now, 0 where it works."""
        until_s, error = self._away.get(coordinator, (0.0, 0))
        return error if self._world.now < until_s else 0

    def publish(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """A record of somebody outside of the simulation."""
        log = self.logs[topic, partition]
        log.append(-1, 0, len(log.records), [(key, value)], False, "publisher", self._world.now)
        self._more((topic, partition))

    def produce(
        self,
        position: Position,
        pid: int,
        epoch: int,
        first: int,
        batch: Batch,
        name: str | None,
        writer: str,
        reply: Reply,
    ) -> None:
        """Produce: one batch for one partition; ``name`` is the transactional id."""
        log = self.logs[position]
        if name is not None and pid not in log.open and (error := self.transactions.has(pid, epoch, position)):
            busy = error == KafkaError.CONCURRENT_TRANSACTIONS
            return reply(NOT_ENOUGH_REPLICAS if busy else error, None)
        error = log.append(pid, epoch, first, batch, name is not None, writer, self._world.now)
        if name is None and not error:
            self._more(position)
        return reply(error, None)

    def transactional(self, call: Callable[..., Any], *arguments: Any) -> Callable[[Reply], None]:
        """A request to the transaction coordinator."""

        def arrive(reply: Reply) -> None:
            error = self.away("transactions")
            if error:
                reply(error, None)
            else:
                call(*arguments, reply)

        return arrive

    def commit(self, member: tuple[str, int, str | None], offsets: Committed, reply: Reply) -> None:
        """OffsetCommit."""
        error = self.away("group") or self.group.check(*member)
        if not error:
            self.offsets.commit(offsets)
        reply(error, None)

    def commit_in_transaction(
        self, pid: int, epoch: int, member: tuple[str, int, str | None], offsets: Committed, reply: Reply
    ) -> None:
        """TxnOffsetCommit (KIP-447)."""
        error = self.away("group") or self.group.check(*member)
        error = error or self.offsets.commit_in_transaction(pid, epoch, offsets)
        reply(error, None)

    def fetch_offsets(self, positions: list[Position], stable: bool, reply: Reply) -> None:
        """OffsetFetch."""
        error = self.away("group")
        reply(error, None if error else self.offsets.fetch(positions, stable))

    def join(
        self, id_: str, instance: str | None, owned: frozenset[int], generation: int, process: Process, reply: Reply
    ) -> None:
        """JoinGroup, of the classic protocol."""
        if error := self.away("group"):
            return reply(error, None)
        assert isinstance(self.group, ClassicGroup)
        return self.group.join(id_, instance, owned, generation, process, reply)

    def sync(self, id_: str, generation: int, reply: Reply) -> None:
        """SyncGroup, of the classic protocol."""
        if error := self.away("group"):
            return reply(error, None)
        assert isinstance(self.group, ClassicGroup)
        return reply(*self.group.sync(id_, generation))

    def leave(self, id_: str, reply: Reply) -> None:
        """LeaveGroup."""
        self.group.leave(id_)
        reply(0, None)

    def heartbeat(
        self, id_: str, instance: str | None, epoch: int, owned: frozenset[int] | None, process: Process, reply: Reply
    ) -> None:
        """ConsumerGroupHeartbeat, of KIP-848."""
        if error := self.away("group"):
            return reply(error, None)
        assert isinstance(self.group, ConsumerGroup)
        return self.group.heartbeat(id_, instance, epoch, owned, process, reply)

    def end_records(self, partitions: set[Position], pid: int, epoch: int, commit: bool) -> None:
        """Writes the markers of a transaction's end."""
        for position in sorted(partitions):
            self.logs[position].end(pid, epoch, commit)
            self._more(position)

    def end_offsets(self, pid: int, epoch: int, commit: bool) -> None:
        """The same for the offsets."""
        self.offsets.end(pid, epoch, commit)

    def read(self, topic: str) -> dict[int, list[tuple[int, Record]]]:
        """All committed records of a topic, by partition, with their offsets."""
        return {
            number: log.committed(0, len(log.records) + 1)[0]
            for (name, number), log in self.logs.items()
            if name == topic
        }

    def _more(self, position: Position) -> None:
        for tell in self.on_more:
            tell(position)
