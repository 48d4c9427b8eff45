"""The worker's loop: frames in, answers out, in micro-batches, with one transaction per commit interval.

The hot thread fetches, answers, produces and commits. What an answer is,
:mod:`layercache.stream.worker.answering.answering` knows.
"""

import logging
from collections import Counter
from collections.abc import Sequence

from confluent_kafka import Consumer

from layercache.schemas.dead_letter import Reason
from layercache.schemas.settings import Settings
from layercache.stream.frames.decode_pool import PendingFrame
from layercache.stream.frames.decoding import Unanswerable
from layercache.stream.frames.frame import Frame
from layercache.stream.kafka.waiting import SYSTEM_CLOCK, Clock
from layercache.stream.worker.answering.answering import Answering
from layercache.stream.worker.backlog import Backlog
from layercache.stream.worker.caution import Caution
from layercache.stream.worker.commits import Commits
from layercache.stream.worker.consuming.consumer import FrameConsumer
from layercache.stream.worker.delivery.delivery import Aborted, Delivery
from layercache.stream.worker.loop_state import LoopState
from layercache.stream.worker.metrics import Metrics
from layercache.stream.worker.overload import LagObjective
from layercache.stream.worker.stopping import STOP_PATIENCE_S, StopRequest

log = logging.getLogger(__name__)

#: Micro-batches that the worker may fetch and decode ahead of the engine.
LOOKAHEAD = 3

#: How soon an idle worker notices that it shall stop.
_IDLE_S = 0.1
_LAG_EVERY_S = 0.5

_CRASHED = Unanswerable(
    Reason.CRASHED_WORKER,
    "three workers in a row ended before this frame was answered, the last two while they worked on nothing else: see "
    "their exit codes and the kernel's log (139 or 134: a crash, 137: killed, perhaps for memory)",
)


class Unfinished(RuntimeError):
    """The worker stopped while its last micro-batch took too long: a thread goes on, and nothing waits for it."""


class Worker:
    """The loop: it takes frames from ``consumer``, has them answered, and commits through ``delivery``.

    It is the consumer's :class:`layercache.stream.worker.consuming.membership.RebalanceListener`. ``lag`` says when the
    worker is too far behind, ``stop`` when it shall end.
    """

    def __init__(
        self,
        settings: Settings,
        consumer: FrameConsumer,
        delivery: Delivery,
        answering: Answering,
        lag: LagObjective,
        metrics: Metrics,
        stop: StopRequest,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        worker, self._topic = settings.worker, settings.topics.frames
        self._consumer = consumer
        self._delivery = delivery
        self._answering = answering
        self._lag = lag
        self._metrics = metrics
        self._stop = stop
        self._clock = clock
        self._state = LoopState()
        self._backlog = Backlog(worker.max_batch, worker.max_wait_ms / 1000, LOOKAHEAD * worker.max_batch)
        self._caution = Caution(span=(LOOKAHEAD + 1) * worker.max_batch, batch=worker.max_batch)
        self._commits = Commits(
            self._topic, delivery, self._caution, metrics, consumer.offset_metadata, answering.committed
        )
        self._next_lag = 0.0
        self._overloaded = False

    def run(self) -> None:
        """Works until it shall stop.

        Raises :class:`Unfinished`, :class:`layercache.stream.kafka.clients.KafkaUnusable`, or what the answering
        raised; no frame is lost by it.
        """
        self._consumer.subscribe(self)
        self._answering.start()
        finished = True
        try:
            while not self._stop():
                self._metrics.health.beat()
                try:
                    if self._state.needs_rewind:
                        self._rewind()
                    else:
                        self._step()
                except Aborted as error:
                    log.warning("%s; reading again from the last commit", error)
                    self._state.lose_work()
            self._commits.commit()
        except Aborted as error:
            log.warning("stopping: the last frames were not delivered (%s) and will be read again", error)
        except Unfinished:
            finished = False
            raise
        finally:
            try:
                self._commits.take_all_notes_back()
                self._delivery.close()
            finally:
                self._state.close()
                self._consumer.close()
                if finished:
                    self._answering.stop()

    # As the consumer's rebalance listener.

    def assigned(self, partitions: set[int], kept: set[int]) -> None:
        """These are this worker's from now on, as the member of the group that it is now."""
        self._check_generation(kept)
        self._delivery.assigned(partitions)

    def begins(self, partition: int, offset: int, began: int, takes_over: bool) -> None:
        """Where the partition's frames may have ended workers, this worker takes them with care."""
        if self._caution.begins(partition, offset, began, takes_over) and takes_over:
            log.warning(
                "partition %d: of %d worker(s) in a row none has committed anything after offset %d; taking its frames "
                "%s at a time for now, in case that one of them ends processes",
                partition, began, offset, "one" if self._caution.is_alone(partition) else "a micro-batch",
            )  # fmt: skip

    def revoked(self, partitions: set[int], kept: set[int]) -> None:
        """Part of a rebalance: commits what was answered while the partitions are still this worker's."""
        if self._state.is_closed:  # leaving the group: the last commit was before, and has said which notes stay
            self._forget(partitions)
            return
        try:
            self._commits.take_back_notes_of(partitions)
            self._commits.commit()
        except Aborted as error:
            log.warning("while handing over partitions: %s", error)
            self._state.lose_work()
        self._forget(partitions)
        self._check_generation(kept)
        self._delivery.assigned()

    def lost(self, partitions: set[int]) -> None:
        """The partitions are another worker's already, so that what is open can no longer be committed."""
        self._commits.abort()
        self._state.lose_work()
        self._forget(partitions)

    def rejoins(self, client: Consumer) -> None:
        """Offsets are committed as this member of the group from now on."""
        self._delivery.rejoins(client)

    def _check_generation(self, kept: set[int]) -> None:
        """Partitions that stay here may have been another worker's in a generation that this one never saw."""
        if kept and self._delivery.has_missed_a_generation():
            log.warning(
                "partitions %s may have been another worker's for a while; joining the group anew", sorted(kept)
            )
            self.lost(kept)
            self._consumer.rejoin(must_leave=True)

    def _forget(self, partitions: set[int]) -> None:
        self._state.lose_partitions(partitions)
        self._caution.forget(partitions)
        self._backlog.drop(partitions)

    # A turn of the loop.

    def _step(self) -> None:
        self._fetch()
        if self._state.needs_rewind:
            return
        if self._backlog.set_aside:
            self._answer_carefully()
        now = self._clock.now()
        self._answering.adjust(now)
        full = self._backlog.has_full_batch
        batch = self._backlog.take(now)
        if batch is not None:
            since, frames = zip(*batch, strict=True)
            self._metrics.observe("wait", *(now - began for began in since))
            self._answer(frames)
        if self._delivery.due_in(self._clock.now()) == 0.0:
            self._commits.commit()
        if batch is not None:
            self._lag.answered(len(batch), self._clock.now() - now, full, self._overloaded)

    def _fetch(self) -> None:
        """Waits for what the next micro-batch lacks, then takes what else is there, as far as there is room."""
        self._delivery.poll()
        now = self._clock.now()
        due, commit = self._backlog.due_in(now), self._delivery.due_in(now)
        patience = 0.0 if self._backlog.set_aside else _IDLE_S if commit is None else min(_IDLE_S, commit)
        if due is None:  # a single frame ends the wait: its own wait begins with its arrival
            self._take_in(self._consumer.fetch(1, patience))
        elif due > 0:
            self._take_in(self._consumer.fetch(self._backlog.missing, min(due, patience)))
        room = self._backlog.room
        if room > 0 and (len(self._backlog) or self._backlog.set_aside):
            self._take_in(self._consumer.fetch(room, 0))
        if now >= self._next_lag:
            self._look_at_lag(now)
            self._next_lag = now + _LAG_EVERY_S

    def _look_at_lag(self, now: float) -> None:
        lags = self._consumer.lags()
        before = self._lag.missed
        missed = self._lag.look(sum(lags.values()) + len(self._backlog), now)
        self._metrics.show_lags(self._topic, lags)
        self._metrics.lag_seconds.set(self._lag.seconds)
        if missed != before:
            log.info("%s: %.1f s of work wait", "too far behind" if missed else "no longer behind", self._lag.seconds)

    def _take_in(self, frames: Sequence[Frame]) -> None:
        if not frames:
            return
        together, careful = self._caution.split(frames)
        self._backlog.put_aside(careful)
        self._submit(together)

    def _submit(self, frames: Sequence[Frame]) -> None:
        if frames:
            now = self._clock.now()
            self._commits.begin(frames)
            self._backlog.add(self._answering.submit(frames), now)

    def _answer_carefully(self) -> None:
        """Takes frames that may end this process: commits all else before, and has nothing else at work."""
        if self._delivery.open_offsets():
            self._commits.commit()
        frames = self._caution.next_of(self._backlog.set_aside)
        first = frames[0]
        self._commits.begin(frames)
        self._backlog.take_aside(frames)
        if self._caution.gives_up(first):  # it is taken alone
            self._backlog.finish()
            self._answering.refuse(first, _CRASHED, self._delivery)
            self._delivery.answered(self._topic, first.partition, first.offset)
        else:
            self._answer(self._answering.submit(frames))
        self._caution.passed(frames)
        self._commits.commit()
        if not self._caution.is_careful(first.partition):
            self._submit(self._backlog.bring_back(first.partition))

    def _answer(self, pending: Sequence[PendingFrame]) -> None:
        self._state.begin_batch()
        try:
            self._overloaded = self._answering.answer(
                pending, self._delivery, self._duties, self._lag.missed, self._state.lost_partitions
            )
        finally:
            frames = self._state.end_batch(self._backlog.in_flight)
            self._backlog.finish()
        counts = Counter(frame.partition for frame in frames)
        for partition, offset in {frame.partition: frame.offset for frame in frames}.items():
            self._delivery.answered(self._topic, partition, offset, counts[partition])

    def _duties(self) -> float:
        """Does what cannot wait for slow pictures and models: commits that are due, and the group.

        Returns in how many seconds to come again. The answering has produced nothing of the micro-batch yet.
        """
        now = self._clock.now()
        due = self._delivery.due_in(now)
        if due == 0.0:
            self._commits.commit()
            due = None
        again = self._consumer.keep_membership()
        if self._state.needs_rewind:
            raise Aborted("partitions were lost, or a commit failed, while frames were being answered")
        if self._stop.patience_is_over():
            raise Unfinished(
                f"stopped while {len(self._backlog.in_flight)} frames were still being answered, "
                f"{STOP_PATIENCE_S:.0f} s after the signal: they are not committed, and the worker that takes "
                "over their partitions reads them again"
            )
        return again if due is None else min(again, due)

    def _rewind(self) -> None:
        """Goes back to the last commit, from where all that was fetched will be read again."""
        self._backlog.clear()
        self._delivery.abort()
        self._consumer.keep_membership()
        # Before the consumer asks for offsets: brokers do not tell them while a transaction over them is open.
        self._delivery.ensure_producer()
        self._consumer.rewind()
        self._state.rewound()
