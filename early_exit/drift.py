"""Does the risk exceed its budget? A running test on audits that is valid at any stopping time."""

import math

#: Alternatives, as multiples of the budget: the test bets on each in equal parts.
_MULTIPLES = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)
#: Capital beyond every level only overflows.
_MOST = math.exp(500)


class DriftDetector:
    """Tests "the risk is at most ``budget``" after every audit, and alarms when that has become untenable.

    Bets with a capital of 1 against that hypothesis. A bet on an alternative risk q multiplies its stake by q / budget
    when an audit disagrees and by (1 - q) / (1 - budget) when it agrees: the likelihood ratio, whose expectation is at
    most 1 under the hypothesis whatever the past was. Half the capital is bet at the start; of the rest a share is bet
    anew after every disagreement, so that 1 / log2(k + 4) of the capital is unspent after k of them. Each stake goes in
    equal parts on all alternatives. What is staked when depends on the past alone, so that the capital is an e-process:
    under the hypothesis it ever reaches 1 / ``level`` with probability at most ``level`` (Ville's inequality;
    e-processes: Ramdas, Grünwald, Vovk, Shafer 2023; mixing over starts: e-detectors, Shin, Ramdas, Rinaldo 2022).

    A change after a long quiet past meets bets that are as young as its own first disagreements: the past costs a delay
    that grows with the logarithm of the number of its *disagreements*. Starting bets at every audit instead pays for
    the logarithm of all audits: twice the delay after 50,000 quiet ones (``docs/benchmarks/drift.md`` has both).

    ``budget`` and ``level`` are shares between 0 and 1 (``ValueError`` otherwise). Audits must be a fair sample: count
    near-copies of one frame once.

    >>> detector = DriftDetector(budget=0.01, level=0.01)
    >>> any(detector.update(False) for _ in range(1000))
    False
    >>> [detector.update(True) for _ in range(5)]
    [False, False, False, True, True]
    """

    def __init__(self, budget: float, level: float) -> None:
        if not 0 < budget < 1 or not 0 < level < 1:
            raise ValueError(f"budget and level are shares between 0 and 1, not {budget} and {level}")
        self.budget = budget
        self.level = level
        self.audits = 0
        self.disagreements = 0
        self.alarmed = False
        risks = sorted({min(budget * multiple, (1 + budget) / 2) for multiple in _MULTIPLES})
        self._gains = [risk / budget for risk in risks]
        self._losses = [(1 - risk) / (1 - budget) for risk in risks]
        self._bets = [1 - self._unspent()] * len(risks)

    @property
    def evidence(self) -> float:
        """The capital now, an e-value: 1 / evidence is a p-value that holds at any stopping time."""
        return sum(self._bets) / len(self._bets) + self._unspent()

    def update(self, disagreed: bool) -> bool:
        """Takes in one audit, and says whether the alarm has been raised; once raised it stays."""
        return self.update_block(int(disagreed), 1, 1) if disagreed else self.agree(1)

    def update_block(self, disagreements: int, audits: int, most: int) -> bool:
        """Takes in a block of near-copies, whose ``audits`` count as one draw, with a weight of ``audits / most``.

        Of a block at most ``most`` audits may count, a fair choice of them. "The risk *per frame* is at most the budget
        b" says that over blocks the mean of ``disagreements - b * audits`` is at most 0. The bets go by
        ``b + (disagreements - b * audits) / most``, which lies between 0 and 1 and then has a mean of at most b: on
        such a variable, too, their expectation is at most 1 (Waudby-Smith, Ramdas 2023). A single audit where ``most``
        is 1 is what :meth:`update` takes. Raises ``ValueError`` for more audits than ``most``.

        >>> one, other = DriftDetector(0.01, 0.01), DriftDetector(0.01, 0.01)
        >>> _ = one.update(True), other.update_block(disagreements=1, audits=1, most=1)
        >>> abs(one.evidence - other.evidence) < 1e-9
        True
        >>> other.update_block(disagreements=8, audits=8, most=8), other.update_block(9, 9, 8)
        Traceback (most recent call last):
        ValueError: 9 of 9 audits of a block disagree; at most 8 may count
        """
        if not 0 <= disagreements <= audits <= most:
            raise ValueError(f"{disagreements} of {audits} audits of a block disagree; at most {most} may count")
        self.audits += audits
        before = self._unspent()
        self.disagreements += disagreements
        stake = before - self._unspent()
        share = self.budget + (disagreements - self.budget * audits) / most
        self._bets = [
            min(bet * (loss + share * (gain - loss)), _MOST) + stake
            for bet, gain, loss in zip(self._bets, self._gains, self._losses, strict=True)
        ]
        self.alarmed = self.alarmed or self.evidence >= 1 / self.level
        return self.alarmed

    def agree(self, count: int) -> bool:
        """Takes in ``count`` audits that all agreed, in one step; they never raise the alarm.

        >>> one, other = DriftDetector(0.01, 0.01), DriftDetector(0.01, 0.01)
        >>> _ = one.agree(100), [other.update(False) for _ in range(100)]
        >>> abs(one.evidence - other.evidence) < 1e-9
        True
        """
        self.audits += count
        self._bets = [bet * loss**count for bet, loss in zip(self._bets, self._losses, strict=True)]
        return self.alarmed

    def state(self) -> dict[str, float | list[float]]:
        """What :meth:`restore` takes, as JSON holds it.

        >>> one, other = DriftDetector(0.01, 0.01), DriftDetector(0.01, 0.01)
        >>> _ = one.update(True)
        >>> other.restore(one.state())
        >>> other.disagreements, other.evidence == one.evidence
        (1, True)
        """
        return {
            "budget": self.budget,
            "audits": self.audits,
            "disagreements": self.disagreements,
            "alarmed": self.alarmed,
            "bets": list(self._bets),
        }

    def restore(self, state: dict[str, float | list[float]]) -> None:
        """Goes on where another process stopped, its alarm included; ``ValueError`` where that was another test."""
        bets, audits, disagreements = state.get("bets"), state.get("audits"), state.get("disagreements")
        if state.get("budget") != self.budget or not isinstance(bets, list) or len(bets) != len(self._bets):
            raise ValueError("the drift test's state is of another budget, or of an earlier kind of test")
        if not isinstance(audits, int) or not isinstance(disagreements, int):
            raise ValueError(f"the drift test's state counts {disagreements!r} of {audits!r} audits")
        self.audits, self.disagreements, self._bets = audits, disagreements, list(bets)
        self.alarmed = bool(state.get("alarmed"))

    def _unspent(self) -> float:
        """Capital that no bet has taken yet."""
        return 1 / math.log2(self.disagreements + 4)
