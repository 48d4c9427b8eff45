"""When to attempt a certificate, on which frames, and what to publish of it.

:mod:`layercache.cache_training.learning` teaches the heads.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from torch import Tensor

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.attempt import Attempt
from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.certificate import (
    ClassCap,
    Errors,
    Verdict,
    allowed,
    certify,
    certify_bolder,
)
from layercache.cache_training.certifying.choosing import ExitChoice, ScoredCandidate, choose
from layercache.cache_training.certifying.classes import Grouping, fewest_frames, group_classes
from layercache.cache_training.certifying.dealing import one_per_block
from layercache.cache_training.certifying.live_version import LiveVersion
from layercache.cache_training.learning.batch_times import BatchTimes
from layercache.cache_training.learning.candidates import Costs
from layercache.cache_training.learning.kept_frames import Frames, concatenate
from layercache.schemas.manifest import Expected, Manifest, Overload
from layercache.schemas.settings import Promise

log = logging.getLogger(__name__)

#: An attempt waits until its window would tolerate this share of the budget. The first attempt should open exits early;
#: later ones should come near the budget, which takes a larger window.
FIRST_TOLERANCE, _LATER_TOLERANCE = 0.2, 0.5
#: A later attempt must be expected to save this much more time than the live version: as a factor, and in shares of
#: the plain model's time.
_WORTHWHILE, _AT_LEAST = 1.05, 0.05
#: Tuning aims at this share of the tolerated risk: above it attempts tend to fail.
AIM = 0.8
#: Overload thresholds are published only if they make a worker this many times as fast as the everyday ones.
_FASTER = 1.05
#: A version is published for its overload thresholds alone where it saves nearly as much as a live one without any.
_NEARLY = 0.96

#: Every exit's score and label, ``[N, exits]`` each, that the engine gives N frames with a draft's heads as stored.
Score = Callable[[Manifest, dict[str, Tensor], Frames], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]


class Certifier:
    """Attempts certificates on the intake's certification window and publishes what passes.

    The promise holds for any heads, however they were tuned, for four reasons. The window is a fair sample of the
    stream on which nothing was learnt or tuned. When to test depends on the number of its frames, not on their answers.
    The attempt is claimed before the frames are looked at. The frames never certify again. So the certifier takes only
    scores from outside: the candidates' on tuning audits, for :meth:`consider`, and ``score`` for the test.
    """

    def __init__(
        self,
        model: versions.ServedModel,
        published: LiveVersion,
        intake: AuditIntake,
        cut_costs: dict[str, Costs],
        score: Score,
        min_audit_rate: float,
        make_durable: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        times: BatchTimes | None = None,
    ) -> None:
        """``make_durable`` must save that a window was used up; the certifier looks at its frames only afterwards.

        ``times`` say what exits save; without them ``cut_costs`` do, the same for every frame.
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
        self._waiting_logged_for_error = 0.0  # logged once per error level

    @property
    def _promise(self) -> Promise:
        return self._published.promise

    def follow(self) -> None:
        """Follows the store's live version, and closes its exits if it was certified for less than is promised."""
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

    def drop_overload(self) -> None:
        """Publishes the live version without its overload thresholds, which audits have shown to be unsafe."""
        self.follow()
        live = self._published.live
        if live is None or not self._published.overload_alarmed:  # an operator's rollback came first
            return
        _, tensors = self._published.store.load(live.version)
        self._published.publish(versions.without_overload(live, self._now()), tensors)

    def consider(self, scored: Sequence[ScoredCandidate]) -> bool:
        """Attempts to certify the best choice of candidates, ``scored`` on tuning audits, if that is worth an attempt.

        It is if the window is large enough to certify something, and the savings expected from tuning are large enough.
        True if an attempt was made.
        """
        self.follow()
        window = self._intake.windows.certification.frames()
        if window is None:
            return False
        frames = len(one_per_block(window.block))
        errors = self._errors(self._published.store.attempts() + 1)
        error = errors.normal
        tolerated = max(0, allowed(frames, self._promise.max_disagreement, error)) / frames
        live = self._published.time_saved
        wanted = _LATER_TOLERANCE if live else FIRST_TOLERANCE
        if tolerated < wanted * self._promise.max_disagreement or not self._classes_suffice(frames, error, wanted):
            return False
        choice = choose(scored, self._cut_costs, AIM * tolerated, self._times)
        if choice is None:
            return False
        if not _worthwhile(choice.time_saved, live) and not self._overload_worthwhile(choice, frames, errors.overload):
            return False
        self._attempt(choice)
        return True

    def _errors(self, attempt: int) -> Errors:
        promise = self._promise
        return Errors.of(attempt, promise.confidence, promise.overload_max_disagreement is not None)

    def _overload_worthwhile(self, choice: ExitChoice, frames: int, error: float) -> bool:
        """Whether ``choice`` adds savings under overload that the live version lacks, and saves as much otherwise."""
        budget, live = self._promise.overload_max_disagreement, self._published.time_saved
        if budget is None or not self._published.lacks_overload or choice.time_saved < _NEARLY * live:
            return False
        tolerated = max(0, allowed(frames, budget, error)) / frames
        bolder = choose(choice.exits, self._cut_costs, AIM * tolerated, self._times)
        return bolder is not None and _worthwhile(bolder.time_saved, live)

    def _classes_suffice(self, frames: int, error: float, wanted: float) -> bool:
        """Whether a window of ``frames`` should hold enough of every class, judged by the classes of other frames."""
        cap, window = self._promise.max_class_disagreement, self._intake.windows.certification
        grouping = self._grouping(error)
        if cap is None or grouping is None:
            return True
        fewest = int(frames * grouping.shares.min())
        if len(window) >= window.capacity or allowed(fewest, cap, error) >= max(1.0, wanted * cap * fewest):
            return True
        if error != self._waiting_logged_for_error:
            log.info(
                "the next attempt waits for more audits of the rarest class, or of the rare ones together "
                "(of %d groups): about %d so far, at least %d are needed",
                len(grouping.shares), fewest, fewest_frames(cap, error),
            )  # fmt: skip
            self._waiting_logged_for_error = error
        return False

    def _grouping(self, error: float) -> Grouping | None:
        """Which classes have a test of their own; None without a cap.

        The learning and tuning windows decide that, so that no frame that certifies decides how it is counted.
        """
        windows, cap = self._intake.windows, self._promise.max_class_disagreement
        if cap is None:
            return None
        counts = np.zeros(len(self._model.classes), np.int64)
        others = concatenate((windows.learning.frames(), windows.tuning.frames()))
        if others is not None:
            counts += np.bincount(others.labels[one_per_block(others.block)], minlength=len(counts))
        waiting = windows.certification.frames()
        independent = len(one_per_block(waiting.block)) / len(waiting) if waiting is not None else 1.0
        return group_classes(counts, fewest_frames(cap, error), int(windows.certification.capacity * independent))

    def _attempt(self, choice: ExitChoice) -> None:
        """One attempt: claims it, marks its frames as used, and only then looks at them."""
        number = self._published.store.claim_attempt()
        errors, promise, classes = self._errors(number), self._promise, self._model.classes
        grouping = self._grouping(errors.normal)
        window = self._intake.use_up()
        self._make_durable()
        tested = window.rows(one_per_block(window.block))
        most = promise.max_class_disagreement
        cap = ClassCap(most, grouping.group[tested.labels], len(grouping.shares)) if most and grouping else None
        manifest, tensors = self._draft(choice)
        scores, answers = self._score(manifest, tensors, tested)
        alone = grouping.alone if grouping else 0
        attempt = Attempt.run(number, promise.confidence, choice, scores, answers, tested.labels, cap, alone)
        boldest = certify(attempt.wrong, promise.max_disagreement, errors.normal, cap)
        if boldest is None:
            log.info("attempt %d on %d frames certified nothing", number, len(tested))
            return
        index, expectation = attempt.settle(range(boldest.index + 1), self._cut_costs, self._times)
        overload = self._overload(attempt, manifest, boldest, expectation, errors.overload)
        if not self._improves_on_live(expectation, overload):
            saved = 100 * expectation.time_saved
            log.info("attempt %d certified %.1f %% of time saved, the live version saves more", number, saved)
            return
        certificate = attempt.certificate(index, promise.max_disagreement, errors.normal, classes)
        self._published.publish(versions.with_certificate(manifest, index, certificate, expectation, overload), tensors)

    def _overload(
        self, attempt: Attempt, manifest: Manifest, boldest: Verdict, normal: Expected, error: float
    ) -> Overload | None:
        """The same exits under the overload budget; None where none is promised, or they would hardly be faster."""
        budget = self._promise.overload_max_disagreement
        if budget is None:
            return None
        verdict = certify_bolder(attempt.wrong, boldest, budget, error, attempt.cap)
        if verdict is None:
            log.info("attempt %d certified nothing bolder for overload's %.2f %%", attempt.number, 100 * budget)
            return None
        bolder = range(boldest.index + 1, verdict.index + 1)
        index, expectation = attempt.settle(bolder, self._cut_costs, self._times)
        faster = (1 - normal.time_saved) / (1 - expectation.time_saved)
        if faster < _FASTER:
            log.info("attempt %d: under overload these exits would be but %.2f times as fast", attempt.number, faster)
            return None
        return Overload(
            thresholds=versions.thresholds(manifest, index),
            certificate=attempt.certificate(index, budget, error, self._model.classes),
            expected=expectation,
        )

    def _improves_on_live(self, expectation: Expected, overload: Overload | None) -> bool:
        """Whether a version with these expected savings should replace the live one."""
        live = self._published.time_saved
        if expectation.time_saved > live:
            return True
        return overload is not None and self._published.lacks_overload and expectation.time_saved >= _NEARLY * live

    def _draft(self, choice: ExitChoice | None) -> tuple[Manifest, dict[str, Tensor]]:
        live, costs = self._published.live, self._cut_costs
        return versions.draft(self._model, live, choice, costs, self._min_audit_rate, self._now())


def _worthwhile(saved: float, live: float) -> bool:
    """Whether it is worth an attempt to save ``saved`` of the time, if the live version saves ``live``."""
    return saved > max(live * _WORTHWHILE, live + _AT_LEAST)
