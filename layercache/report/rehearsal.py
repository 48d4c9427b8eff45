"""The stream without Kafka: frames are answered, audited and taught by the parts that do it in earnest.

The worker's engine runs in shadow mode, so that the full model's answer to every frame is known, and says besides what
its exits would have answered; its records go to the trainer as they would over Kafka. The trainer keeps the promise of
the settings. Other budgets ride along as *lanes*: each certifies for itself, on the trainer's audits, what the
trainer's heads are worth under its own budget, with its own store and its own count of attempts.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.certifier import Certifier
from layercache.cache_training.certifying.choosing import Option
from layercache.cache_training.certifying.live_version import LiveVersion
from layercache.cache_training.certifying.windows import Windows
from layercache.cache_training.trainer import FEWEST_TUNING, OnlineTrainer
from layercache.early_exit.compiled.allowed import allowed_precisions
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.head_store import HeadStore
from layercache.measuring.columns import joined
from layercache.report.footage import Batch
from layercache.schemas.distillation import decode
from layercache.schemas.manifest import Manifest
from layercache.schemas.prediction import FULL
from layercache.schemas.settings import Promise, Settings
from layercache.stream.worker.answering.micro_batch import AnsweredBatch, MicroBatch
from layercache.stream.worker.answering.records import DistillationWriter

#: The trainer is given time in parts of this length, so that new heads serve soon.
_PART_S = 0.3


@dataclass(frozen=True)
class Lane:
    """One budget: what was certified for it, and what waits to certify."""

    budget: float
    published: LiveVersion
    intake: AuditIntake
    certifier: Certifier

    @property
    def live(self) -> Manifest | None:
        """The version that serves, where one has open exits."""
        live = self.published.live
        return live if live is not None and live.exits else None

    def loaded(self) -> tuple[Manifest, dict[str, Tensor]] | None:
        """That version with its heads."""
        return self.published.store.load(self.live.version) if self.live else None


@dataclass(frozen=True)
class RehearsedFrames:
    """N frames of the stream; every array ``[N]``."""

    full: npt.NDArray[np.int64]
    """The full model's label."""
    confidence: npt.NDArray[np.float32]
    """The full model's, in its own answer."""
    exit_label: npt.NDArray[np.int64]
    """What the exits would have answered; the full model's label where no exit would."""
    exit_name: npt.NDArray[np.str_]
    """Where the frame would have left, were it no audit; ``full``: nowhere."""
    audited: npt.NDArray[np.bool_]
    flops_share: npt.NDArray[np.float64]
    """FLOPs spent on it as served, audits to the end, as a share of the plain model's."""
    time_share: npt.NDArray[np.float64]
    """The same of time."""
    truth: npt.NDArray[np.int64]
    content: npt.NDArray[np.uint64]
    near: npt.NDArray[np.bool_]

    @property
    def served(self) -> npt.NDArray[np.int64]:
        """The label that was answered: audits get the full model's."""
        return np.where(self.audited, self.full, self.exit_label)

    @property
    def hit(self) -> npt.NDArray[np.bool_]:
        """Frames that left early."""
        hit: npt.NDArray[np.bool_] = (self.exit_name != FULL) & ~self.audited
        return hit


class Rehearsal:
    """The stream, the trainer, and the other budgets beside it; stores of heads go into ``folder``."""

    def __init__(self, traced: TracedModel, settings: Settings, budgets: Sequence[float], folder: Path) -> None:
        self.traced = traced
        self._settings = settings
        self._folder = folder
        promise = settings.promise.model_copy(update={"overload_max_disagreement": None, "min_span_s": 0.0})
        precisions = allowed_precisions(traced.classifier).precisions
        self.trainer = OnlineTrainer(traced, self._store("promised"), promise, settings.trainer, precisions=precisions)
        own = Lane(promise.max_disagreement, self.trainer.published, self.trainer.intake, self.trainer.certifier)
        others = [self._lane(budget, promise) for budget in sorted(set(budgets) - {own.budget})]
        self.lanes: tuple[Lane, ...] = tuple(sorted((own, *others), key=lambda lane: lane.budget))
        self.own = own
        self._others = tuple(others)
        self.trainer.choice_listeners += [lane.certifier.consider for lane in others]
        self._answered: list[RehearsedFrames] = []
        self.seen = 0
        """How many frames it has answered."""
        self.versions: list[tuple[int, Manifest]] = []
        """Of the own budget: after how many frames each began to serve."""
        self._looks = 0
        self._waited = dict.fromkeys((lane.budget for lane in self.lanes), 0)
        self._slots: set[int] = set()
        self._writer = DistillationWriter(traced.classifier.fingerprint, "report", settings.topics.max_record_bytes)
        self._engine = Engine(traced, mode="shadow")

    def frames(self) -> RehearsedFrames:
        """What became of the stream's frames, in order. Raises ``ValueError`` where there were none."""
        return joined(self._answered)

    @property
    def blocks(self) -> int:
        """Independent frames so far: all of them, or one for each block of time of the one camera."""
        return len(self._slots) or self.seen

    def most_waiting(self, lane: Lane) -> int:
        """Independent audits that have ever waited to certify a budget at the same time."""
        return max(self._waited[lane.budget], lane.intake.independent())

    def serve(self, batch: Batch) -> None:
        """Answers a micro-batch, and hands on what it teaches."""
        answered = MicroBatch.of(batch.frames, batch.pictures, self._engine.audit_rate).answer(self._engine)
        for record in self._writer.write(answered):
            taught = decode(record)
            self.trainer.ingest(taught)
            for lane in self._others if not taught.of_lessons else ():  # the trainer alone learns
                lane.intake.take(taught)
        self._answered.append(_rehearsed(batch, answered))
        self.seen += len(batch)
        block_ms = max(1, int(self._settings.promise.block_s * 1000))
        self._slots |= {frame.timestamp_ms // block_ms for frame in batch.frames if frame.key is not None}
        self._take_up()  # a record may have raised the alarm of drift

    def learn(self, seconds: float) -> None:
        """Gives the trainer so much time, of which it may rest a part."""
        spent = 0.0
        while spent < seconds:
            began = time.monotonic()
            rest = self.trainer.work(min(_PART_S, seconds - spent))
            self._take_up()
            spent += time.monotonic() - began + max(rest, 1e-3)

    def finish(self) -> list[Option]:
        """At the stream's end: what was learnt last may yet be certified. Returns what tuning says of all candidates.

        Empty where the stream had no tuning audits, or nothing has been learnt.
        """
        self.trainer.work(0.0)
        options = self.trainer.options.score()
        if options and len(self.trainer.windows.tuning) >= FEWEST_TUNING:
            for lane in (*self._others, self.own):
                lane.certifier.consider(options)
        for lane in (*self._others, self.own):
            lane.certifier.conclude()
        self._take_up()
        return options

    def _take_up(self) -> None:
        """Serves by a version that was published, and keeps from the other budgets what the trainer may learn now."""
        store = self.trainer.published.store
        if self.trainer.certifier.looks != self._looks:
            self._looks = self.trainer.certifier.looks
            used = self.trainer.intake.used_blocks.array()
            for lane in self._others:
                self._waited[lane.budget] = self.most_waiting(lane)
                lane.intake.windows.certification.clear()
                lane.intake.used_blocks.new(used)
        live = self.trainer.live
        if live is not None and live.version != self._engine.version:
            manifest, tensors = store.load(live.version)
            self._engine = Engine(self.traced, load_heads(manifest, tensors, self.traced), mode="shadow")
            self.versions.append((self.seen, manifest))

    def _lane(self, budget: float, promise: Promise) -> Lane:
        trainer, settings = self.trainer, self._settings.trainer
        # A limit per class is for the budget that is promised: it takes more audits than most frames have.
        own = promise.model_copy(update={"max_disagreement": budget, "max_class_disagreement": None})
        published = LiveVersion(self._store(f"{budget:g}"), own, len(self.traced.classifier.classes))
        windows = Windows(settings.replay_mb, settings.window_frames, 1, settings.seed)
        for window in (windows.learning, windows.misses, windows.tuning):
            window.capacity = 1  # the trainer has them
        intake = AuditIntake(windows, own.block_s, own.block_frames)
        certifier = Certifier(self.traced.classifier, published, intake, trainer.scores, settings.min_audit_rate)
        return Lane(budget, published, intake, certifier)

    def _store(self, name: str) -> HeadStore:
        return HeadStore(self._folder.resolve().as_uri(), name)


def _rehearsed(batch: Batch, answered: AnsweredBatch) -> RehearsedFrames:
    """In shadow mode every frame runs to the end, so that all rows are there, in order."""
    answers, engine, audits = answered.answers, answered.engine, answered.batch.audits
    leaves = np.where(audits, -1, answers.live_exit)
    return RehearsedFrames(
        full=answers.labels,
        confidence=answers.probabilities.max(1),
        exit_label=answers.live_label.astype(np.int64),
        exit_name=np.array(engine.exit_names)[answers.live_exit],
        audited=audits,
        flops_share=engine.flops_shares[leaves],
        time_share=engine.time_shares[leaves],
        truth=batch.truth,
        content=batch.content,
        near=batch.near,
    )


def take(batches: Iterator[Batch], frames: int) -> Iterator[Batch]:
    """Batches until they hold so many frames; the others stay in the iterator."""
    taken = 0
    while taken < frames and (batch := next(batches, None)) is not None:
        taken += len(batch)
        yield batch
