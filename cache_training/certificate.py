"""May these exits open? Exact binomial tests along a one-dimensional family, with the error shared among all attempts.

Learn-then-Test with a fixed sequence (Angelopoulos, Bates, Candès, Jordan, Lei 2021; for early exits Jazbec et al.
2024): settings are tested from the safest to the boldest at the full level, and testing stops at the first that fails,
so that no multiplicity correction is needed among them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom


def attempt_error(attempt: int, confidence: float) -> float:
    """The share of the error that attempt number ``attempt``, from 1, may use: (1 - confidence) / (k (k + 1)).

    Over all attempts that there can ever be they sum to 1 - confidence.

    >>> round(sum(attempt_error(k, 0.95) for k in range(1, 100_000)), 4)
    0.05
    """
    if attempt < 1:
        raise ValueError(f"attempts count from 1, not {attempt}")
    return (1 - confidence) / (attempt * (attempt + 1))


def p_value(disagreements: int, frames: int, budget: float) -> float:
    """P(Bin(frames, budget) <= disagreements): small where a risk above ``budget`` would be a surprise."""
    return float(binom.cdf(disagreements, frames, budget))


def upper_bound(disagreements: int, frames: int, error: float) -> float:
    """Clopper-Pearson: the risk is at most this with probability 1 - ``error``."""
    if disagreements >= frames:
        return 1.0
    return float(beta.ppf(1 - error, disagreements + 1, frames - disagreements))


def allowed(frames: int, budget: float, error: float) -> int:
    """The most disagreements among ``frames`` that still certify ``budget``; -1 where not even none would do.

    >>> allowed(299, 0.01, 0.05), allowed(298, 0.01, 0.05)
    (0, -1)
    """
    k = int(binom.ppf(error, frames, budget)) if frames else 0
    while k >= 0 and binom.cdf(k, frames, budget) > error:
        k -= 1
    return k


@dataclass(frozen=True)
class Verdict:
    """One setting's test."""

    index: int
    """Its place in the sequence."""
    frames: int
    disagreements: int
    p_value: float
    upper_bound: float


def certify(wrong: npt.NDArray[np.bool_], budget: float, error: float) -> Verdict | None:
    """Tests settings in order; ``wrong`` bool ``[settings, frames]``: would a setting's exits answer a frame otherwise?

    Returns the last before the first failure, None where the first fails already. The frames must be a fair sample
    that neither the exits nor the sequence have seen.
    """
    passed = None
    for index, row in enumerate(wrong):
        verdict = verdict_of(index, row, budget, error)
        if not verdict.frames or verdict.p_value > error:
            break
        passed = verdict
    return passed


def verdict_of(index: int, wrong: npt.NDArray[np.bool_], budget: float, error: float) -> Verdict:
    """What the test says of one setting; ``wrong`` bool ``[frames]``."""
    frames, disagreements = len(wrong), int(wrong.sum())
    return Verdict(
        index, frames, disagreements, p_value(disagreements, frames, budget), upper_bound(disagreements, frames, error)
    )
