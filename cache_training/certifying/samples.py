"""What a test knows of its frames beside the answers: which belong together, and how much a block may count.

Frames that have nothing to do with each other are counted by a binomial test (:mod:`certificate`). Of a key's block of
time several audits count, and they are near-copies: the block is one draw, whose weight is the number of its audits.
The risk *per frame* is at most the budget b if over blocks the mean of ``disagreements - b * audits`` is at most 0,
whatever heavy and light blocks have to do with disagreements. A test bets on that (Waudby-Smith, Ramdas 2023): a
capital of 1 is multiplied, block by block, by a number whose mean is at most 1 if the risk is above b, so that it ever
exceeds 1 / error with a probability of at most ``error`` (Ville's inequality), at whichever look. The stakes are fixed
before any weight is seen, by the largest weight that there may be; how many audits of a block count at most is
therefore a matter of settings, never of what a window happens to hold.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from layercache.cache_training.certifying.looks import Levels, Looks, level_of

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

#: The least risk that bets are made for, as a share of the budget: one that expected none would lose all by one block.
_LEAST = 0.02
#: Steps of a bisection.
_STEPS = 40


@dataclass(frozen=True)
class Sample:
    """N frames of a test. Those of :data:`SINGLE` count singly.

    >>> wrong = np.zeros((1, 400), np.bool_)
    >>> blocks = Sample(np.arange(400) // 4, most=4, expected=np.array([0.0]))
    >>> print(blocks.worth(400), blocks.p_values(wrong, 0.05) < 0.02)
    100.0 [ True]
    """

    block: npt.NDArray[np.intp] | None = None
    """``[N]``: the number, from 0, of each frame's block."""
    most: int = 1
    """How many frames of a block may count at most."""
    expected: Floats = field(default_factory=lambda: np.zeros(1))
    """``[settings]``: the risk that tuning expects of each setting. It decides the stakes, and was fixed before."""

    looks: Looks | None = None
    """When a test looked at frames that came before these; None where it sees all N for the first time."""

    def rows(self, kept: Bools) -> "Sample":
        """That of some of the frames, ``kept`` bool ``[N]``."""
        block = None if self.block is None else np.unique(self.block[kept], return_inverse=True)[1]
        return replace(self, block=block, looks=self.looks and self.looks.of(kept))

    def then(self, more: "Sample") -> "Sample":
        """That of N frames, and then ``more`` of other blocks, after another look; both know their looks."""
        assert self.looks is not None
        assert more.looks is not None
        block = self.block
        if block is not None and more.block is not None:
            block = np.append(block, more.block + block.max(initial=-1) + 1)
        return replace(self, block=block, most=max(self.most, more.most), looks=self.looks.then(more.looks))

    def settings(self, chosen: slice) -> "Sample":
        """That of some of the settings."""
        return replace(self, expected=self.expected[chosen]) if len(self.expected) > 1 else self

    def worth(self, frames: int) -> float:
        """To how many frames that count singly these ``frames`` are worth, at best."""
        return frames / self.most

    def p_values(self, wrong: Bools, budget: float) -> Floats:
        """``[settings]``: small where a risk per frame above ``budget`` would hardly be wrong so seldom.

        ``wrong`` is bool ``[settings, N]``. For frames that belong together only.
        """
        assert self.block is not None
        blocks = int(self.block.max(initial=-1)) + 1
        audits = np.bincount(self.block, minlength=blocks)
        settings = len(wrong)
        place = np.nonzero(wrong)[0] * blocks + self.block[np.nonzero(wrong)[1]]
        disagreements = np.bincount(place, minlength=settings * blocks).reshape(settings, blocks)
        expected = np.broadcast_to(self.expected, settings) if len(self.expected) == 1 else self.expected[:settings]
        return _p_values(disagreements, audits, self.most, budget, expected)

    def passes(self, wrong: Bools, budget: float, error: Levels) -> Bools:
        """bool ``[settings]``: whether a risk per frame above ``budget`` would hardly be wrong so seldom.

        ``wrong`` is bool ``[settings, N]``.
        """
        if self.block is not None:
            return self.p_values(wrong, budget) <= error
        looks = self.looks or Looks.once(wrong.shape[1])
        most = [looks.allowed(budget, level) for level in np.broadcast_to(error, len(wrong)).tolist()]
        passes: Bools = wrong.sum(1) <= most
        return passes

    def p_value(self, wrong: Bools, budget: float, error: Levels, setting: int = 0) -> float:
        """That of one setting, at which ``wrong`` is bool ``[N]``."""
        if self.block is not None:
            return float(self.settings(slice(setting, setting + 1)).p_values(wrong[None], budget)[0])
        looks = self.looks or Looks.once(len(wrong))
        return looks.p_value(int(wrong.sum()), budget, level_of(error, setting))

    def upper_bound(self, wrong: Bools, budget: float, error: Levels, setting: int = 0) -> float:
        """The risk per frame is at most this with probability 1 - ``error``; ``wrong`` bool ``[N]`` at one setting.

        ``budget`` is what was tested: what earlier looks let pass went by it.
        """
        level = level_of(error, setting)
        if self.block is None:
            looks = self.looks or Looks.once(len(wrong))
            return looks.upper_bound(int(wrong.sum()), budget, level)
        alone = self.settings(slice(setting, setting + 1))
        low, high = float(wrong.mean()) if len(wrong) else 1.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            passes = 0.0 < middle < 1.0 and alone.p_values(wrong[None], middle)[0] <= level
            low, high = (low, middle) if passes else (middle, high)
        return high


#: Frames that have nothing to do with each other.
SINGLE = Sample()


def _p_values(
    disagreements: npt.NDArray[np.int64], audits: npt.NDArray[np.int64], most: int, budget: float, expected: Floats
) -> Floats:
    """Disagreements ``[settings, blocks]``, audits ``[blocks]``; of two bets in equal parts.

    One is for the risk that was expected, the other for one between that and the budget.
    """
    excess = (disagreements - budget * audits) / most
    risk = np.clip(expected, _LEAST * budget, 0.99 * budget)
    logs = []
    for bet_for in (risk, np.sqrt(risk * budget)):
        stake = (bet_for - budget) / (budget * (1 - budget))
        logs.append(np.log1p(stake[:, None] * excess).sum(1))
    capital: Floats = np.logaddexp(*logs) - np.log(2)
    p_values: Floats = np.exp(-np.maximum(capital, 0.0))
    return p_values
