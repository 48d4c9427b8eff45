"""One attempt's frames, run at every setting of the family: what each setting saves, and where it disagrees."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.certificate import ClassCap, verdict_of
from layercache.cache_training.certifying.choosing import DOUBTS, ExitChoice
from layercache.cache_training.certifying.classes import worst_classes
from layercache.cache_training.learning.batch_times import BatchTimes
from layercache.cache_training.learning.candidates import Costs
from layercache.early_exit.policy import cascade
from layercache.schemas.manifest import Certificate, Expected

#: An attempt takes the safest setting that saves at least this share of what the boldest certified one saves.
_NEARLY = 0.96


@dataclass(frozen=True)
class Attempt:
    """Attempt ``number`` on N frames with the heads of ``choice``; settings go from the safest to the boldest."""

    number: int
    confidence: float
    choice: ExitChoice
    labels: npt.NDArray[np.int64]
    """``[N]``: the full model's labels."""
    exits: Sequence[npt.NDArray[np.int32]]
    """By setting: the exit ``[N]`` at which each frame leaves, -1 for none."""
    wrong: npt.NDArray[np.bool_]
    """``[settings, N]``: whether the answer differs from the full model's."""
    cap: ClassCap | None = None
    classes_alone: int = 0
    """With a cap: how many classes have a test of their own."""

    @classmethod
    def run(
        cls,
        number: int,
        confidence: float,
        choice: ExitChoice,
        scores: npt.NDArray[np.float32],
        answers: npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64],
        cap: ClassCap | None = None,
        classes_alone: int = 0,
    ) -> "Attempt":
        """Makes an attempt of the exits' ``scores`` and ``answers``, ``[N, exits]`` each."""
        exits = [cascade(scores, np.full(scores.shape[1], 1 - doubt, np.float32)) for doubt in DOUBTS]
        given = [np.where(e >= 0, answers[np.arange(len(e)), e], labels) for e in exits]
        wrong = np.stack([answer != labels for answer in given])
        return cls(number, confidence, choice, labels, exits, wrong, cap, classes_alone)

    def settle(self, passed: range, cut_costs: dict[str, Costs], times: BatchTimes | None) -> tuple[int, Expected]:
        """Of the settings that ``passed``, the safest that saves nearly as much as the boldest, and what it saves.

        Any setting that has passed may be taken, and the last few savings cost the most risk.
        """
        most = versions.expected_savings(self.choice, self.exits[passed[-1]], cut_costs, times).time_saved
        for index in passed:
            expectation = versions.expected_savings(self.choice, self.exits[index], cut_costs, times)
            if expectation.time_saved >= _NEARLY * most:
                break
        return index, expectation

    def certificate(self, index: int, budget: float, error: float, classes: Sequence[str]) -> Certificate:
        """The certificate of a setting that passed the test of ``budget`` at level ``error``; ``classes`` are names."""
        wrong, cap = self.wrong[index], self.cap
        verdict = verdict_of(index, wrong, budget, error)
        return Certificate(
            max_disagreement=budget,
            confidence=self.confidence,
            attempt=self.number,
            error=error,
            frames=verdict.frames,
            disagreements=verdict.disagreements,
            p_value=verdict.p_value,
            upper_bound=verdict.upper_bound,
            max_class_disagreement=cap.budget if cap else None,
            classes_tested=self.classes_alone,
            class_upper_bound=cap.upper_bound(wrong, error) if cap else None,
            worst_classes=worst_classes(wrong, self.labels, classes, error),
        )
