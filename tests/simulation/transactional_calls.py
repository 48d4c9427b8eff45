"""How a transactional producer's calls go: one at a time, resumed after a time-out, ended by errors.

Modelled after ``rd_kafka_txn_curr_api_*`` of librdkafka 2.16, its states and its log lines of ``debug=protocol``.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from tests.simulation.broker import Broker
from tests.simulation.network import Connection, Network, Reply
from tests.simulation.record_sender import TIMED_OUT, TRANSPORT, RecordSender
from tests.simulation.thread_calls import ThreadCalls
from tests.simulation.world import Process

INIT, WAIT_PID, READY_NOT_ACKED, READY = "Init", "WaitPID", "ReadyNotAcked", "Ready"
IN_TRANSACTION, BEGIN_COMMIT, COMMITTING = "InTransaction", "BeginCommit", "CommittingTransaction"
COMMIT_NOT_ACKED, BEGIN_ABORT, ABORTING = "CommitNotAcked", "BeginAbort", "AbortingTransaction"
ABORT_NOT_ACKED, ABORTABLE, FATAL = "AbortedNotAcked", "AbortableError", "FatalError"


FATAL_ERRORS = {
    int(KafkaError.INVALID_PRODUCER_EPOCH),
    int(KafkaError.PRODUCER_FENCED),
    int(KafkaError.INVALID_TXN_STATE),
}


def _normal(error: int) -> int:
    fenced = error in (KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
    return int(KafkaError._FENCED) if fenced else error


def error_of(code: int, why: str, retriable: bool = False) -> KafkaError:
    return KafkaError(code, why, retriable=retriable)


class TransactionalCalls(RecordSender):
    """What the transactional calls have in common."""

    def __init__(
        self, config: dict[str, Any], process: Process, broker: Broker, network: Network, threads: ThreadCalls
    ) -> None:
        super().__init__(config, process, broker, network, threads)
        self.state = INIT
        self._log: Any = config.get("logger") if "protocol" in str(config.get("debug", "")) else None
        self._lines: deque[tuple[str, str]] = deque()
        self._call = ""  # the transactional call that is under way
        self._calling = False
        self._result: list[KafkaError | None] = []
        self._error: KafkaError | None = None  # of the transaction, which makes it abortable
        self._bump = False

    def _begin_call(self, name: str) -> None:
        self._threads.enter(name)
        if self._call and self._call != name:
            raise KafkaException(
                error_of(
                    KafkaError._CONFLICT, f"Conflicting {self._call} API call is already in progress", retriable=True
                )
            )
        if self._calling:
            raise KafkaException(
                error_of(KafkaError._PREV_IN_PROGRESS, f"Simultaneous {name} API calls not allowed", retriable=True)
            )
        self._call, self._calling = name, True
        if self._fatal:
            self._end_call(self._fatal)

    def _end_call(self, error: KafkaError | None, resumable: bool = False) -> None:
        self._calling = False
        if not (resumable and error is not None and error.retriable()):
            self._call = ""
        self._result = []
        if error is not None:
            raise KafkaException(error)

    def _wait_for(self, reached: Callable[[], bool], deadline: float | None, why: str) -> None:
        while not (reached() or self._fatal or self._result):
            left = 3600.0 if deadline is None else deadline - self.world.now
            if left <= 0:
                self._end_call(error_of(TIMED_OUT, why, retriable=True), resumable=True)
            self._threads.block(left)
        if self._fatal:
            self._end_call(self._fatal)

    def _answer(self, error: KafkaError | None) -> None:
        if self._calling or self._call:
            self._result.append(error)
        self._threads.wake_all()

    def _wrong_state(self) -> KafkaError:
        if self._fatal:
            return self._fatal
        if self.state == ABORTABLE and self._error:
            return KafkaError(self._error.code(), self._error.str(), txn_requires_abort=True)
        return KafkaError(KafkaError._STATE, f"Operation not valid in state {self.state}")

    def _request(self, connection: Connection, name: str, call: Callable[[Reply], None], on_reply: Reply) -> None:
        """Sends it, and tells by ``debug=protocol`` that it was sent and, where it is, that it was answered."""
        if self._log is None:
            connection.send(name, call, on_reply)
            return
        lines = self._lines
        lines.append(("SEND", f"[thrd:broker]: broker/1: Sent {name}Request (v1, 43 bytes @ 0, CorrId 5)"))

        def answered(error: int, value: Any) -> None:
            if error not in (TRANSPORT, TIMED_OUT):
                lines.append(
                    ("RECV", f"[thrd:broker]: broker/1: Received {name}Response (v1, 6 bytes, CorrId 5, rtt 1.00ms)")
                )
            on_reply(error, value)

        connection.send(name, call, answered)

    def _tell_requests(self) -> None:
        while self._lines:
            self._log.log(
                logging.DEBUG, "%s [%s] %s", self._lines[0][0], "layercache#producer-1", self._lines.popleft()[1]
            )

    def _fail(self, error: int, why: str, bump: bool = False) -> None:
        """The transaction can only be aborted."""
        if self._fatal:
            return
        self._bump = self._bump or bump
        why = f"{why}: {KafkaError(error).str()}"
        if self._error is None:
            self._error = KafkaError(_normal(error), why, txn_requires_abort=True)
            self.state = ABORTABLE
            self._purge_queues()
        self._answer(KafkaError(_normal(error), why, txn_requires_abort=True))

    def _die(self, error: int, why: str) -> None:
        """Nothing works any more."""
        if self._fatal is None:
            self.world.tell(self.process.name, "producer is finished:", why, KafkaError(error).name())
            self._fatal = KafkaError(_normal(error), why, fatal=True)
            self._fatal_untold = True
            self.state = FATAL
        self._answer(self._fatal)
