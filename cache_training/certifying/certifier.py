"""What to attempt a certificate with, on which frames, and what to publish of it.

:mod:`layercache.cache_training.learning` teaches the heads.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.attempt import Attempt
from layercache.cache_training.certifying.attempt_ledger import AttemptLedger
from layercache.cache_training.certifying.audit_rates import next_rate
from layercache.cache_training.certifying.audits import AuditIntake
from layercache.cache_training.certifying.certificate import (
    ClassCap,
    Errors,
    Verdict,
    allowed,
    certify,
    certify_bolder,
    level_of,
)
from layercache.cache_training.certifying.choosing import ExitChoice, Option, choose_among
from layercache.cache_training.certifying.error_shares import ErrorShare, setting_errors
from layercache.cache_training.certifying.live_version import LiveVersion
from layercache.cache_training.certifying.readiness import Readiness
from layercache.cache_training.certifying.savings import is_worthwhile, saves_nearly
from layercache.cache_training.learning.kept_frames import Frames
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome, PlannedTest
from layercache.schemas.manifest import Certificate, Expected, Manifest, Overload
from layercache.schemas.settings import Promise

log = logging.getLogger(__name__)

#: Tuning aims at this share of the tolerated risk: above it attempts tend to fail.
AIM = 0.8
#: Overload thresholds are published only if they make a worker this many times as fast as the everyday ones.
_FASTER = 1.05

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

    def consider(self, options: Sequence[Option]) -> bool:
        """Attempts to certify the best choice of candidates on any route, if that is worth an attempt.

        It is if the window is large enough to certify something, and the savings expected from tuning are large enough.
        True if an attempt was made.
        """
        self.follow()
        if not self.is_ready():
            return False
        frames = self._intake.independent()
        errors = self._errors(self.ledger.next_share(self._promise.confidence))
        tolerated = max(0, allowed(frames, self._promise.max_disagreement, errors.normal)) / frames
        live = self._published.time_saved
        choice = choose_among(options, AIM * tolerated)
        if choice is None:
            return False
        if not is_worthwhile(choice.time_saved, live) and not self._overload_worthwhile(
            choice, frames, errors.overload
        ):
            return False
        self._attempt(choice, self._plan(choice, frames, errors))
        return True

    def is_ready(self) -> bool:
        """Whether the window is large enough for the next attempt: by numbers and times, not by answers."""
        error = self._errors(self.ledger.next_share(self._promise.confidence)).normal
        return self._readiness.is_ready(error, is_first=not self._published.time_saved)

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

    def _attempt(self, choice: ExitChoice, plan: _Plan) -> None:
        """One attempt: claims it with its plan, marks its frames as used, and only then looks at them."""
        promise, classes = self._promise, self._model.classes
        manifest, tensors = self._draft(choice)
        family = versions.family_hash(manifest, tensors, choice.family)
        number, share, claim = self.ledger.claim(
            promise.confidence, lambda share: self._claim(plan, self._errors(share), share, family)
        )
        assert claim.normal is not None
        grouping = self._readiness.grouping(claim.normal.error)
        window = self._intake.use_up()
        self._make_durable()
        counted = self._intake.counted(window)
        tested = window.rows(counted.rows)
        samples = counted.samples(~tested.repeated, choice.family.risks)
        most = promise.max_class_disagreement
        new = tested.labels[~tested.repeated]
        cap = ClassCap(most, grouping.group[new], len(grouping.shares), samples[0]) if most and grouping else None
        scores, answers = self._score(manifest, tensors, tested)
        alone = grouping.alone if grouping else 0
        attempt = Attempt.run(number, promise.confidence, choice, scores, answers, tested, samples, cap, alone)
        block_s = promise.block_s if self._intake.block_frames else None
        attempt = replace(attempt, block_frames=self._intake.block_frames, block_s=block_s)
        errors = setting_errors(claim.normal, len(attempt.wrong))
        tests = len(errors)
        tested_by = cap, attempt.whole[:tests], samples
        boldest = certify(attempt.wrong[:tests], promise.max_disagreement, errors, *tested_by)
        bolder = self._certify_overload(attempt, boldest, claim.overload) if boldest else None
        # Also of what will not be published: the share passes on because the target was certified.
        self.ledger.finish(number, self._outcome(boldest, bolder))
        if boldest is None:
            log.info("attempt %d on %d frames certified nothing", number, len(new))
            return
        index, expectation = attempt.settle(range(boldest.index + 1))
        overload = self._overload(attempt, boldest, bolder, expectation, claim.overload, share)
        if not self._improves_on_live(expectation, overload):
            saved = 100 * expectation.time_saved
            log.info("attempt %d certified %.1f %% of time saved, the live version saves more", number, saved)
            return
        certificate = attempt.certificate(index, promise.max_disagreement, level_of(errors, index), classes)
        certificate = _with_recycled(certificate, share)
        thresholds = versions.thresholds(choice, index)
        certified = versions.with_certificate(manifest, thresholds, certificate, expectation, overload)
        self._published.publish(certified, tensors)

    def _claim(self, plan: _Plan, errors: Errors, share: ErrorShare, family: str) -> AttemptClaim:
        bolder = plan.overload_target
        return AttemptClaim(
            claimed=self._time(),
            lineage=self._intake.lineage,
            confidence=self._promise.confidence,
            consumes=share.consumes,
            family=family,
            normal=PlannedTest(error=errors.normal, target=plan.target, bolder=plan.bolder),
            overload=None if bolder is None else PlannedTest(error=errors.overload, target=bolder),
        )

    def _outcome(self, boldest: Verdict | None, bolder: Verdict | None) -> AttemptOutcome:
        return AttemptOutcome(
            ended=self._time(),
            normal=boldest.index if boldest else None,
            overload=bolder.index if bolder else None,
        )

    def _time(self) -> str:
        return self._now().isoformat(timespec="seconds")

    def _certify_overload(self, attempt: Attempt, boldest: Verdict, test: PlannedTest | None) -> Verdict | None:
        """The boldest setting that only overload's budget allows; None for none."""
        budget = self._promise.overload_max_disagreement
        if budget is None or test is None:
            return None
        errors = setting_errors(test, len(attempt.wrong))
        tests = len(errors)
        tested_by = attempt.cap, attempt.whole[:tests], attempt.samples
        verdict = certify_bolder(attempt.wrong[:tests], boldest, budget, errors, *tested_by)
        if verdict is None:
            log.info("attempt %d certified nothing bolder for overload's %.2f %%", attempt.number, 100 * budget)
        return verdict

    def _overload(
        self,
        attempt: Attempt,
        boldest: Verdict,
        bolder: Verdict | None,
        normal: Expected,
        test: PlannedTest | None,
        share: ErrorShare,
    ) -> Overload | None:
        """The same exits under the overload budget; None where none was certified, or they would hardly be faster."""
        budget = self._promise.overload_max_disagreement
        if budget is None or bolder is None or test is None:
            return None
        passed = range(boldest.index + 1, bolder.index + 1)
        index, expectation = attempt.settle(passed)
        faster = (1 - normal.time_saved) / (1 - expectation.time_saved)
        if faster < _FASTER:
            log.info("attempt %d: under overload these exits would be but %.2f times as fast", attempt.number, faster)
            return None
        return Overload(
            thresholds=versions.thresholds(attempt.choice, index),
            certificate=_with_recycled(attempt.certificate(index, budget, test.error, self._model.classes), share),
            expected=expectation,
        )

    def _improves_on_live(self, expectation: Expected, overload: Overload | None) -> bool:
        """Whether a version with these expected savings should replace the live one."""
        live = self._published.time_saved
        if expectation.time_saved > live:
            return True
        # A version is published for its overload thresholds alone where it saves nearly as much otherwise.
        return overload is not None and self._published.lacks_overload and saves_nearly(expectation.time_saved, live)

    def _draft(self, choice: ExitChoice | None) -> tuple[Manifest, dict[str, Tensor]]:
        live, time_share = self._published.live, 1 - choice.time_saved if choice else 1.0
        rate = next_rate(live, self._min_audit_rate, time_share, self._intake.pace())
        return versions.draft(self._model, live, choice, rate, self._now())


def _with_recycled(certificate: Certificate, share: ErrorShare) -> Certificate:
    return msgspec.structs.replace(certificate, recycled=share.recycled, recycled_from=share.consumes)
