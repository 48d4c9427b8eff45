"""The transaction coordinator, for clients that speak EndTxn below version 5 (KIP-98 and KIP-360, before KIP-890).

An EndTxn names a producer's id and epoch, not a transaction: one that comes late ends whatever is open then.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from confluent_kafka import KafkaError

from tests.simulation.network import Reply
from tests.simulation.world import World

EMPTY, ONGOING = "Empty", "Ongoing"
PREPARE_COMMIT, PREPARE_ABORT = "PrepareCommit", "PrepareAbort"
COMPLETE_COMMIT, COMPLETE_ABORT = "CompleteCommit", "CompleteAbort"

FENCED = KafkaError.INVALID_PRODUCER_EPOCH
CONCURRENT = KafkaError.CONCURRENT_TRANSACTIONS
INVALID_STATE = KafkaError.INVALID_TXN_STATE
UNKNOWN_PID = KafkaError.INVALID_PRODUCER_ID_MAPPING


class Markers(Protocol):
    """Where a transaction's end is written."""

    def end_records(self, partitions: set[tuple[str, int]], pid: int, epoch: int, commit: bool) -> None:
        """Into the logs of these partitions."""

    def end_offsets(self, pid: int, epoch: int, commit: bool) -> None:
        """Into the log of committed offsets."""


class Transaction:
    """What the coordinator knows of one transactional id."""

    __slots__ = ("began", "epoch", "name", "offsets", "partitions", "pid", "state", "timeout_s")

    def __init__(self, name: str, pid: int, timeout_s: float) -> None:
        self.name = name
        self.pid = pid
        self.epoch = -1
        self.state = EMPTY
        self.partitions: set[tuple[str, int]] = set()
        self.offsets = False
        self.timeout_s = timeout_s
        self.began = 0


class TransactionCoordinator:
    """All transactional ids of the cluster.

    ``cleanup_s``: how long after its time-out a transaction may wait for its abort
    (``transaction.abort.timed.out.transaction.cleanup.interval.ms``).
    """

    def __init__(self, world: World, markers: Markers, cleanup_s: float) -> None:
        self._world = world
        self._markers = markers
        self._cleanup_s = cleanup_s
        self.by_name: dict[str, Transaction] = {}
        self.by_pid: dict[int, Transaction] = {}
        #: the longest that writing the markers of an end takes
        self.marker_s = 0.01
        #: transactions that were ended by their time-out
        self.timed_out = 0

    def init(self, name: str, timeout_s: float, bump_of: tuple[int, int] | None, reply: Reply) -> None:
        """InitProducerId: a new epoch, which fences all older ones and aborts what they left open.

        ``bump_of`` is the id and epoch of a producer that asks for its own next epoch (KIP-360).
        """
        transaction = self.by_name.get(name)
        if transaction is None:
            transaction = Transaction(name, 1000 + len(self.by_name), timeout_s)
            self.by_name[name] = self.by_pid[transaction.pid] = transaction
        if bump_of is not None and bump_of != (transaction.pid, transaction.epoch):
            return reply(FENCED, None)
        if transaction.state in (PREPARE_COMMIT, PREPARE_ABORT):
            return reply(CONCURRENT, None)
        if transaction.state == ONGOING:
            transaction.epoch += 1
            self._prepare(transaction, commit=False)
            return reply(CONCURRENT, None)
        transaction.epoch += 1
        transaction.timeout_s = timeout_s
        transaction.state = EMPTY
        transaction.partitions = set()
        transaction.offsets = False
        self._world.tell("broker: epoch", transaction.epoch, "of", name)
        return reply(0, (transaction.pid, transaction.epoch))

    def add_partitions(self, name: str, pid: int, epoch: int, partitions: set[tuple[str, int]], reply: Reply) -> None:
        """AddPartitionsToTxn: opens a transaction where none is open."""
        transaction, error = self._find(name, pid, epoch)
        if transaction is None or error:
            return reply(error, None)
        if transaction.state in (PREPARE_COMMIT, PREPARE_ABORT):
            return reply(CONCURRENT, None)
        self._open(transaction)
        transaction.partitions |= partitions
        return reply(0, None)

    def add_offsets(self, name: str, pid: int, epoch: int, reply: Reply) -> None:
        """AddOffsetsToTxn: the same, for the group's offsets."""
        transaction, error = self._find(name, pid, epoch)
        if transaction is None or error:
            return reply(error, None)
        if transaction.state in (PREPARE_COMMIT, PREPARE_ABORT):
            return reply(CONCURRENT, None)
        self._open(transaction)
        transaction.offsets = True
        return reply(0, None)

    def end(self, name: str, pid: int, epoch: int, commit: bool, reply: Reply) -> None:
        """EndTxn. Told when the decision is in the log; the markers follow."""
        transaction, error = self._find(name, pid, epoch)
        if transaction is None or error:
            return reply(error, None)
        state = transaction.state
        if state == ONGOING:
            self._prepare(transaction, commit)
            return reply(0, None)
        if state == (COMPLETE_COMMIT if commit else COMPLETE_ABORT):
            return reply(0, None)
        if state == (PREPARE_COMMIT if commit else PREPARE_ABORT):
            return reply(CONCURRENT, None)
        return reply(INVALID_STATE, None)

    def has(self, pid: int, epoch: int, partition: tuple[str, int] | None) -> int:
        """Whether a transaction of this producer is open over ``partition``, None being the offsets; an error's code.

        Brokers ask before they write a transaction's first record (KIP-890, part 1).
        """
        transaction = self.by_pid.get(pid)
        if transaction is None:
            return int(UNKNOWN_PID)
        if transaction.epoch != epoch:
            return int(FENCED)
        if transaction.state == ONGOING:
            known = transaction.offsets if partition is None else partition in transaction.partitions
            return 0 if known else int(INVALID_STATE)
        return int(CONCURRENT if transaction.state in (PREPARE_COMMIT, PREPARE_ABORT) else INVALID_STATE)

    def _find(self, name: str, pid: int, epoch: int) -> tuple[Transaction | None, int]:
        transaction = self.by_name.get(name)
        if transaction is None or transaction.pid != pid:
            return None, int(UNKNOWN_PID)
        if transaction.epoch != epoch:
            return transaction, int(FENCED)
        return transaction, 0

    def _open(self, transaction: Transaction) -> None:
        if transaction.state == ONGOING:
            return
        transaction.state = ONGOING
        transaction.partitions = set()
        transaction.offsets = False
        transaction.began += 1
        after_s = transaction.timeout_s + self._world.uniform(0.0, self._cleanup_s)
        self._world.later(after_s, partial(self._time_out, transaction, transaction.began))

    def _time_out(self, transaction: Transaction, began: int) -> None:
        if transaction.state == ONGOING and transaction.began == began:
            self._world.tell("broker: transaction of", transaction.name, "timed out")
            self.timed_out += 1
            transaction.epoch += 1
            self._prepare(transaction, commit=False)

    def _prepare(self, transaction: Transaction, commit: bool) -> None:
        world = self._world
        transaction.state = PREPARE_COMMIT if commit else PREPARE_ABORT
        if world.is_told:
            world.tell("broker:", "commit" if commit else "abort", "of", transaction.name, "epoch", transaction.epoch)
        records_s, offsets_s = world.uniform(0.0, self.marker_s), world.uniform(0.0, self.marker_s)
        pid, epoch = transaction.pid, transaction.epoch
        world.later(records_s, partial(self._markers.end_records, transaction.partitions, pid, epoch, commit))
        world.later(offsets_s, partial(self._markers.end_offsets, pid, epoch, commit))
        world.later(max(records_s, offsets_s), partial(self._complete, transaction, commit))

    def _complete(self, transaction: Transaction, commit: bool) -> None:
        transaction.state = COMPLETE_COMMIT if commit else COMPLETE_ABORT
