"""Mistakes between the broker and a frame's answer: each would lose a frame, answer one twice, or stop the stream."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_CODE, _TESTS = "stream/worker", "tests/stream/worker"
_DELIVERY, _TRANSACTIONS = f"{_CODE}/delivery/delivery.py", f"{_CODE}/delivery/transactions.py"
_STATES, _ERRORS, _WATCHED_PRODUCER = (
    f"{_CODE}/delivery/{name}.py" for name in ("states", "errors", "watched_producer")
)
_CONSUMER, _POSITIONS, _COMMITTED = (f"{_CODE}/consuming/{name}.py" for name in ("consumer", "positions", "committed"))
_LOOP, _LOOP_STATE, _CAUTION = (f"{_CODE}/{name}.py" for name in ("loop", "loop_state", "caution"))
_DELIVERY_TESTS = f"{_TESTS}/delivery/test_delivery.py {_TESTS}/delivery/test_transactions.py"
_STATES_TESTS, _ERRORS_TESTS = f"{_TESTS}/delivery/test_states.py", f"{_TESTS}/delivery/test_errors.py"
_CONSUMER_TESTS, _POSITIONS_TESTS = f"{_TESTS}/consuming/test_consumer.py", f"{_TESTS}/consuming/test_positions.py"
_COMMITTED_TESTS = f"{_TESTS}/consuming/test_committed.py"
_LOOP_STATE_TESTS = f"{_TESTS}/test_loop_state.py"
_LOOP_TESTS, _CAUTION_TESTS = f"{_TESTS}/test_loop.py", f"{_TESTS}/test_caution.py"

MUTANTS = (
    Mutant(
        "offsets commit before records are flushed",
        _TRANSACTIONS,
        "while (now_left := producer.flush(min(CALL_S, stuck.left()))) and not reports.failed:",
        "while (now_left := len(producer)) and reports.failed:",
        _DELIVERY_TESTS,
    ),
    Mutant(
        "offsets commit although a record was refused",
        _TRANSACTIONS,
        "        if reports.latest is not None:\n            raise KafkaException(reports.latest)\n",
        "",
        _DELIVERY_TESTS,
    ),
    Mutant(
        "the last frame that was answered is read again",
        _DELIVERY,
        "self._offsets[topic, partition] = offset + 1",
        "self._offsets[topic, partition] = offset",
        _DELIVERY_TESTS,
    ),
    Mutant(
        "the note that a frame may end processes is not committed",
        _DELIVERY,
        "[TopicPartition(*place, offset, self._metadata(place[1])) for",
        "[TopicPartition(*place, offset) for",
        _DELIVERY_TESTS,
    ),
    Mutant(
        "a call may take so long that the group takes the partitions away",
        _DELIVERY,
        "return Deadline(min(self._patience_s, self._time_left()), self._clock.now)",
        "return Deadline(self._patience_s, self._clock.now)",
        _DELIVERY_TESTS,
    ),
    Mutant(
        "commits that fail for ever are tried for ever",
        _DELIVERY,
        "self._aborts += not failure.is_passing",
        "self._aborts = int(not failure.is_passing)",
        _DELIVERY_TESTS,
    ),
    Mutant(
        "a producer goes on whose late requests would go unnoticed",
        _WATCHED_PRODUCER,
        "if not self.watch.hears():",
        "if not self.watch:",
        _DELIVERY_TESTS,
    ),
    Mutant(
        "after an abort the next transaction commits the aborted frames' offsets",
        _STATES,
        "_E.ABORT: (_S.ABORTING, (_F.FORGET, _F.ABORT)),",
        "_E.ABORT: (_S.ABORTING, (_F.ABORT,)),",
        _STATES_TESTS,
    ),
    Mutant(
        "a commit that failed is not told to the worker, which reads on",
        _STATES,
        """        _E.UNCLEAN: (_S.VACANT, (_F.FORGET, _F.RETIRE)),
        _E.FAILED: (_S.ABORTING, (_F.FORGET, _F.ABORT, _F.LOSE)),
""",
        """        _E.UNCLEAN: (_S.VACANT, (_F.FORGET, _F.RETIRE)),
        _E.FAILED: (_S.ABORTING, (_F.FORGET, _F.ABORT)),
""",
        _STATES_TESTS,
    ),
    Mutant(
        "a topic that refuses a record is asked again and again",
        _ERRORS,
        'return event, Failure(text, "refused", ends_worker=True)',
        'return event, Failure(text, "refused")',
        _ERRORS_TESTS,
    ),
    Mutant(
        "what was read ahead of a rewind is answered, and then read again",
        _CONSUMER,
        "        self._ahead.clear()\n        self._positions.doubt()\n",
        "        self._positions.doubt()\n",
        _CONSUMER_TESTS,
    ),
    Mutant(
        "of frames that were read ahead of their turn all but the last are lost",
        _CONSUMER,
        "{frame.partition: frame.offset for frame in reversed(ahead)}",
        "{frame.partition: frame.offset for frame in ahead}",
        _CONSUMER_TESTS,
    ),
    Mutant(
        "a partition that comes back stays paused for ever",
        _CONSUMER,
        "            self._client.resume([TopicPartition(self._topic, number) for number in paused])\n",
        "",
        _CONSUMER_TESTS,
    ),
    Mutant(
        "what was committed for a topic that is gone skips frames of the new one",
        _POSITIONS,
        "if not is_of_this_topic or (",
        "if (",
        _POSITIONS_TESTS,
    ),
    Mutant(
        "a group that begins at the end skips, at each abort, what came meanwhile",
        _POSITIONS,
        "max(report.low, one.end_at_first) if self.from_end",
        "report.end if self.from_end",
        _POSITIONS_TESTS,
    ),
    Mutant(
        "frames that have been deleted are waited for",
        _POSITIONS,
        "            return Reason.DELETED, report.low\n",
        "            return Reason.DELETED, committed\n",
        _POSITIONS_TESTS,
    ),
    Mutant(
        "one partition whose transaction is open holds up all others",
        _COMMITTED,
        "if is_hopeless(error.args[0]) or len(partitions) == 1:",
        "if is_hopeless(error.args[0]) or partitions:",
        _COMMITTED_TESTS,
    ),
    Mutant(
        "a partition without a commit is read from an offset that is none",
        _COMMITTED,
        "committed = one.offset if one.offset >= 0 else None",
        "committed = one.offset",
        _COMMITTED_TESTS,
    ),
    Mutant(
        "frames of partitions that went while they were answered are committed",
        _LOOP_STATE,
        "return [frame for frame in frames if frame.partition not in self.lost_partitions]",
        "return list(frames)",
        _LOOP_STATE_TESTS,
    ),
    Mutant(
        "work that is lost while a micro-batch is answered is not read again",
        _LOOP_STATE,
        "(_P.ANSWERING, _E.WORK_LOST): _P.NEEDS_REWIND,",
        "(_P.ANSWERING, _E.WORK_LOST): _P.ANSWERING,",
        _LOOP_STATE_TESTS,
    ),
    Mutant(
        "frames that waited for a micro-batch are answered, and read again after an abort",
        _LOOP,
        "        self._backlog.clear()\n",
        "",
        _LOOP_TESTS,
    ),
    Mutant(
        "a commit that fails while partitions are handed over loses its frames",
        _LOOP,
        """            log.warning("while handing over partitions: %s", error)
            self._state.lose_work()
""",
        """            log.warning("while handing over partitions: %s", error)
""",
        _LOOP_TESTS,
    ),
    Mutant(
        "a frame that ends every worker is tried once more by each",
        _CAUTION,
        "one.began >= GIVEN_UP_FROM",
        "one.began > 2 * GIVEN_UP_FROM",
        _CAUTION_TESTS,
    ),
    Mutant(
        "a worker takes back its notes although its last commit may have come through",
        _CAUTION,
        "        self._committed_notes.clear()\n",
        "        self._own_notes.clear()\n",
        _CAUTION_TESTS,
    ),
)
