"""A transactional producer with confluent-kafka's interface and librdkafka's ways.

What is modelled, from librdkafka 2.16's ``rdkafka_txnmgr.c``: its states; calls that time out and are resumed; requests
that are repeated in silence, EndTxn among them, which only the lines of ``debug=protocol`` tell; errors that are fatal,
abortable or passing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from confluent_kafka import KafkaError, TopicPartition

from tests.simulation.broker import Broker
from tests.simulation.membership import read_group_metadata
from tests.simulation.network import Connection, Network
from tests.simulation.offsets import Position, committed_of
from tests.simulation.record_sender import BACKOFF_S, PASSING, TIMED_OUT
from tests.simulation.thread_calls import ThreadCalls
from tests.simulation.transactional_calls import (
    ABORT_NOT_ACKED,
    ABORTABLE,
    ABORTING,
    BEGIN_ABORT,
    BEGIN_COMMIT,
    COMMIT_NOT_ACKED,
    COMMITTING,
    FATAL_ERRORS,
    IN_TRANSACTION,
    INIT,
    READY,
    READY_NOT_ACKED,
    WAIT_PID,
    TransactionalCalls,
    error_of,
)
from tests.simulation.world import Process


class SimulatedProducer(TransactionalCalls):
    """See the module."""

    def __init__(
        self, config: dict[str, Any], process: Process, broker: Broker, network: Network, threads: ThreadCalls
    ) -> None:
        super().__init__(config, process, broker, network, threads)
        self._timeout_s = int(config.get("transaction.timeout.ms", 60_000)) / 1000
        self._coordinator = Connection(network, process)
        self._group = Connection(network, process)
        self._transaction = 0
        self._requests = 0  # of this transaction, that the coordinator may have seen
        self._registering = False
        self._initialising = False

    def init_transactions(self, timeout: float = -1.0) -> None:
        """InitProducerId."""
        self._begin_call("init_transactions")
        deadline = self.world.now + timeout
        if self.state == INIT:
            self.state = WAIT_PID
        elif self.state not in (WAIT_PID, READY_NOT_ACKED):
            self._end_call(self._wrong_state())
        if self.state == WAIT_PID and not self._initialising:
            self._initialising = True
            self._initialise(None)
        self._wait_for(lambda: self.state not in (WAIT_PID,), deadline, "init_transactions timed out")
        if self._fatal:
            self._end_call(self._fatal)
        self.state = READY
        self._end_call(None)

    def begin_transaction(self) -> None:
        """From now on records belong to a new transaction."""
        self._begin_call("begin_transaction")
        if self.state != READY:
            self._end_call(self._wrong_state())
        self.state = IN_TRANSACTION
        self._transaction += 1
        self._requests = 0
        self._error = None
        self._failed_deliveries = False
        self._end_call(None)

    def send_offsets_to_transaction(
        self, positions: list[TopicPartition], group_metadata: bytes, timeout: float = -1.0
    ) -> None:
        """AddOffsetsToTxn, then TxnOffsetCommit. Looks at its time-out when an answer comes, and only then."""
        self._begin_call("send_offsets_to_transaction")
        if self.state != IN_TRANSACTION:
            self._end_call(self._wrong_state())
        who = read_group_metadata(group_metadata)
        offsets = committed_of(positions)
        deadline = self.world.now + timeout
        self._requests += 1
        transaction = self._transaction
        call = self.broker.transactional(self.broker.transactions.add_offsets, self.name, self.pid, self.epoch)

        def add() -> None:
            self._request(self._coordinator, "AddOffsetsToTxn", call, added)

        def added(error: int, _: object) -> None:
            if transaction != self._transaction or self._fatal:
                return
            if error in PASSING:
                if self.world.now < deadline:
                    self.process.later(BACKOFF_S, add)
                else:
                    self._answer(error_of(error, "Failed to add offsets to transaction", retriable=True))
            elif error in FATAL_ERRORS:
                self._die(error, "Failed to add offsets to transaction")
            elif error:
                self._fail(error, "Failed to add offsets to transaction")
            else:
                commit()

        def commit() -> None:
            request = partial(self.broker.commit_in_transaction, self.pid, self.epoch, who, offsets)
            self._request(self._group, "TxnOffsetCommit", request, committed)

        def committed(error: int, _: object) -> None:
            if transaction != self._transaction or self._fatal:
                return
            if error in PASSING and self.world.now < deadline:
                self.process.later(0.5, commit)
            elif error in FATAL_ERRORS:
                self._die(error, "Failed to commit offsets to transaction")
            elif error:
                self._fail(error, "Failed to commit offsets to transaction")
            else:
                self._answer(None)

        add()
        self._wait_for(lambda: bool(self._result), None, "")
        self._end_call(self._result[0])

    def commit_transaction(self, timeout: float = -1.0) -> None:
        """Flushes, then EndTxn."""
        self._begin_call("commit_transaction")
        deadline = self.world.now + timeout if timeout >= 0 else self.world.now + self._timeout_s
        if self.state == IN_TRANSACTION:
            self.state = BEGIN_COMMIT
            self._pump_soon(0.0)
        elif self.state not in (BEGIN_COMMIT, COMMITTING, COMMIT_NOT_ACKED):
            self._end_call(self._wrong_state())
        if not self._flush(deadline):
            self._end_call(
                error_of(TIMED_OUT, "Failed to flush all outstanding messages", retriable=True), resumable=True
            )
        if self.state == BEGIN_COMMIT:
            if self._failed_deliveries:
                self._fail(int(KafkaError._INCONSISTENT), "message(s) failed delivery")
                self._end_call(self._wrong_state())
            self.state = COMMITTING
            self._end(commit=True)
        self._finish(COMMIT_NOT_ACKED, COMMITTING, deadline)

    def abort_transaction(self, timeout: float = -1.0) -> None:
        """Purges what is queued, waits for what is under way, then EndTxn."""
        self._begin_call("abort_transaction")
        deadline = self.world.now + timeout if timeout >= 0 else self.world.now + self._timeout_s
        if self.state in (IN_TRANSACTION, ABORTABLE):
            self.state = BEGIN_ABORT
        elif self.state not in (BEGIN_ABORT, ABORTING, ABORT_NOT_ACKED):
            self._end_call(self._wrong_state())
        if self.state == BEGIN_ABORT:
            self._purge_queues()
        if not self._flush(deadline):
            self._end_call(
                error_of(TIMED_OUT, "Failed to flush all outstanding messages", retriable=True), resumable=True
            )
        if self.state == BEGIN_ABORT:
            self.state = ABORTING
            self._end(commit=False)
        self._finish(ABORT_NOT_ACKED, ABORTING, deadline)

    # Inside

    def _finish(self, ended: str, ending: str, deadline: float) -> None:
        self._wait_for(lambda: self.state != ending, deadline, "the transaction's end timed out")
        if self.state != ended:
            self._end_call(self._wrong_state() if not self._result else self._result[0])
        self.state = READY
        for lane in self._lanes.values():
            lane.registered = False
        self._bump = False
        self._end_call(None)

    def _initialise(self, bump_of: tuple[int, int] | None) -> None:
        transactions = self.broker.transactions

        def send() -> None:
            call = self.broker.transactional(transactions.init, self.name, self._timeout_s, bump_of)
            self._request(self._coordinator, "InitProducerId", call, answered)

        def answered(error: int, value: tuple[int, int]) -> None:
            if error in PASSING:
                self.process.later(BACKOFF_S, send)
            elif error:
                self._die(error, "Failed to acquire a producer id")
            else:
                self.pid, self.epoch = value
                for lane in self._lanes.values():
                    lane.next = 0
                self._bump = False
                if self.state == WAIT_PID:
                    self.state = READY_NOT_ACKED
                elif self.state in (BEGIN_ABORT, ABORTING):
                    self.state = ABORT_NOT_ACKED
                self._threads.wake_all()

        send()

    def _may_queue(self) -> bool:
        return self.state == IN_TRANSACTION

    def _may_send(self) -> bool:
        return self.state in (IN_TRANSACTION, BEGIN_COMMIT)

    def _register(self, positions: set[Position]) -> None:
        if self._registering:
            return
        self._registering = True
        self._requests += 1
        transaction = self._transaction
        call = self.broker.transactional(
            self.broker.transactions.add_partitions, self.name, self.pid, self.epoch, positions
        )

        def answered(error: int, _: object) -> None:
            self._registering = False
            if transaction != self._transaction or self.state not in (IN_TRANSACTION, BEGIN_COMMIT):
                self._pump_soon(0.0)
                return
            if not error:
                for position in positions:
                    self._lanes[position].registered = True
                self._pump_soon(0.0)
            elif error in PASSING:
                self._pump_soon(0.02 if error == KafkaError.CONCURRENT_TRANSACTIONS else 0.3)
            elif error in FATAL_ERRORS:
                self._die(error, "Failed to add partitions to transaction")
            else:
                bump = error == KafkaError.INVALID_PRODUCER_ID_MAPPING
                self._fail(error, "Failed to add partitions to transaction", bump)

        self._request(self._coordinator, "AddPartitionsToTxn", call, answered)

    def _end(self, commit: bool) -> None:
        if not self._requests:  # no partitions registered: nothing to end
            self.state = COMMIT_NOT_ACKED if commit else ABORT_NOT_ACKED
            return
        call = self.broker.transactional(self.broker.transactions.end, self.name, self.pid, self.epoch, commit)
        transaction = self._transaction
        ending = COMMITTING if commit else ABORTING

        def send() -> None:
            self._request(self._coordinator, "EndTxn", call, answered)

        def answered(error: int, _: object) -> None:
            if transaction != self._transaction or self.state != ending:
                return
            if not error:
                if self._bump and not commit:
                    self._initialise((self.pid, self.epoch))
                    return
                self.state = COMMIT_NOT_ACKED if commit else ABORT_NOT_ACKED
                self._threads.wake_all()
            elif error in PASSING:
                self.process.later(BACKOFF_S, send)
            elif error in FATAL_ERRORS:
                self._die(error, "Failed to end transaction")
            else:
                if not commit:
                    self.state = BEGIN_ABORT
                self._fail(error, "Failed to end transaction")

        send()
