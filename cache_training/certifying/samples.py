"""What a test knows of its frames beside the answers: which belong together, and how much a block may count.

Frames that have nothing to do with each other are counted by a binomial test (:mod:`certificate`). Of a key's block of
time several audits count, and they are near-copies: the block is one draw, whose weight is the number of its audits.
The risk *per frame* is at most the budget b if over blocks the mean of ``disagreements - b * audits`` is at most 0,
whatever heavy and light blocks have to do with disagreements. A test bets on that (Waudby-Smith, Ramdas 2023): a
capital of 1 is multiplied, block by block, by a number whose mean is at most 1 if the risk is above b, so that the
final capital exceeds 1 / error with a probability of at most ``error`` (Markov). The stakes are fixed before any weight
is seen, by the largest weight that there may be; how many audits of a block count at most is therefore a matter of
settings, never of what a window happens to hold.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

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

    def rows(self, kept: Bools) -> "Sample":
        """That of some of the frames, ``kept`` bool ``[N]``."""
        return self if self.block is None else replace(self, block=np.unique(self.block[kept], return_inverse=True)[1])

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

    def upper_bound(self, wrong: Bools, error: float, setting: int = 0) -> float:
        """The risk per frame is at most this with probability 1 - ``error``; ``wrong`` bool ``[N]`` at one setting."""
        expected = self.expected[setting : setting + 1] if len(self.expected) > 1 else self.expected
        alone = replace(self, expected=expected)
        low, high = float(wrong.mean()) if len(wrong) else 1.0, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            passes = 0.0 < middle < 1.0 and alone.p_values(wrong[None], middle)[0] <= error
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
