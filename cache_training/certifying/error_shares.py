"""What the next attempt may err: its own share of the error, and what earlier attempts did not need (online fallback).

Attempt k has (1 - confidence) / (k (k + 1)) of its own. An attempt whose planned target was certified spent nothing of
its error on a mistake, so its error passes on to the next one (Tian and Ramdas 2021, arXiv 1910.04900).

The proof is in ``docs/certificate.md``. It takes what this module sees to:

- Only a *target* passes error on: a setting that was fixed before the attempt's frames were looked at. If any setting
  up to it breaks its budget, then either the target fails, and nothing passes on, or the promise is broken already.
- Settings beyond the target may cost an error too, so what they may spend does not pass on. Whether they are tested is
  fixed beforehand as well.
- A share is consumed once: by the claim that names it. Claims are created exclusively, one for each number, and a claim
  is written by someone who has read all claims between the share's attempt and itself. Where one of them cannot be
  read, it may have consumed the share, so nobody else does.
- An attempt without an outcome passes nothing on: it may have failed, or may yet fail.
- Shares stay within one lineage, a trainer's memory of used frames, and within one confidence. Another trainer's frames
  may be the same as this one's, and its results would then say something about the frames to come.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layercache.cache_training.certifying.certificate import attempt_error
from layercache.schemas.attempt import AttemptClaim, AttemptOutcome, PlannedTest


@dataclass(frozen=True)
class RecordedAttempt:
    """What the store has of one attempt."""

    claim: AttemptClaim | None
    """None where it is missing or cannot be read."""
    outcome: AttemptOutcome | None
    """None where the attempt has not ended, or never will."""


@dataclass(frozen=True)
class ErrorShare:
    """What one attempt may spend."""

    own: float
    recycled: float = 0.0
    """Passed on by the attempts of ``consumes``."""
    consumes: tuple[int, ...] = ()

    @property
    def total(self) -> float:
        """The attempt's error, over all of its budgets."""
        return self.own + self.recycled


def next_share(number: int, earlier: Mapping[int, RecordedAttempt], lineage: str, confidence: float) -> ErrorShare:
    """What attempt ``number`` may spend, given the ``earlier`` ones by number; those left out count as unreadable.

    >>> met = RecordedAttempt(
    ...     AttemptClaim(claimed="", lineage="a", confidence=0.95, normal=PlannedTest(error=0.025, target=7)),
    ...     AttemptOutcome(ended="", normal=7),
    ... )
    >>> share = next_share(2, {1: met}, "a", 0.95)
    >>> round(share.own, 4), round(share.total, 4), share.consumes
    (0.0083, 0.0333, (1,))
    """
    recycled: dict[int, float] = {}
    consumed: set[int] = set()
    for at in range(number - 1, 0, -1):
        claim = earlier[at].claim if at in earlier else None
        if claim is None:
            break  # it may have consumed whatever is before it
        if at not in consumed and claim.lineage == lineage and claim.confidence == confidence:
            passed = passed_on(claim, earlier[at].outcome)
            if passed > 0:
                recycled[at] = passed
        consumed.update(claim.consumes)
    return ErrorShare(attempt_error(number, confidence), sum(recycled.values()), tuple(sorted(recycled)))


def passed_on(claim: AttemptClaim, outcome: AttemptOutcome | None) -> float:
    """What an attempt leaves to later ones, over all of its budgets."""
    if outcome is None:
        return 0.0
    tests = ((claim.normal, outcome.normal), (claim.overload, outcome.overload))
    return sum(_unspent(test, certified) for test, certified in tests if test is not None)


def _unspent(test: PlannedTest, certified: int | None) -> float:
    """What is left of a test's error; ``certified`` is the boldest setting that passed."""
    if certified is None or certified < test.target:
        return 0.0
    return test.error / 2 if test.bolder else test.error


def setting_errors(test: PlannedTest, settings: int) -> npt.NDArray[np.float64]:
    """The level of each setting that is tested, from the safest, of a family of so many.

    >>> setting_errors(PlannedTest(error=0.02, target=1), 4).tolist()
    [0.02, 0.02]
    >>> setting_errors(PlannedTest(error=0.02, target=1, bolder=True), 4).tolist()
    [0.02, 0.02, 0.01, 0.01]
    """
    tested = settings if test.bolder else min(test.target + 1, settings)
    return np.where(np.arange(tested) <= test.target, test.error, test.error / 2)
