"""An attempt from its claim to its end: what it tests, when it looks, and what it has certified so far."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from torch import Tensor

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.attempt import Attempt
from layercache.cache_training.certifying.audit_rates import StreamPace
from layercache.cache_training.certifying.certificate import Verdict, certify, certify_bolder
from layercache.cache_training.certifying.choosing import ExitChoice
from layercache.cache_training.certifying.classes import Grouping
from layercache.cache_training.certifying.error_shares import ErrorShare, setting_errors
from layercache.cache_training.certifying.looks import Levels, LookPlan, level_of
from layercache.cache_training.certifying.versions import Certified
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome, PlannedTest
from layercache.schemas.manifest import Manifest, Overload
from layercache.schemas.settings import Promise

log = logging.getLogger(__name__)

#: Overload thresholds are published only if they make a worker this many times as fast as the everyday ones.
_FASTER = 1.05


@dataclass(frozen=True)
class Passed:
    """A setting that has passed its test, and the attempt as it was at that look."""

    verdict: Verdict
    attempt: Attempt


@dataclass
class OpenAttempt:
    """Its heads, settings, levels and looks are fixed; frames come in until its target passes or no look is left."""

    number: int
    promise: Promise
    claim: AttemptClaim
    share: ErrorShare
    choice: ExitChoice
    draft: Manifest
    tensors: dict[str, Tensor]
    """Of the heads as they were when the attempt was claimed; the learner goes on."""
    grouping: Grouping | None
    audit_rate: float
    """Frames count that would have been audited at this rate: it was common when the attempt began."""
    pace: StreamPace
    """The stream's when it began."""
    block_frames: int | None
    """Of a key's block so many frames count at most; None as long as no frame has had a key."""
    seen: int = 0
    """Frames that count singly in all looks so far."""
    attempt: Attempt | None = field(default=None, init=False)
    normal_passed: Passed | None = field(default=None, init=False)
    """The boldest setting that has passed the everyday test, at any look."""
    overload_passed: Passed | None = field(default=None, init=False)
    """The boldest one that has passed overload's test alone."""

    @property
    def normal(self) -> PlannedTest:
        """What it tests for the everyday budget."""
        assert self.claim.normal is not None
        return self.claim.normal

    @property
    def plan(self) -> LookPlan:
        """When it looks."""
        return LookPlan(self.claim.looks)

    @property
    def next_look(self) -> int:
        """How many frames it looks at next, those seen included."""
        return self.plan.after(self.seen)

    def levels(self, test: PlannedTest) -> Levels:
        """One for each setting that is tested."""
        return setting_errors(test, len(self.choice.family.times))

    def look(self, more: Attempt) -> None:
        """Tests on the frames so far and ``more``, whose samples know of the look. What has passed once has passed."""
        attempt = self.attempt = more if self.attempt is None else self.attempt.then(more)
        errors = self.levels(self.normal)
        tests = np.size(errors)
        tested_by = attempt.cap, attempt.whole[:tests], attempt.samples
        verdict = certify(attempt.wrong[:tests], self.promise.max_disagreement, errors, *tested_by)
        self.normal_passed = _bolder(self.normal_passed, verdict, attempt)
        if self.normal_passed is not None:
            verdict = self._certify_overload(attempt, self.normal_passed.verdict)
            self.overload_passed = _bolder(self.overload_passed, verdict, attempt)

    @property
    def is_over(self) -> bool:
        """Whether its targets have passed, or no look is left."""
        return self.seen >= self.plan.longest or (
            _has_passed(self.normal, self.normal_passed) and self._is_over_for_overload
        )

    @property
    def _is_over_for_overload(self) -> bool:
        """Also where the everyday target is the boldest setting, so that there is none for overload alone."""
        test = self.claim.overload
        return test is None or test.target >= len(self.choice.family.times) or _has_passed(test, self.overload_passed)

    @property
    def frames(self) -> int:
        """How many it has looked at."""
        return len(self.attempt.labels) if self.attempt else 0

    def certified(self, classes: Sequence[str]) -> Certified | None:
        """For the everyday budget: the safest setting that saves nearly as much as the boldest that has passed."""
        if self.normal_passed is None:
            return None
        passed = range(self.normal_passed.verdict.index + 1)
        return self._certified(self.normal_passed, passed, self.promise.max_disagreement, self.normal, classes)

    def certified_for_overload(self, classes: Sequence[str]) -> Overload | None:
        """The same exits under overload's budget; None where none was certified, or they would hardly be faster."""
        budget, test = self.promise.overload_max_disagreement, self.claim.overload
        normal, bolder = self.normal_passed, self.overload_passed
        if budget is None or test is None or normal is None:
            return None
        if bolder is None or bolder.verdict.index <= normal.verdict.index:
            log.info("attempt %d certified nothing bolder for overload's %.2f %%", self.number, 100 * budget)
            return None
        passed = range(normal.verdict.index + 1, bolder.verdict.index + 1)
        found, everyday = self._certified(bolder, passed, budget, test, classes), self.certified(classes)
        assert everyday is not None
        faster = (1 - everyday.expected.time_saved) / (1 - found.expected.time_saved)
        if faster < _FASTER:
            log.info("attempt %d: under overload these exits would be but %.2f times as fast", self.number, faster)
            return None
        return Overload(thresholds=found.thresholds, certificate=found.certificate, expected=found.expected)

    def _certified(
        self, passed: Passed, settings: range, budget: float, test: PlannedTest, classes: Sequence[str]
    ) -> Certified:
        attempt = passed.attempt
        index, expected = attempt.settle(settings)
        certificate = attempt.certificate(index, budget, level_of(self.levels(test), index), classes)
        recycled = msgspec.structs.replace(certificate, recycled=self.share.recycled, recycled_from=self.share.consumes)
        return Certified(versions.thresholds(self.choice, index), recycled, expected)

    def outcome(self, ended: str) -> AttemptOutcome:
        """As the store keeps it."""
        normal, overload = self.normal_passed, self.overload_passed
        return AttemptOutcome(
            ended=ended,
            normal=normal.verdict.index if normal else None,
            overload=overload.verdict.index if overload else None,
        )

    def describe(self) -> str:
        """Where it stands, after a look."""
        assert self.attempt is not None
        target = self.attempt.wrong[self.normal.target]
        return (
            f"attempt {self.number} goes on after look {self.attempt.looks}: {int(target.sum())} of {len(target)} "
            f"frames disagree at its target; it looks again at {self.next_look}"
        )

    def _certify_overload(self, attempt: Attempt, after: Verdict) -> Verdict | None:
        """The boldest setting that only overload's budget allows; None for none."""
        budget, test = self.promise.overload_max_disagreement, self.claim.overload
        if budget is None or test is None:
            return None
        errors = self.levels(test)
        tests = np.size(errors)
        tested_by = attempt.cap, attempt.whole[:tests], attempt.samples
        return certify_bolder(attempt.wrong[:tests], after, budget, errors, *tested_by)


def _has_passed(test: PlannedTest, passed: Passed | None) -> bool:
    return passed is not None and passed.verdict.index >= test.target


def _bolder(before: Passed | None, verdict: Verdict | None, attempt: Attempt) -> Passed | None:
    if verdict is None or (before is not None and before.verdict.index >= verdict.index):
        return before
    return Passed(verdict, attempt)
