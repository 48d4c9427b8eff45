"""What to attempt a certificate with, on which frames, and what to publish of it.

:mod:`layercache.cache_training.learning` teaches the heads.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from torch import Tensor

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.attempt import Attempt
from layercache.cache_training.certifying.attempt_ledger import AttemptLedger
from layercache.cache_training.certifying.audit_rates import StreamPace, next_rate
from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.binomial import allowed
from layercache.cache_training.certifying.certificate import (
    ClassCap,
    Errors,
)
from layercache.cache_training.certifying.choosing import ExitChoice, Option, choose_among
from layercache.cache_training.certifying.error_shares import ErrorShare
from layercache.cache_training.certifying.live_version import LiveVersion
from layercache.cache_training.certifying.looks import LookPlan
from layercache.cache_training.certifying.open_attempt import OpenAttempt
from layercache.cache_training.certifying.readiness import Readiness
from layercache.cache_training.certifying.savings import is_worthwhile, saves_nearly
from layercache.cache_training.learning.kept_frames import Frames
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome, PlannedTest
from layercache.schemas.manifest import Manifest, Overload
from layercache.schemas.settings import Promise

log = logging.getLogger(__name__)

#: Tuning aims at this share of the tolerated risk: above it attempts tend to fail.
AIM = 0.8
#: Every exit's score and label, ``[N, exits]`` each, that the engine gives N frames with a draft's heads as stored.
Score = Callable[[Manifest, dict[str, Tensor], Frames], tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]


@dataclass(frozen=True)
class _Plan:
    """What an attempt aims at; settings are counted from the safest of the family."""

    target: int
    """The setting that passes the attempt's error on if it is certified."""
    bolder: bool
    """Whether settings beyond it are worth half of that error."""
    overload_target: int | None
    """The same under overload's budget; None without one."""


class Certifier:
    """Attempts certificates on the intake's certification window and publishes what passes.

    The promise holds for any heads, however they were tuned, for these reasons. The window is a fair sample of the
    stream on which nothing was learnt or tuned. When to test depends on the number of its frames, not on their answers
    (an alarm drops a window by its answers; ``docs/certificate.md`` says what that adds to the error).
    The attempt is claimed before the frames are looked at, and with it the plan of what passes error on. The frames
    never certify again. So the certifier takes only scores from outside: the candidates' on tuning audits, for
    :meth:`consider`, and ``score`` for the test.
    """

    def __init__(
        self,
        model: versions.ServedModel,
        published: LiveVersion,
        intake: AuditIntake,
        score: Score,
        min_audit_rate: float,
        make_durable: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``make_durable`` must save that a window was used up; the certifier looks at its frames only afterwards."""
        self._model = model
        self._published = published
        self._intake = intake
        self._score = score
        self._min_audit_rate = min_audit_rate
        self._make_durable = make_durable
        self._now = now
        self.ledger = AttemptLedger(published.store, lambda: intake.lineage)
        self._open: OpenAttempt | None = None
        #: How often it has looked at a window and used it up.
        self.looks = 0
        self._readiness = Readiness(intake, published.promise, len(model.classes))

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
        """Publishes a version without exits, and gives up the attempt under way: its stream is no more."""
        if self._open is not None:
            log.info("attempt %d ends with nothing certified: every exit closes", self._open.number)
            self.ledger.finish(self._open.number, AttemptOutcome(ended=self._time(), normal=None))
            self._open = None
        self._published.publish(*self._draft(None))

    def drop_overload(self) -> None:
        """Publishes the live version without its overload thresholds, which audits have shown to be unsafe."""
        self.follow()
        live = self._published.live
        if live is None or not self._published.overload_alarmed:  # an operator's rollback came first
            return
        _, tensors = self._published.store.load(live.version)
        self._published.publish(versions.without_overload(live, self._now()), tensors)

    def consider(self, options: Sequence[Option]) -> bool:
        """Goes on with the attempt under way, or begins one with the best choice of candidates on any route.

        It begins one if the window is large enough to certify something, and the savings expected from tuning are
        large enough. True if it has.
        """
        self.follow()
        if self._open is not None:
            self._go_on(self._open)
            return False
        if not self.is_ready():
            return False
        waiting = self._intake.independent()
        errors = self._errors(self.ledger.next_share(self._promise.confidence))
        plan = self._readiness.plan(errors.normal, self._is_first, waiting)
        frames = plan.longest
        tolerated = max(0, allowed(frames, self._promise.max_disagreement, errors.normal)) / frames
        live = self._published.time_saved
        choice = choose_among(options, AIM * tolerated)
        if choice is None:
            return False
        if not is_worthwhile(choice.time_saved, live) and not self._overload_worthwhile(
            choice, frames, errors.overload
        ):
            return False
        self._begin(choice, self._plan(choice, frames, errors))
        return True

    def is_ready(self) -> bool:
        """Whether an attempt can begin: none is under way, and the window suffices, by numbers and times alone."""
        error = self._errors(self.ledger.next_share(self._promise.confidence)).normal
        return self._open is None and self._readiness.is_ready(error, self._is_first)

    def conclude(self) -> None:
        """Ends the attempt under way, if there is one, with the frames that there are: no others will come."""
        attempt, self._open = self._open, None
        if attempt is None:
            return
        waits = len(self._intake.windows.certification) and self._readiness.blocks_are_independent()
        if waits and self._counts_alike(attempt):
            self._look(attempt, is_last=True)
        else:
            self._end(attempt)

    @property
    def under_way(self) -> bool:
        """Whether an attempt waits for its next look."""
        return self._open is not None

    @property
    def _is_first(self) -> bool:
        return not self._published.time_saved

    def _errors(self, share: ErrorShare) -> Errors:
        return Errors.of(share.total, self._promise.overload_max_disagreement is not None)

    def _plan(self, choice: ExitChoice, frames: int, errors: Errors) -> _Plan:
        """Decided on tuning audits alone, before the window of so many independent ``frames`` is looked at."""
        target, promise = choice.target, self._promise
        most = max(0, allowed(frames, promise.max_disagreement, errors.normal)) / frames
        bolder = is_worthwhile(choice.time_saved_within(most), choice.time_saved)
        if promise.overload_max_disagreement is None:
            return _Plan(target, bolder, None)
        most = max(0, allowed(frames, promise.overload_max_disagreement, errors.overload)) / frames
        return _Plan(target, bolder, max(target + 1, choice.family.target(AIM * most)))

    def _overload_worthwhile(self, choice: ExitChoice, frames: int, error: float) -> bool:
        """Whether ``choice`` adds savings under overload that the live version lacks, and saves as much otherwise."""
        budget, live = self._promise.overload_max_disagreement, self._published.time_saved
        if budget is None or not self._published.lacks_overload or not saves_nearly(choice.time_saved, live):
            return False
        tolerated = max(0, allowed(frames, budget, error)) / frames
        return is_worthwhile(choice.time_saved_within(AIM * tolerated), live)

    def _begin(self, choice: ExitChoice, plan: _Plan) -> None:
        """Claims an attempt with its plan, and looks for the first time."""
        manifest, tensors = self._draft(choice)
        family = versions.family_hash(manifest, tensors, choice.family)
        waiting = self._intake.independent()

        def describe(share: ErrorShare) -> AttemptClaim:
            errors = self._errors(share)
            looks = self._readiness.plan(errors.normal, self._is_first, waiting)
            return self._claim(plan, looks, errors, share, family)

        number, share, claim = self.ledger.claim(self._promise.confidence, describe)
        assert claim.normal is not None
        attempt = OpenAttempt(
            number=number,
            promise=self._promise,
            claim=claim,
            share=share,
            choice=choice,
            draft=manifest,
            tensors=tensors,
            grouping=self._readiness.grouping(claim.normal.error),
            audit_rate=self._intake.audit_rate(),
            pace=self._intake.pace(),
            block_frames=self._intake.block_frames,
        )
        self._look(attempt)

    def _go_on(self, attempt: OpenAttempt) -> None:
        """Looks again once there are enough frames; ends the attempt where they count otherwise than when it began."""
        if not len(self._intake.windows.certification):
            return
        if not self._counts_alike(attempt):
            log.info("attempt %d ends: fewer frames are audited than when it began, or keys have come", attempt.number)
            self._open = None
            self._end(attempt)
            return
        enough = attempt.seen + self._intake.independent(attempt.audit_rate) >= attempt.next_look
        if enough and self._readiness.blocks_are_independent():
            self._look(attempt)

    def _counts_alike(self, attempt: OpenAttempt) -> bool:
        """Whether the frames that wait count like those that the attempt has looked at.

        Those cannot be thinned any more where fewer frames are audited now, nor put into blocks once keys come.
        """
        rate, block_frames = self._intake.audit_rate(), self._intake.block_frames
        return rate >= attempt.audit_rate and block_frames == attempt.block_frames

    def _look(self, attempt: OpenAttempt, is_last: bool = False) -> None:
        """Looks at the frames that wait, and ends the attempt if it is over.

        An attempt that fails on the way has no outcome, as if the trainer had been killed.
        """
        self._open = None
        self._take_window(attempt, is_last)
        if is_last or attempt.is_over:
            self._end(attempt)
        else:
            self._open = attempt
            log.info("%s", attempt.describe())

    def _take_window(self, attempt: OpenAttempt, is_last: bool) -> None:
        """Marks the window's frames as used, and only then tests on them."""
        number, grouping = attempt.number, attempt.grouping
        attempt.seen += self._intake.independent(attempt.audit_rate)
        spent = 1.0 if is_last else attempt.plan.spent(attempt.seen)
        promise, choice = self._promise, attempt.choice
        window = self._intake.use_up()
        self.looks += 1
        self._make_durable()
        counted = self._intake.counted(window, attempt.audit_rate)
        tested = window.rows(counted.rows)
        samples = counted.samples(~tested.repeated, choice.family.risks, spent)
        most = promise.max_class_disagreement
        new = tested.labels[~tested.repeated]
        cap = ClassCap(most, grouping.group[new], len(grouping.shares), samples[0]) if most and grouping else None
        scores, answers = self._score(attempt.draft, attempt.tensors, tested)
        alone = grouping.alone if grouping else 0
        looked = Attempt.run(number, promise.confidence, choice, scores, answers, tested, samples, cap, alone)
        block_s = promise.block_s if attempt.block_frames else None
        attempt.look(replace(looked, block_frames=attempt.block_frames, block_s=block_s))

    def _end(self, ended: OpenAttempt) -> None:
        """Writes the outcome, and publishes what was certified, if that is better than what there is."""
        # Also of what will not be published: the share passes on because the target was certified.
        self.ledger.finish(ended.number, ended.outcome(self._time()))
        certified = ended.certified(self._model.classes)
        if certified is None:
            log.info("attempt %d on %d frames certified nothing", ended.number, ended.frames)
            return
        overload, saved = ended.certified_for_overload(self._model.classes), certified.expected.time_saved
        if not self._improves_on_live(saved, overload):
            saves = "attempt %d certified %.1f %% of time saved, the live version saves more"
            log.info(saves, ended.number, 100 * saved)
            return
        # Drafted anew, since another version may be live by now than when the attempt began.
        manifest, _ = self._draft(ended.choice, ended.pace)
        self._published.publish(versions.with_certificate(manifest, certified, overload), ended.tensors)

    def _claim(self, plan: _Plan, looks: LookPlan, errors: Errors, share: ErrorShare, family: str) -> AttemptClaim:
        bolder = plan.overload_target
        return AttemptClaim(
            claimed=self._time(),
            lineage=self._intake.lineage,
            confidence=self._promise.confidence,
            consumes=share.consumes,
            family=family,
            normal=PlannedTest(error=errors.normal, target=plan.target, bolder=plan.bolder),
            overload=None if bolder is None else PlannedTest(error=errors.overload, target=bolder),
            looks=looks.sizes,
        )

    def _time(self) -> str:
        return self._now().isoformat(timespec="seconds")

    def _improves_on_live(self, time_saved: float, overload: Overload | None) -> bool:
        """Whether a version with these expected savings should replace the live one."""
        live = self._published.time_saved
        # A version is published for its overload thresholds alone where it saves nearly as much otherwise.
        for_overload = overload is not None and self._published.lacks_overload and saves_nearly(time_saved, live)
        return time_saved > live or for_overload

    def _draft(self, choice: ExitChoice | None, pace: StreamPace | None = None) -> tuple[Manifest, dict[str, Tensor]]:
        """What would follow the live version; its audit rate by the ``pace`` of what waits now, or did."""
        live, time_share = self._published.live, 1 - choice.time_saved if choice else 1.0
        rate = next_rate(live, self._min_audit_rate, time_share, pace or self._intake.pace())
        return versions.draft(self._model, live, choice, rate, self._now())
