"""Answers frames for the worker's loop: decodes pictures, runs the engine, hands records to the delivery."""

import logging
import time
from collections.abc import Callable, Sequence, Set
from typing import Protocol

import numpy as np
from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.model.loading import ModelError
from layercache.early_exit.policy import Bools
from layercache.schemas.dead_letter import Reason
from layercache.schemas.settings import Settings
from layercache.stream.frames.decode_pool import Decoded, DecodePool, PendingFrame, all_decoded
from layercache.stream.frames.decoding import DecodeError, Unanswerable
from layercache.stream.frames.envelope import dead_letter_of, shown
from layercache.stream.frames.frame import Frame
from layercache.stream.kafka.clients import RECORD_SLACK_BYTES
from layercache.stream.kafka.record_limits import LetterLimit
from layercache.stream.kafka.throttle import Throttle
from layercache.stream.kafka.waiting import SideThread
from layercache.stream.worker.answering.culprits import Culprits, ModelFails, Outcome
from layercache.stream.worker.answering.exit_guard import ExitGuard
from layercache.stream.worker.answering.heads_watch import HeadWatch
from layercache.stream.worker.answering.micro_batch import AnsweredBatch, MicroBatch
from layercache.stream.worker.answering.records import DistillationWriter, PredictionWriter, prediction_headers
from layercache.stream.worker.answering.sampling import Sampler
from layercache.stream.worker.answering.trainer_lag import trainer_watch
from layercache.stream.worker.delivery.delivery import Aborted, Delivery
from layercache.stream.worker.metrics import Metrics, distinct

log = logging.getLogger(__name__)

#: The worker ends once the model has failed at every frame of so many micro-batches in a row, and at other pictures.
FAILED_BATCHES = 3

#: What the loop cannot put off while pictures or the model are slow; returns in how many seconds it is due again.
Duties = Callable[[], float]


class Answering(Protocol):
    """What the worker's loop hands its frames to; the simulation has one that hardly does anything."""

    def start(self) -> None:
        """Call it before the first frame."""

    def submit(self, frames: Sequence[Frame]) -> list[PendingFrame]:
        """Starts decoding ``frames`` and returns at once."""

    def answer(
        self,
        arrived: Sequence[PendingFrame],
        delivery: Delivery,
        duties: Duties,
        overloaded: bool,
        lost_partitions: Set[int],
    ) -> bool:
        """Produces one prediction or one dead letter for each frame; True where the budget for overload answered.

        Does the ``duties`` while it waits. They may commit, and add to ``lost_partitions``; so it produces records only
        after it has done them for the last time, and none for frames of lost partitions, which other workers answer.
        ``overloaded`` says whether the worker is too far behind. An error that the duties raise ends the call.
        """

    def refuse(self, frame: Frame, why: Unanswerable, delivery: Delivery) -> None:
        """Produces a dead letter for a frame without looking into the frame."""

    def adjust(self, now: float) -> None:
        """Call it in every turn of the loop; it is cheap."""

    def committed(self, seconds: float) -> None:
        """Call it after each commit, with the time that the commit took."""

    def stop(self) -> None:
        """Ends its threads; call it once no frame is being answered any more."""


class ModelAnswering:
    """Answers by the model and its exits, and teaches the trainer."""

    def __init__(
        self,
        settings: Settings,
        worker: str,
        traced: TracedModel,
        heads: HeadWatch,
        metrics: Metrics,
        pool: DecodePool,
        letter_limit: LetterLimit | None = None,
    ) -> None:
        """Without a ``letter_limit`` only a record that the broker refuses tells how large dead letters may be."""
        topics, classifier = settings.topics, traced.classifier
        self._topics = topics
        self._heads = heads
        self._guard = ExitGuard(settings.promise.confidence, settings.promise.block_s, settings.promise.block_frames)
        self._metrics = metrics
        self._pool = pool
        self._letter_limit = letter_limit or LetterLimit(settings, ask=lambda: None)
        self._classes = distinct(classifier.classes)
        self._predictions = PredictionWriter(classifier.classes, classifier.fingerprint, settings.worker.top_k, worker)
        self._distillation = DistillationWriter(
            classifier.fingerprint, worker, topics.max_record_bytes - RECORD_SLACK_BYTES
        )
        self._engine_thread = SideThread("engine")
        self._trainer = trainer_watch(settings)
        self._sampler = Sampler(metrics, self._trainer, time.monotonic())
        self._culprits = Culprits()
        self._failed_batches = 0
        self._throttle = Throttle()
        self._version: str | None = "not yet shown"

    def start(self) -> None:
        """Begins to look how far behind the trainer is."""
        self._trainer.start()

    def submit(self, frames: Sequence[Frame]) -> list[PendingFrame]:
        """Starts decoding ``frames`` and returns at once."""
        return self._pool.submit(frames)

    def adjust(self, now: float) -> None:
        """Sends the trainer more or less, by how it keeps up."""
        self._sampler.adjust(now)

    def committed(self, seconds: float) -> None:
        """Where commits take long, the trainer gets less."""
        self._sampler.waiting.committed(seconds)

    def stop(self) -> None:
        """Ends the threads."""
        self._trainer.stop()
        self._engine_thread.close()

    def answer(
        self,
        arrived: Sequence[PendingFrame],
        delivery: Delivery,
        duties: Duties,
        overloaded: bool,
        lost_partitions: Set[int],
    ) -> bool:
        """See :meth:`Answering.answer`. Raises :class:`MachineFailed` and :class:`ModelError`."""
        decoded = all_decoded(arrived, lambda: self._beat_and_do(duties))
        self._metrics.observe("decode", *(one.decode_ms / 1000 for one in decoded))
        failures: dict[int, Unanswerable] = {}
        pictures: dict[int, Decoded] = {}
        for row, one in enumerate(decoded):
            if isinstance(one.picture, DecodeError):
                failures[row] = one.picture
            else:
                pictures[row] = one
        frames = [arrived[row].frame for row in pictures]
        answered = self._infer(frames, [*pictures.values()], duties, overloaded) if frames else None
        # Produce after the engine has finished: while it ran, the duties may have committed, and that commit must not
        # include these records, whose frames' offsets belong to the next one.
        if answered is not None:
            rows = list(pictures)
            failures |= {rows[row]: failure for row, failure in answered.failures.items()}
            self._send(answered, delivery, lost_partitions)
        for row, failure in sorted(failures.items()):
            frame = arrived[row].frame
            if frame.partition not in lost_partitions:
                self.refuse(frame, failure, delivery)
        return answered is not None and answered.engine.budget == "overload"

    def _beat_and_do(self, duties: Duties) -> float:
        """Does the duties and tells the health check that the worker is alive.

        Waiting for a picture is no standstill: its attempts end by themselves, and a worker that was restarted would
        only wait for the same picture again.
        """
        self._metrics.health.beat()
        return duties()

    def _infer(
        self, frames: Sequence[Frame], decoded: Sequence[Decoded], duties: Duties, overloaded: bool
    ) -> AnsweredBatch:
        """Has the engine answer, in a thread of its own, and does the duties meanwhile."""

        def run(engine: Engine, pictures: Tensor, audits: Bools) -> Outcome:
            return self._engine_thread.run(lambda: self._culprits.run(engine, pictures, audits), duties)

        engine = self._guard.choose(self._heads.serving, overloaded)
        batch = MicroBatch.of_decoded(frames, decoded, self._sampler.audit_rate(engine))
        try:
            with self._metrics.stage("inference"):
                answered = batch.answer(engine, run)
        except ModelFails as error:
            self._failed_batches += 1
            if self._failed_batches < FAILED_BATCHES:
                raise Aborted(str(error)) from error
            raise ModelError(
                f"{error}; it did so {FAILED_BATCHES} times, and nothing of these frames was committed. Look at the "
                "model, its weights and its device; a worker that is started again takes the same frames"
            ) from error
        self._failed_batches = 0
        if answered.raised and not answered.failures and self._throttle.passes(Reason.MODEL_FAILED):
            log.warning(
                "the model raised %s at %d frames, and at none of them in smaller batches; "
                "does it take only so many at a time? Then lower worker.max_batch", answered.raised, len(frames),
            )  # fmt: skip
        return answered

    def _send(self, answered: AnsweredBatch, delivery: Delivery, lost_partitions: Set[int]) -> None:
        """Sends the predictions of the frames that are still ours, and what these frames teach."""
        if lost_partitions:
            ours = [frame.partition not in lost_partitions for frame in answered.batch.frames]
            answered = answered.only(np.array(ours, np.bool_))
        if not len(answered):
            return
        frames = answered.batch.frames
        with self._metrics.stage("produce"):
            predicted_ms = time.time_ns() // 1_000_000
            values = self._predictions.write(answered, predicted_ms)
            keys = (frame.key for frame in frames)
            delivery.produce_all(self._topics.predictions, values, keys, map(prediction_headers, frames))
            self._teach(answered, delivery)
        self._metrics.observe_latency(answered.engine.budget, (frame.timestamp_ms for frame in frames), predicted_ms)
        self._count(answered)

    def _teach(self, answered: AnsweredBatch, delivery: Delivery) -> None:
        kept, share = self._sampler.keeps(answered), self._sampler.share
        for record in self._distillation.records(answered, kept, share):
            if record.of_lessons:
                self._metrics.lessons.inc(len(record))
            for value in self._distillation.encoded(record):
                delivery.produce(self._topics.distillation, value, self._predictions.model.encode())
        self._sampler.waiting.for_room(delivery.waited_s())

    def refuse(self, frame: Frame, why: Unanswerable, delivery: Delivery) -> None:
        """See :meth:`Answering.refuse`."""
        if self._throttle.passes(why.reason):
            more = self._throttle.held_back[why.reason]
            log.warning(
                "frame %s is a dead letter: %s: %s%s",
                shown(frame.id), why.reason, why, f" ({more} more since the last line)" if more else "",
            )  # fmt: skip
        topic = self._topics.dead_letters
        if (refused := delivery.too_large(topic)) is not None:
            self._letter_limit.refused(refused)
        value, key, headers = dead_letter_of(frame, why, self._topics.max_record_bytes, self._letter_limit.bytes)
        delivery.produce(topic, value, key, headers)
        self._metrics.dead_letters.labels(why.reason.value).inc()

    def _count(self, answered: AnsweredBatch) -> None:
        metrics, engine = self._metrics, answered.engine
        metrics.batch_size.observe(len(answered))
        for exit_, count in zip(
            *(found.tolist() for found in np.unique(answered.answers.exits, return_counts=True)), strict=True
        ):
            metrics.frames.labels(engine.exit_names[exit_]).inc(count)
            metrics.flops.inc(count * engine.flops_shares[exit_])
            metrics.model_time.inc(count * engine.time_shares[exit_])
        metrics.audits.inc(int(answered.batch.audits.sum()))
        audited = self._guard.watch(answered)
        metrics.disagreements.inc(int(audited.disagreed.sum()))
        if engine.exits:
            metrics.count_by_class(self._classes, audited.labels, audited.disagreed)
        metrics.exits_closed.set(self._guard.closed)
        metrics.show_overload(engine.budget == "overload", len(answered), self._guard.overload_closed)
        if engine.version != self._version:
            self._version = engine.version
            metrics.show_heads(engine.version)
