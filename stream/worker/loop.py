"""The worker's loop: frames in, answers out, in micro-batches, with one transaction per commit interval.

The hot thread fetches, answers, produces and commits. What an answer is,
:mod:`layercache.stream.worker.answering.answering` knows.
"""

import logging
import math
import socket
import uuid
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer

from layercache.schemas.dead_letter import Reason
from layercache.schemas.settings import Settings
from layercache.schemas.settings import Worker as WorkerSettings
from layercache.stream.frames.decode_pool import Arrived
from layercache.stream.frames.decoding import Unanswerable
from layercache.stream.frames.frame import Frame
from layercache.stream.kafka.clients import CLIENTS, ClientFactory, KafkaUnusable, long_running, worker_config
from layercache.stream.kafka.waiting import SYSTEM_CLOCK, Clock
from layercache.stream.worker.answering.answering import Answering
from layercache.stream.worker.batching import MicroBatcher
from layercache.stream.worker.caution import Caution
from layercache.stream.worker.consuming.committed import AskedBeside
from layercache.stream.worker.consuming.consumer import READER, Habits, Intake
from layercache.stream.worker.delivery.transactions import Aborted, Delivery, delivery
from layercache.stream.worker.held import HeldBytes
from layercache.stream.worker.metrics import Metrics
from layercache.stream.worker.overload import LagObjective
from layercache.stream.worker.stopping import STOP_PATIENCE_S, Stop

log = logging.getLogger(__name__)

#: Micro-batches that may be fetched and decoded ahead of the engine.
LOOKAHEAD = 3

#: How soon an idle worker notices that it shall stop.
_IDLE_S = 0.1
_LAG_EVERY_S = 0.5

_CRASHED = Unanswerable(
    Reason.CRASHED_WORKER,
    "three workers in a row ended before this frame was answered, the last two while they worked on nothing else: see "
    "their exit codes and the kernel's log (139 or 134: a crash, 137: killed, perhaps for memory)",
)


def worker_name(settings: WorkerSettings) -> str:
    """The worker's own name: its ``worker_id``, or one that no other process has."""
    return settings.worker_id or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"


class Unfinished(RuntimeError):
    """The worker stopped, and what it was answering takes too long: it goes on in a thread that nobody waits for."""


class Worker:
    """The loop. Owns what is in flight: frames fetched and not yet answered."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        answering: Answering,
        metrics: Metrics,
        stop: Stop,
        clock: Clock = SYSTEM_CLOCK,
        clients: ClientFactory = CLIENTS,
    ) -> None:
        worker, self._topics = settings.worker, settings.topics
        self._answering = answering
        self._metrics = metrics
        self._stop = stop
        self._clock = clock
        overload = settings.promise.overload_max_disagreement is not None
        self._lag = LagObjective(worker.target_lag_s if overload else math.inf)
        self._room = LOOKAHEAD * worker.max_batch
        self._batcher = MicroBatcher[Arrived](worker.max_batch, worker.max_wait_ms / 1000)
        self._held = HeldBytes()
        self._caution = Caution(span=(LOOKAHEAD + 1) * worker.max_batch, batch=worker.max_batch)
        #: frames to take with nothing else at work
        self._careful: deque[Frame] = deque()
        config = worker_config(settings)
        offsets = AskedBeside(settings, clock, clients)
        self._intake = Intake(
            lambda: clients.consumer(long_running(config | READER)),
            self._topics.frames, self, offsets, metrics, Habits.of(config), clock,
        )  # fmt: skip
        self._delivery: Delivery = delivery(
            settings, name, self._intake.consumer,
            stop.patience_is_over, metrics, self._intake.time_left, clock, clients,
        )  # fmt: skip
        self._needs_rewind = False
        #: nothing can be delivered any more
        self._is_closed = False
        #: the micro-batch that is being answered
        self._in_flight: list[Frame] = []
        #: those that went while it was
        self._lost_partitions: set[int] = set()
        self._next_lag = 0.0
        self._overloaded = False

    def run(self) -> None:
        """Works until it shall stop.

        Raises :class:`Unfinished`, :class:`KafkaUnusable`, or what the answering raised; frames stay safe.
        """
        self._intake.subscribe()
        self._answering.start()
        finished = True
        try:
            while not self._stop():
                self._metrics.health.beat()
                try:
                    if self._needs_rewind:
                        self._rewind()
                    else:
                        self._step()
                except Aborted as error:
                    log.warning("%s; reading again from the last commit", error)
                    self._needs_rewind = True
            self._commit()
        except Aborted as error:
            log.warning("stopping: the last frames were not delivered (%s) and will be read again", error)
        except Unfinished:
            finished = False
            raise
        finally:
            try:
                self._take_back_notes()
                self._delivery.close()
            finally:
                self._is_closed = True
                self._intake.close()
                if finished:
                    self._answering.stop()

    def assigned(self, partitions: set[int], kept: set[int]) -> None:
        """These are ours from now on, as the member of the group that we are now."""
        self._doubt(kept)
        self._delivery.assigned(partitions)

    def begins(self, partition: int, offset: int, began: int, takes_over: bool) -> None:
        """Where frames of the partition may have ended workers, they are taken with care."""
        if self._caution.begins(partition, offset, began, takes_over) and takes_over:
            log.warning(
                "partition %d: of %d worker(s) in a row none has committed anything after offset %d; taking its frames "
                "%s at a time for now, in case that one of them ends processes",
                partition, began, offset, "one" if self._caution.is_alone(partition) else "a micro-batch",
            )  # fmt: skip

    def revoked(self, partitions: set[int], kept: set[int]) -> None:
        """Part of a rebalance: what was answered is committed while the partitions are still ours."""
        if self._is_closed:  # leaving the group: what could be committed was, and notes that stay have been told of
            self._forget(partitions)
            return
        try:
            self._note(self._caution.take_back(partitions))
            self._commit()
        except Aborted as error:
            log.warning("while handing over partitions: %s", error)
            self._needs_rewind = True
        self._forget(partitions)
        self._doubt(kept)
        self._delivery.assigned()

    def lost(self, partitions: set[int]) -> None:
        """The partitions are another's already, so that what is open can no longer be committed."""
        self._delivery.abort()
        self._metrics.commits.labels("aborted").inc()
        self._needs_rewind = True
        self._forget(partitions)

    def _doubt(self, kept: set[int]) -> None:
        """Partitions that stay ours may have been another's in a generation of the group that we never saw."""
        if kept and self._delivery.has_missed_a_generation():
            log.warning(
                "partitions %s may have been another worker's for a while; joining the group anew", sorted(kept)
            )
            self.lost(kept)
            self._intake.rejoin(must_leave=True)

    def rejoins(self, consumer: Consumer) -> None:
        """Offsets are committed as this member of the group from now on."""
        self._delivery.rejoins(consumer)

    def _step(self) -> None:
        self._fetch()
        if self._needs_rewind:
            return
        if self._careful:
            self._answer_carefully()
        now = self._clock.now()
        self._answering.adjust(now)
        full = self._held.is_full or not self._batcher.missing
        arrived = self._batcher.take(now, all_due=self._held.is_full)
        if arrived is not None:
            since, frames = zip(*arrived, strict=True)
            self._metrics.observe("wait", *(now - began for began in since))
            self._answer(frames)
        if self._delivery.due_in(self._clock.now()) == 0.0:
            self._commit()
        if arrived is not None:
            self._lag.answered(len(arrived), self._clock.now() - now, full, self._overloaded)

    def _fetch(self) -> None:
        """Waits for what the next micro-batch lacks, then takes what else is there, as far as there is room."""
        self._delivery.poll()
        now = self._clock.now()
        due, commit = self._batcher.due_in(now), self._delivery.due_in(now)
        patience = 0.0 if self._careful else _IDLE_S if commit is None else min(_IDLE_S, commit)
        if due is None:  # a single frame ends the wait: its own wait begins with its arrival
            self._take_in(self._intake.fetch(1, patience))
        elif due > 0 and not self._held.is_full:
            self._take_in(self._intake.fetch(self._held.room(self._batcher.missing), min(due, patience)))
        room = self._held.room(self._room - len(self._batcher) - len(self._careful))
        if room > 0 and (self._batcher or self._careful):
            self._take_in(self._intake.fetch(room, 0))
        if now >= self._next_lag:
            self._look_at_lag(now)
            self._next_lag = now + _LAG_EVERY_S

    def _look_at_lag(self, now: float) -> None:
        lags = self._intake.lags()
        before = self._lag.missed
        missed = self._lag.look(sum(lags.values()) + len(self._batcher), now)
        self._metrics.show_lags(self._topics.frames, lags)
        self._metrics.lag_seconds.set(self._lag.seconds)
        if missed != before:
            log.info("%s: %.1f s of work wait", "too far behind" if missed else "no longer behind", self._lag.seconds)

    def _take_in(self, frames: Sequence[Frame]) -> None:
        if not frames:
            return
        self._held.take_in(frames)
        together, careful = self._caution.split(frames)
        self._careful += careful
        self._submit(together)

    def _submit(self, frames: Sequence[Frame]) -> None:
        if frames:
            now = self._clock.now()
            self._begin(frames)
            self._batcher.add(self._answering.submit(frames), now)

    def _begin(self, frames: Sequence[Frame]) -> None:
        """Says so on the broker, where that has not been said yet: these frames may end this process."""
        if notes := self._caution.begin(frames):
            self._note(notes)
            self._commit()

    def _note(self, offsets: Mapping[int, int]) -> None:
        """Has the next commit say anew what is committed of these partitions, if it says nothing else of them."""
        for partition, offset in offsets.items():
            if partition not in self._delivery.open_offsets():
                self._delivery.answered(self._topics.frames, partition, offset - 1, 0)

    def _answer_carefully(self) -> None:
        """Frames that may end this process: nothing else is at work, and all else is committed before."""
        if self._delivery.open_offsets():
            self._commit()
        frames = self._caution.next_of(self._careful)
        partition, last = frames[0].partition, frames[-1].offset
        self._careful = deque(one for one in self._careful if one.partition != partition or one.offset > last)
        self._begin(frames)
        if self._caution.gives_up(frames[0]):  # it is taken alone
            self._answering.refuse(frames[0], _CRASHED, self._delivery)
            self._held.let_go(frames)
            self._delivery.answered(self._topics.frames, partition, frames[0].offset)
        else:
            self._answer(self._answering.submit(frames))
        self._caution.passed(frames)
        self._commit()
        if not self._caution.is_careful(partition):
            rest = [one for one in self._careful if one.partition == partition]
            self._careful = deque(one for one in self._careful if one.partition != partition)
            self._submit(rest)

    def _answer(self, arrived: Sequence[Arrived]) -> None:
        self._lost_partitions.clear()
        self._in_flight = [one.frame for one in arrived]
        try:
            self._overloaded = self._answering.answer(
                arrived, self._delivery, self._duties, self._lag.missed, self._lost_partitions
            )
            frames = [frame for frame in self._in_flight if frame.partition not in self._lost_partitions]
        finally:
            self._held.let_go(self._in_flight)
            self._in_flight = []
        counts = Counter(frame.partition for frame in frames)
        for partition, offset in {frame.partition: frame.offset for frame in frames}.items():
            self._delivery.answered(self._topics.frames, partition, offset, counts[partition])

    def _duties(self) -> float:
        """What cannot wait for slow pictures and models: commits that are due, and the group. Seconds until the next.

        Nothing of the micro-batch that is waited for may have been produced yet.
        """
        now = self._clock.now()
        due = self._delivery.due_in(now)
        if due == 0.0:
            self._commit()
            due = None
        again = self._intake.keep_membership()
        if self._needs_rewind:
            raise Aborted("partitions were lost, or a commit failed, while frames were being answered")
        if self._stop.patience_is_over():
            raise Unfinished(
                f"stopped while {len(self._in_flight)} frames were still being answered, {STOP_PATIENCE_S:.0f} s after "
                "the signal: they are not committed, and the worker that takes over their partitions reads them again"
            )
        return again if due is None else min(again, due)

    def _commit(self) -> None:
        with self._metrics.stage("commit") as commit:
            try:
                offsets = self._delivery.open_offsets()
                committed = self._delivery.commit(self._metadata)
                if committed:
                    self._metrics.commits.labels("committed").inc()
                    self._caution.committed(offsets)
            except (Aborted, KafkaUnusable) as error:
                self._caution.uncertain()
                if isinstance(error, Aborted):
                    self._metrics.commits.labels("aborted").inc()
                raise
        if committed:
            self._answering.committed(commit.seconds)

    def _metadata(self, partition: int) -> str:
        return self._intake.offset_metadata(self._caution.note(partition))

    def _take_back_notes(self) -> None:
        """This process did not die of a frame: the next worker need not suspect any."""
        notes = self._caution.take_back()
        if not notes:
            return
        try:
            self._delivery.abort()
            self._note(notes)
            self._commit()
        except (Aborted, KafkaUnusable) as error:
            log.info("a note stays with the offsets of partitions %s: %s", sorted(notes), error)

    def _rewind(self) -> None:
        """Back to the last commit: what was in flight will be read again."""
        self._batcher.drop(lambda _: True)
        self._careful.clear()
        self._held.hold_only(())
        self._delivery.abort()
        self._intake.keep_membership()
        # Before offsets are asked for: brokers do not tell them while a transaction over them is open.
        self._delivery.ensure_producer()
        self._intake.rewind()
        self._needs_rewind = False

    def _forget(self, partitions: set[int]) -> None:
        self._lost_partitions |= partitions
        self._caution.gone(partitions)
        self._batcher.drop(lambda one: one.frame.partition in partitions)
        self._careful = deque(one for one in self._careful if one.partition not in partitions)
        self._held.hold_only([*self._in_flight, *self._careful, *(one.frame for one in self._batcher)])
