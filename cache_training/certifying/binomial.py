"""How many of so many frames may be wrong, if a risk is to be below a budget: exact binomial tests and their bounds."""

import math

from scipy import special


def p_value(disagreements: int, frames: int, budget: float) -> float:
    """P(Bin(frames, budget) <= disagreements): small where so few would be a surprise for a risk above ``budget``.

    >>> round(p_value(0, 299, 0.01), 4), round(p_value(3, 299, 0.01), 4)
    (0.0495, 0.6495)
    """
    # bdtr returns nan beyond its domain; as many as there are frames is certain.
    return 1.0 if disagreements >= frames else float(special.bdtr(float(disagreements), frames, budget))


def upper_bound(disagreements: int, frames: int, error: float) -> float:
    """Clopper-Pearson: the risk is at most this with probability 1 - ``error``.

    >>> round(upper_bound(0, 299, 0.05), 5)
    0.00997
    """
    if disagreements >= frames:
        return 1.0
    return float(special.betaincinv(disagreements + 1, frames - disagreements, 1 - error))


def lower_bound(disagreements: int, frames: int, error: float) -> float:
    """Clopper-Pearson: the risk is at least this with probability 1 - ``error``.

    >>> lower_bound(0, 100, 0.05), round(lower_bound(5, 100, 0.05), 4)
    (0.0, 0.0199)
    """
    return float(special.betaincinv(disagreements, frames - disagreements + 1, error)) if disagreements else 0.0


def allowed(frames: int, budget: float, error: float) -> int:
    """The most disagreements among ``frames`` that still certify ``budget``; -1 where even none would be too many.

    >>> allowed(299, 0.01, 0.05), allowed(298, 0.01, 0.05)
    (0, -1)
    """
    if not frames or p_value(0, frames, budget) > error:
        return -1
    k = max(0, int(special.bdtrik(error, frames, budget)))
    while p_value(k + 1, frames, budget) <= error:
        k += 1
    while p_value(k, frames, budget) > error:
        k -= 1
    return k


def fewest_allowing(disagreements: int, budget: float, error: float) -> int:
    """The fewest frames of which so many may disagree and still certify ``budget``.

    >>> fewest_allowing(0, 0.01, 0.05), fewest_allowing(2, 0.01, 0.025)
    (299, 720)
    """
    low, high = disagreements, disagreements + 1  # too few, and at last enough
    while p_value(disagreements, high, budget) > error:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if p_value(disagreements, middle, budget) > error else (low, middle)
    return high


def enough_frames(tolerated: float, budget: float, error: float) -> int:
    """The fewest frames of which a share of at least ``tolerated`` may disagree and still certify ``budget``.

    >>> enough_frames(0.002, 0.01, 0.025), enough_frames(0.005, 0.01, 1 / 30)
    (720, 1387)
    """
    disagreements = 0
    while True:
        frames = fewest_allowing(disagreements, budget, error)
        if disagreements >= tolerated * frames:
            return frames
        # As many as the frames would have to tolerate: more frames only ask for more.
        disagreements = max(disagreements + 1, math.floor(tolerated * frames))
