"""An attempt may look several times at a sample that grows: at the first look that suffices it ends.

A single look must wait for as many frames as heads near the budget need; with several looks, heads that are much better
than the budget open after six tenths of them. If each look were a test at the whole level, a risk above the budget
would have several chances to pass. So the level is spent over the looks: by the look at which a share t of the whole
sample is there, a setting above the budget may have passed with a probability of at most t times the level (Lan and
DeMets 1983). How many disagreements each look lets pass follows exactly, from the binomial distribution of what earlier
looks have not let pass. When to look depends on the number of frames, never on their answers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import special

from layercache.cache_training.certifying.binomial import allowed, fewest_allowing, p_value, upper_bound

Floats = npt.NDArray[np.float64]
#: One level for all settings, or one for each.
Levels = float | Floats

#: The samples at which an attempt looks, as shares of the whole one. Of several designs this one asked for the fewest
#: frames on real heads and saved as much: see ``docs/certificate.md``.
_SIZES = (0.6, 0.7, 0.8, 0.9, 1.0)
#: Steps of a bisection.
_STEPS = 40


def level_of(error: Levels, setting: int) -> float:
    """The level of one setting."""
    return float(np.asarray(error).flat[setting if np.ndim(error) else 0])


@dataclass(frozen=True)
class LookPlan:
    """After how many frames an attempt looks; made before it has looked at any."""

    sizes: tuple[int, ...]

    @classmethod
    def of(cls, frames: int, budget: float, error: float) -> "LookPlan":
        """For a test at ``error`` on so many ``frames`` in all.

        The first look is where at least a flawless sample passes.

        >>> LookPlan.of(720, budget=0.01, error=0.025).sizes
        (432, 504, 576, 648, 720)
        """
        flawless = fewest_allowing(0, budget, error * _SIZES[0])
        sizes = {min(max(math.ceil(size * frames), flawless), frames) for size in _SIZES}
        return cls(tuple(sorted(sizes)))

    @property
    def first(self) -> int:
        """The smallest sample that is looked at."""
        return self.sizes[0]

    @property
    def longest(self) -> int:
        """The sample at which the attempt ends."""
        return self.sizes[-1]

    def after(self, frames: int) -> int:
        """The sample at which an attempt looks next that has looked at so many ``frames``."""
        return next((size for size in self.sizes if size > frames), self.longest)

    def spent(self, frames: int) -> float:
        """The share of its level that a test may have spent when it has looked at so many ``frames``."""
        return min(1.0, frames / self.longest)


@dataclass(frozen=True)
class Looks:
    """How large one test's sample was at every look, and what it might have spent by then.

    >>> looks = Looks((432, 576, 720), (0.6, 0.8, 1.0))
    >>> looks.boundary(budget=0.01, error=0.025)
    (0, 0, 1)
    >>> print(f"{looks.p_value(1, 0.01, 0.025):.3f} {looks.upper_bound(1, 0.01, 0.025):.4f}")
    0.016 0.0091
    """

    ends: tuple[int, ...]
    """Frames by each look; the last is now."""
    spent: tuple[float, ...]
    """Of the level, by each look."""

    @classmethod
    def once(cls, frames: int) -> "Looks":
        """A single look, with the whole level."""
        return cls((frames,), (1.0,))

    def then(self, other: "Looks") -> "Looks":
        """Further looks at a sample that has grown by ``other``'s frames."""
        return Looks((*self.ends, *(self.ends[-1] + end for end in other.ends)), (*self.spent, *other.spent))

    def of(self, kept: npt.NDArray[np.bool_]) -> "Looks":
        """The same looks at some of the frames, ``kept`` bool ``[frames]``."""
        counts = np.append(0, kept.cumsum())
        return Looks(tuple(int(counts[end]) for end in self.ends), self.spent)

    def boundary(self, budget: float, error: float) -> tuple[int, ...]:
        """By look, the most disagreements that pass at level ``error``; -1 where even none would be too many."""
        return _boundary(self.ends, self.spent, budget, error)

    def allowed(self, budget: float, error: float) -> int:
        """The most disagreements that pass now."""
        return self.boundary(budget, error)[-1]

    def p_value(self, disagreements: int, budget: float, error: float) -> float:
        """The chance of a risk at the budget to have passed at an earlier look, or to be wrong so seldom now.

        Looks are ordered in time (Tsiatis, Rosner, Mehta 1984). With one look, P(Bin(frames, budget) <= disagreements).
        """
        if len(self.ends) == 1:
            return p_value(disagreements, self.ends[0], budget)
        before = self.boundary(budget, error)[:-1]
        return _chance(self.ends, before, disagreements, budget)

    def upper_bound(self, disagreements: int, budget: float, error: float) -> float:
        """The least risk at which that chance is ``error``; with one look Clopper and Pearson's."""
        if len(self.ends) == 1:
            return upper_bound(disagreements, self.ends[0], error)
        before = self.boundary(budget, error)[:-1]
        low, high = disagreements / max(1, self.ends[-1]), 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            passes = _chance(self.ends, before, disagreements, middle) <= error
            low, high = (low, middle) if passes else (middle, high)
        return high


@lru_cache(maxsize=1024)
def _boundary(ends: tuple[int, ...], spent: tuple[float, ...], budget: float, error: float) -> tuple[int, ...]:
    if len(ends) == 1:
        return (allowed(ends[0], budget, error * spent[0]),)
    found: list[int] = []
    gone = 0.0
    # No look lets more pass than one that has the whole level for itself.
    for share, still_open in zip(spent, _open_at(ends, found, allowed(ends[-1], budget, error), budget), strict=True):
        passing = still_open.cumsum()
        found.append(int(np.searchsorted(passing, error * share - gone, side="right")) - 1)
        gone += float(passing[found[-1]]) if found[-1] >= 0 else 0.0
    return tuple(found)


def _chance(ends: tuple[int, ...], before: tuple[int, ...], disagreements: int, risk: float) -> float:
    """Of a risk to pass at one of the looks ``before`` the last, or to have at most so many disagreements at that."""
    gone = 0.0
    for number, still_open in enumerate(_open_at(ends, before, max(disagreements, *before), risk)):
        most = before[number] if number < len(before) else disagreements
        gone += float(still_open[: most + 1].sum())
    return min(1.0, gone)


def _open_at(ends: Sequence[int], passed: Sequence[int], most: int, risk: float) -> Iterator[Floats]:
    """By look: the chances to have 0 to ``most`` disagreements and not to have passed before.

    ``passed`` says up to how many pass at a look; it is read once the look was given.
    """
    still_open, before = np.append(1.0, np.zeros(max(0, most))), 0
    for number, end in enumerate(ends):
        more = _binomial(end - before, len(still_open), risk)
        still_open, before = np.convolve(still_open, more)[: len(still_open)], end
        yield still_open
        if number < len(passed):
            still_open = np.where(np.arange(len(still_open)) <= passed[number], 0.0, still_open)


def _binomial(frames: int, counts: int, risk: float) -> Floats:
    """P(Bin(frames, risk) = k) for the first so many ``counts`` k."""
    k = np.arange(min(counts, frames + 1))
    logs = special.gammaln(frames + 1) - special.gammaln(k + 1) - special.gammaln(frames - k + 1)
    chances = np.exp(logs + special.xlogy(k, risk) + special.xlog1py(frames - k, -risk))
    return np.pad(chances, (0, counts - len(k)))
