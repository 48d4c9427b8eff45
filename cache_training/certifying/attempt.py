"""One attempt's frames so far, run at every setting of its choice's family: what each saves, where it disagrees."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.certificate import ClassCap, verdict_of
from layercache.cache_training.certifying.choosing import ExitChoice
from layercache.cache_training.certifying.classes import worst_classes
from layercache.cache_training.certifying.samples import SINGLE, Sample
from layercache.cache_training.certifying.savings import saves_nearly
from layercache.cache_training.certifying.windows import span_s
from layercache.cache_training.learning.kept_frames import Frames
from layercache.early_exit.policy import cascade
from layercache.schemas.manifest import Certificate, Expected


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
    whole: npt.NDArray[np.bool_]
    """``[settings, N + repeated]``: the same on these frames and on repeated ones, of pictures that heads may know."""
    samples: tuple[Sample, Sample] = (SINGLE, SINGLE)
    """Which frames belong together, of ``wrong`` and of ``whole``."""
    cap: ClassCap | None = None
    classes_alone: int = 0
    """With a cap: how many classes have a test of their own."""
    block_frames: int | None = None
    """Of a key's block of time at most so many frames count; None where no frame had a key."""
    block_s: float | None = None
    """How long such a block lasts; None likewise."""
    timestamp_ms: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """``[N]``"""
    looks: int = 1
    """How often it has looked at these and, before the last were there, at the others."""

    @classmethod
    def run(
        cls,
        number: int,
        confidence: float,
        choice: ExitChoice,
        scores: npt.NDArray[np.float32],
        answers: npt.NDArray[np.int64],
        tested: Frames,
        samples: tuple[Sample, Sample] = (SINGLE, SINGLE),
        cap: ClassCap | None = None,
        classes_alone: int = 0,
    ) -> "Attempt":
        """Makes an attempt of the exits' ``scores`` and ``answers``, ``[M, exits]`` each, for M ``tested`` frames."""
        labels, new = tested.labels, ~tested.repeated
        exits = [cascade(scores, thresholds) for thresholds in choice.family.thresholds]
        given = [np.where(e >= 0, answers[np.arange(len(e)), e], labels) for e in exits]
        whole = np.stack([answer != labels for answer in given])
        return cls(
            number,
            confidence,
            choice,
            labels[new],
            [one[new] for one in exits],
            whole[:, new],
            whole,
            samples,
            cap,
            classes_alone,
            timestamp_ms=tested.timestamp_ms[new],
        )

    def then(self, more: "Attempt") -> "Attempt":
        """The same on these frames, and then ``more``, which came for another look; samples know their looks."""
        return replace(
            self,
            labels=np.append(self.labels, more.labels),
            exits=[np.append(*both) for both in zip(self.exits, more.exits, strict=True)],
            wrong=np.concatenate((self.wrong, more.wrong), 1),
            whole=np.concatenate((self.whole, more.whole), 1),
            samples=(self.samples[0].then(more.samples[0]), self.samples[1].then(more.samples[1])),
            cap=self.cap and more.cap and self.cap.then(more.cap),
            timestamp_ms=np.append(self.timestamp_ms, more.timestamp_ms),
            looks=self.looks + more.looks,
        )

    def settle(self, passed: range) -> tuple[int, Expected]:
        """Of the settings that ``passed``, the safest that saves nearly as much as the boldest, and what it saves.

        Any setting that has passed may be taken, and the last few savings cost the most risk.
        """
        most = versions.expected_savings(self.choice, self.exits[passed[-1]]).time_saved
        for index in passed:
            expectation = versions.expected_savings(self.choice, self.exits[index])
            if saves_nearly(expectation.time_saved, most):
                break
        return index, expectation

    def certificate(self, index: int, budget: float, error: float, classes: Sequence[str]) -> Certificate:
        """The certificate of a setting that passed the test of ``budget`` at level ``error``; ``classes`` are names.

        What is said of single classes holds at whichever look: each look has an equal part of the level.
        """
        wrong, cap = self.wrong[index], self.cap
        sample = self.samples[0]
        verdict = verdict_of(index, wrong, budget, error, sample)
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
            worst_classes=worst_classes(wrong, self.labels, classes, error / self.looks),
            span_s=span_s(self.timestamp_ms),
            block_frames=self.block_frames,
            block_s=self.block_s,
            looks=self.looks,
            blocks=None if sample.block is None else len(np.unique(sample.block)),
            repeated=self.whole.shape[1] - len(wrong),
            repeated_disagreements=int(self.whole[index].sum() - wrong.sum()),
        )
