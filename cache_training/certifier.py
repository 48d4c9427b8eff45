"""When to attempt a certificate, on which frames, and what to publish of it. Learning is somebody else's business."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cache_training import versions
from cache_training.audits import Intake
from cache_training.candidates import Costs
from cache_training.certificate import ClassCap, Verdict, allowed, attempt_error, certify, verdict_of
from cache_training.choosing import DOUBTS, Choice, Scored, choose
from cache_training.classes import Grouping, fewest_frames, grouped, worst_classes
from cache_training.dealing import one_per_block
from cache_training.frames import Frames, together
from cache_training.published import Published
from cache_training.times import BatchTimes
from early_exit.policy import cascade
from schemas.manifest import Certificate, Expected, Manifest
from schemas.settings import Promise

log = logging.getLogger(__name__)

#: An attempt waits until its window would tolerate this share of the budget: opening early comes first, then going near
#: the budget, which takes a larger window.
_FIRST_TOLERANCE, _LATER_TOLERANCE = 0.2, 0.5
#: A later attempt must promise to save this much more time than the live version does: relative, and of the whole.
_WORTHWHILE, _AT_LEAST = 1.05, 0.05
#: Share of the tolerated risk that tuning aims at: beyond it an attempt tends to fail.
AIM = 0.8
#: Of what the boldest certified setting saves.
_NEARLY = 0.96

#: Every exit's score and label, ``[N, exits]`` each, that the engine gives N frames with a draft's heads as stored.
Score = Callable[[Manifest, dict[str, Tensor], Frames], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]


@dataclass(frozen=True)
class _Settings:
    """What every setting of the family, from the safest to the boldest, does with the frames of an attempt."""

    exits: list[npt.NDArray[np.int32]]
    """Where each of N frames leaves, -1: nowhere; by setting."""
    wrong: npt.NDArray[np.bool_]
    """``[settings, N]``: answered otherwise than by the full model."""


class Certifier:
    """Attempts certificates on the intake's certification window and publishes what passes.

    The promise is kept whatever the heads are like and however they were tuned: the window is a fair sample of the
    stream that nothing has been learnt or tuned on, when to test depends on how many frames it holds and not on what
    they say, its attempt is claimed before they are looked at, and they never certify again. So all it takes from
    outside are scores: the candidates' on tuning audits, for :meth:`consider`, and ``score`` for the test.
    """

    def __init__(
        self,
        model: versions.ServedModel,
        published: Published,
        intake: Intake,
        cut_costs: dict[str, Costs],
        score: Score,
        min_audit_rate: float,
        make_durable: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        times: BatchTimes | None = None,
    ) -> None:
        """``make_durable`` must save that a window was used up; nobody looks at it before.

        ``times`` judge what exits save; without them it is ``cut_costs``, the same for every frame.
        """
        self._model = model
        self._published = published
        self._intake = intake
        self._cut_costs = cut_costs
        self._score = score
        self._min_audit_rate = min_audit_rate
        self._make_durable = make_durable
        self._now = now
        self._times = times
        self._said_waiting = 0.0  # for attempts of this error

    @property
    def _promise(self) -> Promise:
        return self._published.promise

    def follow(self) -> None:
        """Takes up what the store says is live, and closes its exits where less was certified than is promised."""
        if not self._published.follow():
            assert self._published.live is not None
            log.warning(
                "version %s was certified for less than is promised now: closing its exits",
                self._published.live.version,
            )
            self.close()

    def close(self) -> None:
        """Publishes a version without exits."""
        self._published.publish(*self._draft(None))

    def consider(self, scored: Sequence[Scored]) -> bool:
        """Attempts to certify the best choice of candidates, ``scored`` on tuning audits, where that is worth it.

        That is: where the window is large enough to get somewhere, and tuning expects enough. True where it was tried.
        """
        self.follow()
        window = self._intake.windows.certification.frames()
        if window is None:
            return False
        frames = len(one_per_block(window.block))
        error = attempt_error(self._published.store.attempts() + 1, self._promise.confidence)
        tolerated = max(0, allowed(frames, self._promise.max_disagreement, error)) / frames
        live = self._published.time_saved
        wanted = _LATER_TOLERANCE if live else _FIRST_TOLERANCE
        if tolerated < wanted * self._promise.max_disagreement or not self._classes_suffice(frames, error, wanted):
            return False
        choice = choose(scored, self._cut_costs, AIM * tolerated, self._times)
        if choice is None or choice.time_saved <= max(live * _WORTHWHILE, live + _AT_LEAST):
            return False
        self._attempt(choice)
        return True

    def _classes_suffice(self, frames: int, error: float, wanted: float) -> bool:
        """Whether a window of so many frames should hold enough of every class, judged by other frames' classes."""
        cap, window = self._promise.max_class_disagreement, self._intake.windows.certification
        grouping = self._grouping(error)
        if cap is None or grouping is None:
            return True
        fewest = int(frames * grouping.shares.min())
        if len(window) >= window.capacity or allowed(fewest, cap, error) >= max(1.0, wanted * cap * fewest):
            return True
        if error != self._said_waiting:
            log.info(
                "the next attempt waits for more audits of the rarest class, or of the rare ones together "
                "(of %d groups): about %d so far, at least %d are needed",
                len(grouping.shares), fewest, fewest_frames(cap, error),
            )  # fmt: skip
            self._said_waiting = error
        return False

    def _grouping(self, error: float) -> Grouping | None:
        """Which classes are tested alone, None without a cap.

        Judged by the learning and tuning windows, so that no frame that certifies decides how it is counted.
        """
        windows, cap = self._intake.windows, self._promise.max_class_disagreement
        if cap is None:
            return None
        counts = np.zeros(len(self._model.classes), np.int64)
        others = together((windows.learning.frames(), windows.tuning.frames()))
        if others is not None:
            counts += np.bincount(others.labels[one_per_block(others.block)], minlength=len(counts))
        waiting = windows.certification.frames()
        independent = len(one_per_block(waiting.block)) / len(waiting) if waiting is not None else 1.0
        return grouped(counts, fewest_frames(cap, error), int(windows.certification.capacity * independent))

    def _attempt(self, choice: Choice) -> None:
        """One attempt: claimed first, its frames marked as used, and only then looked at."""
        attempt = self._published.store.claim_attempt()
        error = attempt_error(attempt, self._promise.confidence)
        grouping = self._grouping(error)
        window = self._intake.use_up()
        self._make_durable()
        tested = window.rows(one_per_block(window.block))
        most = self._promise.max_class_disagreement
        cap = ClassCap(most, grouping.group[tested.labels], len(grouping.shares)) if most and grouping else None
        manifest, tensors = self._draft(choice)
        settings = _run(*self._score(manifest, tensors, tested), tested.labels)
        verdict = certify(settings.wrong, self._promise.max_disagreement, error, cap)
        if verdict is None:
            log.info("attempt %d on %d frames certified nothing", attempt, len(tested))
            return
        verdict, expectation = self._settle(choice, settings, verdict, error)
        if expectation.time_saved <= self._published.time_saved:
            saved = 100 * expectation.time_saved
            log.info("attempt %d certified %.1f %% of time saved, the live version saves more", attempt, saved)
            return
        wrong = settings.wrong[verdict.index]
        certificate = Certificate(
            max_disagreement=self._promise.max_disagreement,
            confidence=self._promise.confidence,
            attempt=attempt,
            error=error,
            frames=verdict.frames,
            disagreements=verdict.disagreements,
            p_value=verdict.p_value,
            upper_bound=verdict.upper_bound,
            max_class_disagreement=most,
            classes_tested=grouping.alone if grouping else 0,
            class_upper_bound=cap.upper_bound(wrong, error) if cap else None,
            worst_classes=worst_classes(wrong, tested.labels, self._model.classes, error),
        )
        self._published.publish(versions.certified(manifest, verdict.index, certificate, expectation), tensors)

    def _draft(self, choice: Choice | None) -> tuple[Manifest, dict[str, Tensor]]:
        live, costs = self._published.live, self._cut_costs
        return versions.draft(self._model, live, choice, costs, self._min_audit_rate, self._now())

    def _settle(self, choice: Choice, settings: _Settings, boldest: Verdict, error: float) -> tuple[Verdict, Expected]:
        """The safest setting that saves nearly as much as the boldest: the last savings are the dearest in risk.

        Every setting up to the boldest has passed, so that any of them may be taken.
        """
        most = versions.expected(choice, settings.exits[boldest.index], self._cut_costs, self._times).time_saved
        for index in range(boldest.index + 1):
            expectation = versions.expected(choice, settings.exits[index], self._cut_costs, self._times)
            if expectation.time_saved >= _NEARLY * most:
                break
        return verdict_of(index, settings.wrong[index], self._promise.max_disagreement, error), expectation


def _run(scores: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], full: npt.NDArray[np.int64]) -> _Settings:
    """Scores and labels of the exits, ``[N, exits]``; ``full`` ``[N]``: the full model's labels."""
    exits = [cascade(scores, np.full(scores.shape[1], 1 - doubt, np.float32)) for doubt in DOUBTS]
    answered = [np.where(e >= 0, labels[np.arange(len(e)), e], full) for e in exits]
    return _Settings(exits, np.stack([label != full for label in answered]))
