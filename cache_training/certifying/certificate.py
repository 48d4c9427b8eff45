"""May these exits open? Exact tests along a one-dimensional family; the error is split over all attempts.

Here is what one attempt does with its error; :mod:`error_shares` says how much that is.

Learn-then-Test with a fixed sequence (Angelopoulos, Bates, Candès, Jordan, Lei 2021; for early exits Jazbec et al.
2024): settings are tested from the safest to the boldest at the full level, and testing stops at the first that fails,
so that no multiplicity correction is needed among them.

A cap on every class turns one setting's test into an intersection-union test (Berger 1982): the setting passes only if
the overall test and every class's test pass, each at the *full* level. If one of the risks is over its limit, its test
would have to pass too, which it does with probability at most the level. So the error need not be split over classes,
however many there are.

A second, larger budget (for overload) is a second promise and takes a part of the attempt's error. The smaller budget
is tested along the sequence at the rest of the error; the larger one at its part, from the setting after the last that
passed (:func:`certify_bolder`). Neither may be tested at the full level: where the risk is just over the smaller
budget at one setting and just over the larger at a bolder one, the two tests fail nearly independently, and either
mistake breaks a promise.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from layercache.cache_training.certifying.looks import Levels
from layercache.cache_training.certifying.samples import SINGLE, Sample


def attempt_error(attempt: int, confidence: float) -> float:
    """The share of the error that is attempt number ``attempt``'s own, from 1: (1 - confidence) / (k (k + 1)).

    Over all attempts these shares sum to 1 - confidence. Raises ``ValueError`` below 1.

    >>> round(sum(attempt_error(k, 0.95) for k in range(1, 100_000)), 4)
    0.05
    """
    if attempt < 1:
        raise ValueError(f"attempts count from 1, not {attempt}")
    return (1 - confidence) / (attempt * (attempt + 1))


#: The overload budget's share of an attempt's error. It is small: the larger budget tolerates many more disagreements,
#: and its test loses little by a smaller level, while everyday savings come from the smaller budget. Of
#: 2,200 audits at 1 % and 3 % a tenth lets 11 and 41 disagree at the second attempt, halves let 10 and 45.
OVERLOAD_SHARE = 0.1


#: What bets on a class's frames are made for, as a share of its cap.
_EXPECTED_OF_CLASS = 0.1


@dataclass(frozen=True)
class Errors:
    """An attempt's error, split over the tests of its budgets."""

    normal: float
    overload: float
    """0 where there is only one budget."""

    @classmethod
    def of(cls, error: float, two_budgets: bool) -> Self:
        """For one budget or two; the parts sum to the attempt's ``error``.

        >>> Errors.of(0.025, two_budgets=False)
        Errors(normal=0.025, overload=0.0)
        >>> Errors.of(0.25, two_budgets=True)
        Errors(normal=0.225, overload=0.025)
        """
        overload = OVERLOAD_SHARE * error if two_budgets else 0.0
        return cls(error - overload, overload)


@dataclass(frozen=True)
class ClassCap:
    """The largest share of disagreements that is allowed within each group of the full model's classes."""

    budget: float
    group: npt.NDArray[np.int64]
    """``[frames]``: the group, from 0, of the class that the full model answered."""
    groups: int
    """The number of groups; a group without frames cannot pass."""
    sample: Sample = SINGLE
    """What belongs together of the frames."""

    def passes(self, wrong: npt.NDArray[np.bool_], error: Levels) -> npt.NDArray[np.bool_]:
        """bool ``[settings]``: whether every group's own test passes."""
        by_group = [one.passes(wrong[:, rows], self.budget, error) for rows, one in self._samples()]
        passed: npt.NDArray[np.bool_] = np.all(by_group, axis=0)
        return passed

    def upper_bound(self, wrong: npt.NDArray[np.bool_], error: float) -> float:
        """The largest bound of any group, for one setting's ``wrong``, ``[frames]``."""
        return max(one.upper_bound(wrong[rows], self.budget, error) for rows, one in self._samples())

    def then(self, more: "ClassCap") -> "ClassCap":
        """The same on these frames, and then ``more``, after another look."""
        return replace(self, group=np.append(self.group, more.group), sample=self.sample.then(more.sample))

    def _samples(self) -> list[tuple[npt.NDArray[np.bool_], Sample]]:
        """Of every group: which frames are in it, and how they count. Tuning expects nothing of single groups."""
        of_group = [self.group == number for number in range(self.groups)]
        expected = np.array([_EXPECTED_OF_CLASS * self.budget])
        return [(rows, replace(self.sample.rows(rows), expected=expected)) for rows in of_group]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one setting's test."""

    index: int
    """Its place in the sequence."""
    frames: int
    disagreements: int
    p_value: float
    upper_bound: float


def certify(
    wrong: npt.NDArray[np.bool_],
    budget: float,
    error: Levels,
    cap: ClassCap | None = None,
    whole: npt.NDArray[np.bool_] | None = None,
    samples: tuple[Sample, Sample] = (SINGLE, SINGLE),
) -> Verdict | None:
    """Tests settings in order; ``wrong`` bool ``[settings, frames]``: whether a setting's exits disagree on a frame.

    Returns the last setting before the first failure, None where the first setting fails. The frames must be a fair
    sample on which neither the exits, nor the sequence, nor the levels were chosen. A setting must also pass the same
    test on ``whole``, ``[settings, more frames]``, where that is given: like a cap on classes, that splits no error.
    ``samples`` says which frames belong together, of ``wrong`` and of ``whole``; frames that do not are counted by an
    exact binomial test.

    >>> flawless = np.zeros((1, 299), np.bool_)
    >>> certify(flawless, 0.01, 0.05) is not None, certify(flawless[:, 1:], 0.01, 0.05) is not None
    (True, False)
    """
    passes = samples[0].passes(wrong, budget, error)
    if cap is not None:
        passes &= cap.passes(wrong, error)
    if whole is not None:
        passes &= samples[1].passes(whole, budget, error)
    passed = len(passes) if passes.all() else int(passes.argmin())
    last = passed - 1
    return verdict_of(last, wrong[last], budget, error, samples[0]) if passed else None


def certify_bolder(
    wrong: npt.NDArray[np.bool_],
    after: Verdict,
    budget: float,
    error: Levels,
    cap: ClassCap | None = None,
    whole: npt.NDArray[np.bool_] | None = None,
    samples: tuple[Sample, Sample] = (SINGLE, SINGLE),
) -> Verdict | None:
    """Continues for a larger ``budget`` ``after`` the boldest setting that :func:`certify` passed for a smaller one.

    Returns the last setting before the first failure, None where the first one after ``after`` fails. ``wrong`` has all
    settings. ``error`` is this test's own; added to the error of :func:`certify` it bounds the probability that either
    budget is broken. The reason: suppose that all settings that passed there keep the smaller budget. Then the first
    setting that breaks the larger budget is bolder, this test meets it before any other such setting, and it passes
    with probability at most ``error``. The data decide where this sequence begins, but that gives the setting no second
    chance. Nothing is assumed about how risks change along the family.

    >>> wrong = np.arange(1000) < np.array([[0], [1], [9], [60]])
    >>> normal = certify(wrong, 0.01, 0.02)
    >>> bolder = certify_bolder(wrong, normal, 0.03, 0.005)
    >>> normal.index, bolder.index
    (1, 2)
    """
    start = after.index + 1
    levels = np.broadcast_to(error, len(wrong))[start:]
    rest = None if whole is None else whole[start:]
    bolder = samples[0].settings(slice(start, None)), samples[1].settings(slice(start, None))
    verdict = certify(wrong[start:], budget, levels, cap, rest, bolder) if start < len(wrong) else None
    return replace(verdict, index=verdict.index + start) if verdict else None


def verdict_of(
    index: int, wrong: npt.NDArray[np.bool_], budget: float, error: Levels, sample: Sample = SINGLE
) -> Verdict:
    """One setting's test; ``wrong`` bool ``[frames]``."""
    return Verdict(
        index,
        len(wrong),
        int(wrong.sum()),
        sample.p_value(wrong, budget, error, index),
        sample.upper_bound(wrong, budget, error, index),
    )
