"""The trainer without Kafka: records in, certified versions of heads out."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cache_training import versions
from cache_training.audits import Intake, Windows
from cache_training.certificate import Verdict, allowed, attempt_error, certify, verdict_of
from cache_training.choosing import DOUBTS, Choice, Scored, calibrated, choose
from cache_training.dealing import one_per_block
from cache_training.frames import Frames
from cache_training.learner import Learner
from early_exit.cuts import TracedModel
from early_exit.drift import DriftDetector
from early_exit.engine import Engine
from early_exit.heads import load_heads
from early_exit.policy import cascade
from early_exit.store import HeadStore, StoreError
from schemas.distillation import DistillationBatch
from schemas.manifest import Expected, Manifest
from schemas.settings import Promise
from schemas.settings import Trainer as TrainerSettings

log = logging.getLogger(__name__)

#: An attempt waits until its window would tolerate this share of the budget: opening early comes first, then going near
#: the budget, which takes a larger window.
_FIRST_TOLERANCE, _LATER_TOLERANCE = 0.2, 0.5
#: A later attempt must promise to save this much more time than the live version does: relative, and of the whole.
_WORTHWHILE, _AT_LEAST = 1.05, 0.05
#: Share of the tolerated risk that tuning aims at: beyond it an attempt tends to fail.
_AIM = 0.8
#: Of what the boldest certified setting saves.
_NEARLY = 0.96
_FEWEST_TUNING = 100
#: Saving this much more of the time counts as progress; after so many rounds without, learning slows down.
_PROGRESS, _PATIENCE = 0.005, 40
_SCORE_BATCH = 64
_UNSAFE_LEVEL_SHARE = 0.2


@dataclass(frozen=True)
class Progress:
    """Where the trainer stands, for the log."""

    audits: int
    views: int
    tuning: int
    certification: int
    misses: int
    attempts: int
    version: str | None
    expected_time_saved: float
    disagreeing_passes: int


class OnlineTrainer:
    """Learns from records, chooses exits, certifies and publishes them; single-threaded, driven by :meth:`work`.

    >>> trainer = OnlineTrainer(traced, store, promise, settings)      # doctest: +SKIP
    >>> trainer.ingest(batch); trainer.work()                          # doctest: +SKIP
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
    ) -> None:
        """``make_durable`` must save that windows were used up or given up; nobody acts on it before."""
        self.traced = traced
        self.store = store
        self.promise = promise
        cuts = [cut.name for cut in traced.proposed]
        self.learner = Learner(traced, cuts, settings.ring_mb, settings.seed)
        self.windows = Windows(settings.replay_mb, settings.window_frames, self.learner.tuning.capacity, settings.seed)
        self.intake = Intake(self.windows, promise.block_s)
        self.live: Manifest | None = None
        self.drift: DriftDetector | None = None
        self._settings = settings
        self._make_durable = make_durable
        self._clock, self._now = clock, now
        self._next_choice = 0.0
        self._scored = 0
        self._unreadable: str | None = None
        self._unpublished: tuple[Manifest, dict[str, Tensor]] | None = None
        self._best_seen = 0.0
        self._rounds_without_gain = 0
        self._follow_store()

    def _follow_store(self) -> None:
        """Takes up what the store says is live, whoever put it there: an earlier trainer, or an operator's rollback."""
        latest = self.store.latest()
        if latest is None or (self.live is not None and self.live.version == latest):
            return
        try:
            self._set_live(self.store.load(latest)[0])
        except StoreError as error:
            if latest != self._unreadable:
                log.warning("%s; going on as if there were no such version", error)
            self._unreadable = latest
            return
        certificate = self.live.certificate if self.live else None
        if certificate and (
            certificate.max_disagreement > self.promise.max_disagreement
            or certificate.confidence < self.promise.confidence
        ):
            log.warning("version %s was certified for less than is promised now: closing its exits", latest)
            self._publish(*self._draft(None))

    def _set_live(self, manifest: Manifest) -> None:
        self.live = manifest
        level = (1 - self.promise.confidence) * _UNSAFE_LEVEL_SHARE
        self.drift = DriftDetector(self.promise.max_disagreement, level) if manifest.exits else None
        self.intake.forget_tested()

    def ingest(self, batch: DistillationBatch) -> bool:
        """Takes in one record; False where it is another model's, which is left alone."""
        classifier = self.traced.classifier
        shape = (classifier.preprocessing.channels, *classifier.preprocessing.size)
        if batch.header.model != classifier.fingerprint or batch.inputs.shape[1:] != shape:
            return False
        if batch.logits.shape[1] != len(classifier.classes):
            return False
        self.intake.take(batch, self.live.version if self.live else None, self.drift)
        if self.drift is not None and self.drift.alarmed:
            self._close()
        return True

    def work(self, seconds: float = 0.3) -> float:
        """Learns for about ``seconds``, now and then chooses, certifies, publishes; returns how long to rest."""
        began = self._clock()
        if self._unpublished is not None:
            self._publish(*self._unpublished)
        fresh = self.windows.tuning.since(self._scored)
        if fresh is not None:
            self.learner.keep_for_tuning(fresh)
        self._scored = self.windows.tuning.added
        learnt = True
        while learnt and self._clock() - began < seconds:
            learnt = self.learner.learn(self.windows.learning, self.windows.misses)
        if self._clock() >= self._next_choice:
            started = self._clock()
            self._choose()
            self._next_choice = self._clock() + max(2.0, 3 * (self._clock() - started))
        spent = self._clock() - began
        # Heads that have stopped improving deserve less and less of the machine.
        return spent * min(20.0, 0.5 * max(0, self._rounds_without_gain - _PATIENCE)) if learnt else seconds

    def progress(self) -> Progress:
        """Where things stand."""
        return Progress(
            audits=self.intake.audits,
            views=self.learner.views_made,
            tuning=len(self.learner.tuning),
            certification=len(self.windows.certification),
            misses=len(self.windows.misses),
            attempts=self.store.attempts(),
            version=self.live.version if self.live else None,
            expected_time_saved=self._live_saving(),
            disagreeing_passes=self.learner.disagreeing_passes,
        )

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Everything that a restart needs: tensors, and what JSON holds."""
        tensors = {"seen": torch.from_numpy(self.intake.seen.array().view(np.int64))}
        for name, window in self.windows.all().items():
            frames = window.frames()
            if frames is not None:
                tensors |= frames.tensors(f"window.{name}")
        for candidate in self.learner.candidates:
            tensors |= {f"candidate.{name}": value for name, value in candidate.state().items()}
        return tensors, {
            "audits": self.intake.audits,
            "views": self.learner.views_made,
            "candidates": [candidate.name for candidate in self.learner.candidates],
            "live": self.live.version if self.live else None,
            "attempts": self.store.attempts(),
            "used_blocks": [str(block) for block in self.intake.used_blocks],
            "drift": self.drift.state() if self.drift else None,
        }

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, object]) -> None:
        """Goes on from what :meth:`snapshot` gave; heads whose cut or shape is no longer tried start anew."""
        self.intake.seen.restore(tensors["seen"].numpy().view(np.uint64))
        self.intake.audits, self.learner.views_made = int(facts["audits"]), int(facts["views"])  # type: ignore[call-overload]
        for name, window in self.windows.all().items():
            if f"window.{name}.inputs" in tensors:
                frames = Frames.from_tensors(f"window.{name}", tensors)
                self.windows.bound(frames)
                window.add(frames)
        weights = {name.removeprefix("candidate."): t for name, t in tensors.items() if name.startswith("candidate.")}
        for candidate in self.learner.candidates:
            try:
                candidate.restore(weights)
            except (KeyError, RuntimeError, ValueError) as error:
                log.warning("head %s starts anew: the checkpoint has another one (%s)", candidate.name, error)
        self.intake.used_blocks = {int(block) for block in facts["used_blocks"]}  # type: ignore[attr-defined]
        self._distrust_old_windows(facts)
        drift = facts["drift"]
        if self.drift is not None and isinstance(drift, dict) and self.live and facts["live"] == self.live.version:
            try:
                self.drift.restore(drift)
            except ValueError as error:
                log.warning("watching the live version anew: %s", error)

    def _distrust_old_windows(self, facts: dict[str, object]) -> None:
        """A checkpoint from before the last attempt or alarm may hold frames that must not be used again."""
        if self.store.attempts() != facts["attempts"]:
            self.windows.certification.clear()
        if self.live is not None and self.live.reason == "unsafe" and self.live.version != facts["live"]:
            self._forget_stream()

    def _live_saving(self) -> float:
        return self.live.expected.time_saved if self.live and self.live.exits and self.live.expected else 0.0

    def _choose(self) -> None:
        """Attempts to certify the best choice where tuning expects enough of it and the window is large enough."""
        window = self.windows.certification.frames()
        if window is None or len(self.learner.tuning) < _FEWEST_TUNING or not self.learner.views_made:
            return
        self._follow_store()
        budget = self.promise.max_disagreement
        window = window.rows(one_per_block(window.block))
        error = attempt_error(self.store.attempts() + 1, self.promise.confidence)
        tolerated = max(0, allowed(len(window), budget, error)) / len(window)
        scored = self._scored_candidates()
        self._note_progress(choose(scored, self.learner.cut_costs, 0.5 * budget))
        wanted = (_LATER_TOLERANCE if self._live_saving() else _FIRST_TOLERANCE) * budget
        if tolerated < wanted:
            return
        choice = choose(scored, self.learner.cut_costs, _AIM * tolerated)
        live = self._live_saving()
        if choice is not None and choice.time_saved > max(live * _WORTHWHILE, live + _AT_LEAST):
            self._attempt(choice)

    def _scored_candidates(self) -> list[Scored]:
        rows = torch.arange(len(self.learner.tuning))
        labels = self.learner.tuning.logits(rows).argmax(1).numpy()
        return [
            calibrated(candidate, self.learner.tuning_logits(candidate, rows).double().numpy(), labels)
            for candidate in self.learner.candidates
        ]

    def _note_progress(self, best: Choice | None) -> None:
        """Whether heads still improve, judged at one and the same risk."""
        saved = best.time_saved if best else 0.0
        self._rounds_without_gain = 0 if saved > self._best_seen + _PROGRESS else self._rounds_without_gain + 1
        self._best_seen = max(self._best_seen, saved)

    def _attempt(self, choice: Choice) -> None:
        """One attempt: claimed first, its frames marked as used, and only then looked at."""
        attempt = self.store.claim_attempt()
        error = attempt_error(attempt, self.promise.confidence)
        window = self.windows.certification.frames()
        assert window is not None
        window = window.rows(slice(None))
        self.windows.certification.clear()
        self.intake.used_blocks = set(window.block.tolist())
        self.windows.learning.add(window)
        self._make_durable()
        tested = window.rows(one_per_block(window.block))
        manifest, tensors = self._draft(choice)
        scores, labels = self._scores(manifest, tensors, tested)
        exits = [cascade(scores, np.full(scores.shape[1], 1 - doubt, np.float32)) for doubt in DOUBTS]
        chosen = [np.where(e >= 0, labels[np.arange(len(e)), e], tested.labels) for e in exits]
        wrong = np.stack([label != tested.labels for label in chosen])
        verdict = certify(wrong, self.promise.max_disagreement, error)
        if verdict is None:
            log.info("attempt %d on %d frames certified nothing", attempt, len(tested))
            return
        verdict, expectation = self._settle(choice, exits, wrong, verdict, error)
        if expectation.time_saved <= self._live_saving():
            saved = 100 * expectation.time_saved
            log.info("attempt %d certified %.1f %% of time saved, the live version saves more", attempt, saved)
            return
        self._publish(versions.certified(manifest, self.promise, attempt, error, verdict, expectation), tensors)

    def _draft(self, choice: Choice | None) -> tuple[Manifest, dict[str, Tensor]]:
        costs, least = self.learner.cut_costs, self._settings.min_audit_rate
        return versions.draft(self.traced.classifier, self.live, choice, costs, least, self._now())

    def _settle(
        self,
        choice: Choice,
        exits: list[npt.NDArray[np.int32]],
        wrong: npt.NDArray[np.bool_],
        boldest: Verdict,
        error: float,
    ) -> tuple[Verdict, Expected]:
        """The safest setting that saves nearly as much as the boldest: the last savings are the dearest in risk.

        Every setting up to the boldest has passed, so that any of them may be taken.
        """
        costs = self.learner.cut_costs
        most = versions.expected(choice, exits[boldest.index], costs).time_saved
        for index in range(boldest.index + 1):
            expectation = versions.expected(choice, exits[index], costs)
            if expectation.time_saved >= _NEARLY * most:
                break
        return verdict_of(index, wrong[index], self.promise.max_disagreement, error), expectation

    def _scores(
        self, manifest: Manifest, tensors: dict[str, Tensor], frames: Frames
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """By the very engine that will serve, with the heads as they are stored."""
        engine = Engine(self.traced, load_heads(manifest, tensors, self.traced))
        parts = [engine.score(part) for part in torch.from_numpy(frames.inputs).split(_SCORE_BATCH)]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([labels for _, labels in parts])

    def _publish(self, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        # A store that cannot be written to now must not cost what has been certified: tried again with the next work.
        self._unpublished = manifest, tensors
        manifest = self.store.publish(manifest, tensors)
        self._unpublished = None
        self._set_live(manifest)
        log.info("published %s", versions.described(manifest))

    def _close(self) -> None:
        """The live version has left its budget: close every exit, forget the stream as it was, learn again."""
        assert self.drift is not None
        log.warning(
            "the live exits have left their budget (%d disagreements in %d audits): closing them and learning again",
            self.drift.disagreements,
            self.drift.audits,
        )
        self._forget_stream()
        self._make_durable()  # a restart must not bring back the windows of the stream that has gone
        self._publish(*self._draft(None))

    def _forget_stream(self) -> None:
        self.windows.clear()
        self._scored = 0
        self.learner.forget()
        self._best_seen, self._rounds_without_gain = 0.0, 0
