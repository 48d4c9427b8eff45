"""The trainer without Kafka: it takes in records and publishes certified versions of heads."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layercache.cache_training.certifying.audit_tally import DisagreementCount
from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.binomial import lower_bound
from layercache.cache_training.certifying.certifier import Certifier
from layercache.cache_training.certifying.choosing import Option, choose
from layercache.cache_training.certifying.live_version import LiveVersion
from layercache.cache_training.certifying.options import Options
from layercache.cache_training.certifying.savings import is_worthwhile
from layercache.cache_training.certifying.windows import Windows
from layercache.cache_training.learning.compiled_routes import CompiledRoutes
from layercache.cache_training.learning.kept_frames import Frames
from layercache.cache_training.learning.learner import Learner
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.distillation import DistillationBatch
from layercache.schemas.manifest import Manifest, PathPrecision
from layercache.schemas.settings import Promise
from layercache.schemas.settings import Trainer as TrainerSettings

log = logging.getLogger(__name__)

#: Below the first number of tuning audits the trainer chooses no exits; below the second its choices are coarse.
FEWEST_TUNING, _ENOUGH_TUNING = 100, 300
#: Saving this much more of the time counts as progress; after so many rounds without progress, learning slows down.
_PROGRESS, _PATIENCE = 0.005, 40
_SCORE_BATCH = 64
#: bfloat16 saves hardly more of the time than this.
_ANOTHER_END_BELOW = 0.6
#: The share of the budget at which rounds are compared: about what attempts come to tolerate.
_USUAL_RISK = 0.5
#: Nothing is certified where workers compute otherwise than the trainer on so many frames, as a share of the budget.
_NUMERICS_SHARE = 0.2


@dataclass(frozen=True)
class Progress:
    """Where the trainer stands, for the log."""

    audits: int
    repeated: int
    """Of these, audits of pictures that had come before."""
    views: int
    tuning: int
    certification: int
    independent: int
    """To how many frames that count singly those are worth, at best, that wait for certification."""
    scenes_outlast: bool
    """Whether scenes outlast blocks of time, so that nothing is certified."""
    misses: int
    lessons: int
    attempts: int
    version: str | None
    expected_time_saved: float
    disagreeing_passes: int
    worst_classes: tuple[tuple[str, DisagreementCount], ...]
    """The live version's: names of classes, and how many of their audits disagree."""
    worst_keys: tuple[DisagreementCount, ...]


class OnlineTrainer:
    """Learns from records, chooses exits, certifies and publishes them; single-threaded, driven by :meth:`work`.

    Give it records by :meth:`ingest`, and time by :meth:`work`; without records there is nothing to do:

    >>> from layercache.early_exit.cutting.cuts import trace
    >>> settings = TrainerSettings(ring_mb=8, replay_mb=8)
    >>> one_cut = trace(traced.classifier, max_proposed=1)
    >>> trainer = OnlineTrainer(one_cut, HeadStore("memory://trainer", "fashion-mnist"), Promise(), settings)
    >>> trainer.work(seconds=60), trainer.progress().audits
    (60, 0)
    """

    def __init__(
        self,
        traced: TracedModel,
        store: HeadStore,
        promise: Promise,
        settings: TrainerSettings,
        make_durable: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        precisions: Sequence[PathPrecision] = (),
    ) -> None:
        """``make_durable`` must save that windows were used up or cleared; the trainer acts on that only afterwards.

        In ``precisions`` it tries the model itself as an exit, compiled.
        """
        self.traced = traced
        cuts = [cut.name for cut in traced.proposed]
        self.learner = Learner(traced, cuts, settings.ring_mb, settings.seed)
        tuning = self.learner.tuning.capacity
        if tuning < _ENOUGH_TUNING:
            log.warning(
                "there is room for %d tuning frames only: exits will be chosen coarsely; give the trainer more with "
                "trainer.ring_mb = %d", tuning, settings.ring_mb * _ENOUGH_TUNING / tuning,
            )  # fmt: skip
        #: The model itself in other precisions, as exits.
        self.compiled = CompiledRoutes(traced, precisions, self.learner.plain_times, self.learner.head_times)
        self.windows = Windows(settings.replay_mb, settings.window_frames, tuning, settings.seed, promise.min_span_s)
        self.options = Options(self.learner, self.compiled, self.windows, clock)
        self.intake = AuditIntake(self.windows, promise.block_s, promise.block_frames)
        self.published = LiveVersion(store, promise, len(traced.classifier.classes))
        self.certifier = Certifier(
            traced.classifier,
            self.published,
            self.intake,
            self.scores,
            settings.min_audit_rate,
            make_durable,
            now,
        )
        #: Called with every round's options before this trainer's own certifier: those of other budgets.
        self.choice_listeners: list[Callable[[Sequence[Option]], object]] = []
        self._make_durable = make_durable
        self._clock = clock
        self._next_choice = 0.0
        self._scored = 0
        self._best_seen = 0.0
        self._rounds_without_gain = 0
        self._numerics_told = False
        self.certifier.follow()

    @property
    def live(self) -> Manifest | None:
        """The manifest of the version that is live."""
        return self.published.live

    def ingest(self, batch: DistillationBatch) -> bool:
        """Takes in one record; False for another model's record, which is ignored."""
        classifier = self.traced.classifier
        shape = (classifier.preprocessing.channels, *classifier.preprocessing.size)
        if batch.header.model != classifier.fingerprint or batch.inputs.shape[1:] != shape:
            return False
        if batch.of_lessons:
            self.intake.take_lessons(batch)
            return True
        if batch.logits.shape[1] != len(classifier.classes):
            return False
        self.learner.times.take_worker_times(batch.header.segment_ms)
        self.compiled.judge_by(self.learner.times.batch)
        if self.published.watch(batch, self.intake.take(batch)):
            self._close()
        elif self.published.overload_alarmed:
            self._drop_overload()
        return True

    def work(self, seconds: float = 0.3) -> float:
        """Learns for about ``seconds``, now and then chooses, certifies and publishes; returns the seconds to rest."""
        began = self._clock()
        self.published.retry()
        fresh = self.windows.tuning.since(self._scored)
        if fresh is not None:
            self.learner.keep_for_tuning(fresh)
        self._scored = self.windows.tuning.added
        learnt = True
        while learnt and self._clock() - began < seconds:
            learnt = self.learner.learn(self.windows.learning, self.windows.misses, self.windows.lessons)
        # The first end opens as soon as there are audits to certify it. Making another takes a while, and is worth that
        # only where the first, once tried, has not saved what another precision might.
        tried = self.certifier.ledger.attempts > 0
        if not self.compiled.ends or (tried and self.published.time_saved < _ANOTHER_END_BELOW):
            self.compiled.make_end(self.windows.learning)
        if self._clock() >= self._next_choice:
            started, made = self._clock(), self.options.making_s
            self._choose()
            # What making paths takes is bounded apart.
            choosing = self._clock() - started - (self.options.making_s - made)
            self._next_choice = self._clock() + max(2.0, 4 * choosing)
        spent = self._clock() - began
        # Heads that have stopped improving deserve less and less of the machine.
        return spent * min(20.0, 0.5 * max(0, self._rounds_without_gain - _PATIENCE)) if learnt else seconds

    def progress(self) -> Progress:
        """Where things stand."""
        names, tally = self.traced.classifier.classes, self.published.tally
        return Progress(
            audits=self.intake.audits,
            repeated=self.intake.repeated_pictures,
            views=self.learner.views_made,
            tuning=len(self.learner.tuning),
            certification=len(self.windows.certification),
            independent=self.intake.independent(),
            scenes_outlast=bool(self.intake.scenes.outlast),
            misses=len(self.windows.misses),
            lessons=len(self.windows.lessons),
            attempts=self.certifier.ledger.attempts,
            version=self.live.version if self.live else None,
            expected_time_saved=self.published.time_saved,
            disagreeing_passes=self.learner.disagreeing_passes,
            worst_classes=tuple((names[count.name], count) for count in tally.worst_classes()),
            worst_keys=tuple(tally.worst_keys()),
        )

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Everything that a restart needs: tensors, and what JSON holds."""
        tensors = self.intake.tensors() | self.published.tally.tensors()
        for candidate in self.learner.candidates:
            tensors |= {f"candidate.{name}": value for name, value in candidate.state().items()}
        drift, overload_drift = self.published.drift, self.published.overload_drift
        return tensors, {
            "audits": self.intake.audits,
            "repeated_audits": self.intake.repeated_pictures,
            "scenes": self.intake.scenes.state(),
            "views": self.learner.views_made,
            "candidates": [candidate.name for candidate in self.learner.candidates],
            "live": self.live.version if self.live else None,
            "attempts": self.certifier.ledger.attempts,
            "drift": drift.state() if drift else None,
            "overload_drift": overload_drift.state() if overload_drift else None,
        }

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
        """Continues from a :meth:`snapshot`; heads whose cut or shape this trainer does not try are ignored."""
        self.intake.restore(tensors)
        self.intake.audits, self.learner.views_made = int(facts["audits"]), int(facts["views"])  # type: ignore[call-overload]
        self.intake.repeated_pictures = int(facts.get("repeated_audits", 0))  # type: ignore[call-overload]
        self.intake.scenes.restore(facts.get("scenes"))
        weights = {name.removeprefix("candidate."): t for name, t in tensors.items() if name.startswith("candidate.")}
        for candidate in self.learner.candidates:
            try:
                candidate.restore(weights)
            except (KeyError, RuntimeError, ValueError) as error:
                log.warning("head %s starts anew: the checkpoint has another one (%s)", candidate.name, error)
        self._distrust_old_windows(facts)
        self.published.restore(facts["live"], facts["drift"], tensors, facts.get("overload_drift"))

    def _distrust_old_windows(self, facts: dict[str, object]) -> None:
        """Clears windows of a checkpoint from before the last attempt or alarm: their frames must not be used again."""
        made = int(facts["attempts"])  # type: ignore[call-overload]
        if self.certifier.ledger.restore(made):
            self.intake.begin_lineage()
        if self.certifier.ledger.attempts != made:
            self.windows.certification.clear()
        if self.live is not None and self.live.reason == "unsafe" and self.live.version != facts["live"]:
            self._forget_stream()

    def _choose(self) -> None:
        """Scores the candidates on the tuning audits and hands the scores to the certifiers."""
        if len(self.learner.tuning) < min(FEWEST_TUNING, self.learner.tuning.capacity):
            return
        if self._numerics_differ():
            return
        options = self.options.score()
        risk = _USUAL_RISK * self.published.promise.max_disagreement
        of_heads = self.options.of_heads(options)
        if of_heads is not None:
            best = choose(of_heads, risk)
            self._note_progress(best.time_saved if best else 0.0)
            self.learner.prioritise(self.options.worth_of_heads(of_heads, risk), one_counts=bool(self.compiled.ends))
            live = self.published.time_saved
            # The first version is the compiled end alone, which needs no learning.
            if best and live and is_worthwhile(best.time_saved, live) and self.certifier.is_ready():
                options = self.options.score() if self.options.put_on_path(best) else options
        for consider in self.choice_listeners:
            consider(options)
        self.certifier.consider(options)

    def _numerics_differ(self) -> bool:
        """Whether workers give so many frames other labels than the model does here that a test here is not theirs."""
        differ, compared = self.learner.disagreeing_passes, self.learner.compared_passes
        share = _NUMERICS_SHARE * self.published.promise.max_disagreement
        if lower_bound(differ, compared, 1 - self.published.promise.confidence) <= share:
            return False
        if not self._numerics_told:
            log.warning(
                "the model here and the workers' give different labels to %d of %d frames: nothing is certified for "
                "workers that compute otherwise. Give both the same model.runtime, device and dtype, and restart the "
                "trainer", differ, compared,
            )  # fmt: skip
            self._numerics_told = True
        return True

    def _note_progress(self, saved: float) -> None:
        """Counts the rounds without an improvement; all rounds are judged at the same risk."""
        self._rounds_without_gain = 0 if saved > self._best_seen + _PROGRESS else self._rounds_without_gain + 1
        self._best_seen = max(self._best_seen, saved)

    def scores(
        self, manifest: Manifest, tensors: dict[str, Tensor], frames: Frames
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Every exit's score and label, ``[N, exits]``: the engine that workers serve with runs the heads as stored."""
        engine = Engine(self.traced, load_heads(manifest, tensors, self.traced))
        parts = [engine.score(part) for part in torch.from_numpy(frames.inputs).split(_SCORE_BATCH)]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([labels for _, labels in parts])

    def _close(self) -> None:
        """The live version exceeds its budget: close every exit, forget the stream as it was, learn again."""
        drift = self.published.drift
        assert drift is not None
        log.warning(
            "the live exits exceed their budget (%d disagreements in %d audits): closing them and learning again",
            drift.disagreements,
            drift.audits,
        )
        self._forget_stream()
        self._make_durable()  # a restart must not bring back the old stream's windows
        self.certifier.close()

    def _drop_overload(self) -> None:
        """The overload thresholds exceed their budget: go on without, and certify others on frames from now on."""
        drift = self.published.overload_drift
        assert drift is not None
        log.warning(
            "the thresholds for overload exceed their budget of %.4f (%d disagreements in %d audits): dropping them",
            drift.budget,
            drift.disagreements,
            drift.audits,
        )
        self.windows.certification.clear()
        self._make_durable()  # as in _close
        self.certifier.drop_overload()

    def _forget_stream(self) -> None:
        self.windows.clear()
        self.intake.scenes.clear()
        self._scored = 0
        self.learner.forget()
        self.compiled.forget()
        self._best_seen, self._rounds_without_gain = 0.0, 0
