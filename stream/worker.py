"""The worker: frames in, predictions out, in micro-batches, with one transaction per commit interval.

The hot thread fetches, runs the engine, produces and commits. Decoding happens in a pool, so that it overlaps the
engine; new heads come from a thread of their own.
"""

import logging
import math
import socket
import time
import uuid
from collections import Counter
from collections.abc import Sequence

import numpy as np
from confluent_kafka import Consumer

from early_exit.cuts import TracedModel
from early_exit.engine import Answers, Engine
from schemas.prediction import FULL
from schemas.settings import Settings
from stream.answers import DistillationWriter, MicroBatch, PredictionWriter, prediction_headers
from stream.batching import MicroBatcher
from stream.clients import (
    RECORD_SLACK_BYTES,
    long_running,
    poll_budget_s,
    worker_config,
)
from stream.decode import DecodeError
from stream.envelope import dead_letter_of, shown
from stream.frames import Arrived, Decoded, DecodePool, Frame, all_decoded
from stream.heads_watch import ExitGuard, HeadWatch, flops_shares
from stream.held import HeldBytes
from stream.intake import Intake
from stream.metrics import Metrics, distinct
from stream.overload import LagObjective
from stream.patience import Aside
from stream.sampling import Sampler
from stream.stopping import Stop
from stream.throttle import Throttle
from stream.trainer_watch import trainer_watch
from stream.transactions import Aborted, Delivery, delivery

log = logging.getLogger(__name__)

#: Micro-batches that may be fetched and decoded ahead of the engine.
LOOKAHEAD = 3

#: How soon an idle worker notices that it shall stop.
_IDLE_S = 0.1
_LAG_EVERY_S = 0.5


class Worker:
    """The loop. Owns what is in flight: frames fetched and not yet answered."""

    def __init__(
        self,
        settings: Settings,
        traced: TracedModel,
        heads: HeadWatch,
        metrics: Metrics,
        pool: DecodePool,
        stop: Stop,
    ) -> None:
        worker, topics, classifier = settings.worker, settings.topics, traced.classifier
        name = worker.worker_id or f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._topics = topics
        self._heads = heads
        self._guard = ExitGuard(settings.promise.confidence, settings.promise.block_s)
        overload = settings.promise.overload_max_disagreement is not None
        self._lag = LagObjective(worker.target_lag_s if overload else math.inf)
        self._metrics = metrics
        self._pool = pool
        self._stop = stop
        self._room = LOOKAHEAD * worker.max_batch
        self._batcher = MicroBatcher[Arrived](worker.max_batch, worker.max_wait_ms / 1000)
        self._held = HeldBytes()
        self._classes = distinct(classifier.classes)
        self._predictions = PredictionWriter(classifier.classes, classifier.fingerprint, worker.top_k)
        self._distillation = DistillationWriter(
            classifier.fingerprint, name, topics.max_record_bytes - RECORD_SLACK_BYTES
        )
        config = worker_config(settings)
        consumer = Consumer(long_running(config))
        self._intake = Intake(consumer, topics.frames, self, stop.patience_is_over, poll_budget_s(config))
        self._delivery: Delivery = delivery(settings, name, consumer, stop.patience_is_over, self._intake.time_left)
        self._engine_thread = Aside("engine")
        self._trainer = trainer_watch(settings)
        self._sampler = Sampler(metrics, self._trainer, time.monotonic())
        self._undone = False
        self._gone: set[int] = set()
        self._throttle = Throttle()
        self._version: str | None = "not yet shown"
        self._next_lag = 0.0
        self._overloaded = False

    def run(self) -> None:
        """Works until it shall stop. Raises :class:`KafkaUnusable`, or whatever the engine raised; frames stay safe."""
        self._intake.subscribe()
        self._trainer.start()
        try:
            while not self._stop():
                self._metrics.health.beat()
                try:
                    if self._undone:
                        self._rewind()
                    else:
                        self._step()
                except Aborted as error:
                    log.warning("%s; reading again from the last commit", error)
                    self._undone = True
            self._commit()
        except Aborted as error:
            log.warning("stopping: the last frames were not delivered (%s) and will be read again", error)
        finally:
            self._trainer.stop()
            try:
                self._delivery.close()
            finally:
                self._intake.close()
                self._engine_thread.close()

    def revoked(self, partitions: set[int]) -> None:
        """Part of a rebalance: what was answered is committed while the partitions are still ours."""
        try:
            self._commit()
        except Aborted as error:
            log.warning("while handing over partitions: %s", error)
            self._undone = True
        self._forget(partitions)

    def lost(self, partitions: set[int]) -> None:
        """The partitions are another's already, so that what is open can no longer be committed."""
        self._delivery.abort()
        self._metrics.commits.labels("aborted").inc()
        self._undone = True
        self._forget(partitions)

    def _step(self) -> None:
        self._fetch()
        if self._undone:
            return
        now = time.monotonic()
        self._sampler.adjust(now)
        full = self._held.is_full or not self._batcher.missing
        arrived = self._batcher.take(now, all_due=self._held.is_full)
        if arrived is not None:
            since, frames = zip(*arrived, strict=True)
            self._metrics.observe("wait", *(now - began for began in since))
            self._answer(frames)
            self._held.let_go(one.frame for one in frames)
        if self._delivery.due_in(time.monotonic()) == 0.0:
            self._commit()
        if arrived is not None:
            self._lag.answered(len(arrived), time.monotonic() - now, full, self._overloaded)

    def _fetch(self) -> None:
        """Waits for what the next micro-batch lacks, then takes what else is there, as far as there is room."""
        now = time.monotonic()
        due, commit = self._batcher.due_in(now), self._delivery.due_in(now)
        patience = _IDLE_S if commit is None else min(_IDLE_S, commit)
        if due is None:  # a single frame ends the wait: its own wait begins with its arrival
            self._take_in(self._intake.fetch(1, patience))
        elif due > 0 and not self._held.is_full:
            self._take_in(self._intake.fetch(self._held.room(self._batcher.missing), min(due, patience)))
        room = self._held.room(self._room - len(self._batcher))
        if room > 0 and len(self._batcher):
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
        if frames:
            now = time.monotonic()
            self._held.take_in(frames)
            self._batcher.add(self._pool.submit(frames), now)

    def _answer(self, arrived: Sequence[Arrived]) -> None:
        self._gone.clear()
        decoded = all_decoded(arrived, self._duties_while_fetching)
        self._metrics.observe("decode", *(one.decode_ms / 1000 for one in decoded))
        frames = [one.frame for one in arrived]
        bad = {row: one.picture for row, one in enumerate(decoded) if isinstance(one.picture, DecodeError)}
        if not bad:
            self._infer(frames, decoded)
        elif len(bad) < len(frames):
            good = [row for row in range(len(frames)) if row not in bad]
            self._infer([frames[row] for row in good], [decoded[row] for row in good])
        # Not before the engine was waited for: the duties may have committed, and these frames' offsets come below.
        for row, error in bad.items():
            self._send_dead_letter(frames[row], error)
        counts = Counter(frame.partition for frame in frames)
        for partition, offset in {frame.partition: frame.offset for frame in frames}.items():
            self._delivery.answered(self._topics.frames, partition, offset, counts[partition])

    def _infer(self, frames: Sequence[Frame], decoded: Sequence[Decoded]) -> None:
        engine = self._guard.choose(self._heads.serving, self._lag.missed)
        self._overloaded = engine.budget == "overload"
        batch = MicroBatch.of(frames, decoded, self._sampler.audit_rate(engine))
        with self._metrics.stage("inference") as inference:
            answers = self._engine_thread.run(lambda: engine.run(batch.pictures, batch.audits), self._duties)
        with self._metrics.stage("produce"):
            predicted_ms = time.time_ns() // 1_000_000
            values = self._predictions.write(batch, answers, engine, inference.seconds * 1000, predicted_ms)
            keys = (frame.key for frame in frames)
            self._delivery.produce_all(self._topics.predictions, values, keys, map(prediction_headers, frames))
            self._teach(batch, answers, engine)
        self._metrics.observe_latency(engine.budget, (frame.timestamp_ms for frame in frames), predicted_ms)
        self._count(batch, answers, engine)

    def _duties(self) -> float:
        """What cannot wait for slow pictures and models: commits that are due, and the group. Seconds until the next.

        Nothing of the micro-batch that is waited for may have been produced yet.
        """
        now = time.monotonic()
        due = self._delivery.due_in(now)
        if due == 0.0:
            self._commit()
            due = None
        again = self._intake.stay()
        if self._gone or self._undone:
            raise Aborted("partitions went to other workers while frames were being answered")
        return again if due is None else min(again, due)

    def _duties_while_fetching(self) -> float:
        """The same, and life is shown: a picture's attempts end by themselves, so that waiting for it is no standstill.

        A restart would only wait for the same picture again.
        """
        self._metrics.health.beat()
        return self._duties()

    def _teach(self, batch: MicroBatch, answers: Answers, engine: Engine) -> None:
        kept, share = self._sampler.keeps(batch, answers), self._sampler.share
        for record in self._distillation.write(batch, answers, engine, kept, share):
            self._delivery.produce(self._topics.distillation, record, self._predictions.model.encode())
        self._sampler.waiting.for_room(self._delivery.waited_s())

    def _send_dead_letter(self, frame: Frame, error: DecodeError) -> None:
        if self._throttle.passes(error.reason):
            more = self._throttle.held_back[error.reason]
            log.warning(
                "frame %s is a dead letter: %s: %s%s",
                shown(frame.id), error.reason, error, f" ({more} more since the last line)" if more else "",
            )  # fmt: skip
        value, key, headers = dead_letter_of(frame, error, self._topics.max_record_bytes)
        self._delivery.produce(self._topics.dead_letters, value, key, headers)
        self._metrics.dead_letters.labels(error.reason.value).inc()

    def _count(self, batch: MicroBatch, answers: Answers, engine: Engine) -> None:
        metrics = self._metrics
        metrics.batch_size.observe(len(batch.frames))
        names, shares = (*engine.exits, FULL), flops_shares(engine)
        for exit_, count in zip(
            *(found.tolist() for found in np.unique(answers.exits, return_counts=True)), strict=True
        ):
            metrics.frames.labels(names[exit_]).inc(count)
            metrics.flops.inc(count * shares[exit_])
        metrics.audits.inc(int(batch.audits.sum()))
        audited = self._guard.watch(batch, answers)
        metrics.disagreements.inc(int(audited.disagreed.sum()))
        if engine.exits:
            metrics.count_by_class(self._classes, audited.labels, audited.disagreed)
        metrics.exits_closed.set(self._guard.closed)
        metrics.show_overload(self._overloaded, len(batch.frames), self._guard.overload_closed)
        if engine.version != self._version:
            self._version = engine.version
            metrics.show_heads(engine.version)

    def _commit(self) -> None:
        with self._metrics.stage("commit") as commit:
            try:
                committed = self._delivery.commit()
                if committed:
                    self._metrics.commits.labels("committed").inc()
            except Aborted:
                self._metrics.commits.labels("aborted").inc()
                raise
        if committed:
            self._sampler.waiting.committed(commit.seconds)

    def _rewind(self) -> None:
        """Back to the last commit: what was in flight will be read again."""
        self._batcher.drop(lambda _: True)
        self._held.hold_only(())
        self._delivery.abort()
        self._intake.stay()
        # Before offsets are asked for: brokers do not tell them while a transaction over them is open.
        self._delivery.mend()
        self._undone = not self._intake.rewind()

    def _forget(self, partitions: set[int]) -> None:
        self._gone |= partitions
        self._batcher.drop(lambda one: one.frame.partition in partitions)
        self._held.hold_only(one.frame for one in self._batcher)
