"""Has the risk left its budget? A running test on audits that is valid at any stopping time."""

import math

#: Alternatives, as multiples of the budget: the test bets on each in equal parts.
_MULTIPLES = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0)


class DriftDetector:
    """Tests "the risk is at most ``budget``" after every audit, and alarms when that has become untenable.

    For each alternative risk q the likelihood ratio of the audits since a time j is an e-process; they are mixed over
    the starting times j = 1, 2, … with weights 1 / (j (j + 1)) and over the alternatives. The mixture is an e-process
    itself, so that under the hypothesis it ever reaches 1 / level with probability at most ``level`` (Ville), while a
    change after a long quiet past is noticed as fast as one at the start, but for a delay that grows with the logarithm
    of the past (e-detectors: Shin, Ramdas, Rinaldo 2022).

    >>> detector = DriftDetector(budget=0.01, level=0.01)
    >>> any(detector.update(False) for _ in range(1000))
    False
    >>> [detector.update(True) for _ in range(5)][-1]
    True
    """

    def __init__(self, budget: float, level: float) -> None:
        if not 0 < budget < 1 or not 0 < level < 1:
            raise ValueError(f"budget and level are shares between 0 and 1, not {budget} and {level}")
        self.budget = budget
        self.level = level
        self.audits = 0
        self.disagreements = 0
        self.alarmed = False
        self._risks = sorted({min(budget * multiple, (1 + budget) / 2) for multiple in _MULTIPLES})
        self._wealth = [0.0] * len(self._risks)

    @property
    def evidence(self) -> float:
        """The e-value now: 1 / evidence is an anytime-valid p-value."""
        return sum(self._wealth) / len(self._wealth) + 1 / (self.audits + 1)

    def update(self, disagreed: bool) -> bool:
        """Takes in one audit, and says whether the alarm has been raised; once raised it stays."""
        self.audits += 1
        self.disagreements += disagreed
        entering = 1 / (self.audits * (self.audits + 1))
        for index, risk in enumerate(self._risks):
            ratio = risk / self.budget if disagreed else (1 - risk) / (1 - self.budget)
            # Capped, because wealth beyond every level only overflows.
            self._wealth[index] = min((self._wealth[index] + entering) * ratio, math.exp(500))
        self.alarmed = self.alarmed or self.evidence >= 1 / self.level
        return self.alarmed

    def state(self) -> dict[str, float | list[float]]:
        """What :meth:`restore` takes, as JSON holds it."""
        return {"audits": self.audits, "disagreements": self.disagreements, "wealth": self._wealth}

    def restore(self, state: dict[str, float | list[float]]) -> None:
        """Goes on where another process stopped."""
        wealth = state["wealth"]
        if not isinstance(wealth, list) or len(wealth) != len(self._risks):
            raise ValueError("the drift test's state is of another budget")
        self.audits, self.disagreements, self._wealth = int(state["audits"]), int(state["disagreements"]), list(wealth)  # type: ignore[arg-type]
