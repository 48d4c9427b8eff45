"""Heads that have learnt, asked about frames that they have never seen; the full model says who is right."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from torch import Tensor

from layercache.cache_training.certifying import versions
from layercache.cache_training.certifying.binomial import lower_bound, upper_bound
from layercache.cache_training.certifying.choosing import ExitChoice
from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.engine import Engine
from layercache.early_exit.heads.loading import load_heads
from layercache.early_exit.policy import cascade
from layercache.measuring.columns import joined
from layercache.measuring.race import Rival
from layercache.report.footage import Batch
from layercache.report.numbers import Exam, OfClass, Plain, Point
from layercache.schemas.manifest import Manifest
from layercache.stream.frames.frame import Frame

#: Each end of the interval of a counted disagreement.
_TAIL = 0.025
_WORST_CLASSES = 12
#: What of the frames is kept to measure time with: as many bytes at most.
_KEPT_BYTES = 64_000_000


@dataclass(frozen=True)
class Paper:
    """One budget's exits: a version of heads, certified or not."""

    budget: float
    engine: Engine

    @classmethod
    def of(cls, budget: float, traced: TracedModel, manifest: Manifest, tensors: dict[str, Tensor]) -> "Paper":
        """Nothing is audited in the exam: the frames' answers are all known."""
        manifest = msgspec.structs.replace(manifest, audit_rate=0.0)
        return cls(budget, Engine(traced, load_heads(manifest, tensors, traced)))


@dataclass(frozen=True)
class Answered:
    """N answers of one paper."""

    exits: npt.NDArray[np.int16]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Known:
    """What is known of the exam's N frames."""

    full: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    truth: npt.NDArray[np.int64]
    content: npt.NDArray[np.uint64]


class Sitting:
    """The exam of several papers, frame by frame; ``curve`` scores the exits whose thresholds are varied.

    ``plain`` is the best plain runtime, which is asked as well; None: PyTorch, which gives the answers that count.
    """

    def __init__(
        self,
        traced: TracedModel,
        papers: Sequence[Paper],
        curve: Engine | None,
        race_frames: int,
        plain: Engine | None = None,
    ) -> None:
        self.papers = tuple(papers)
        self._plain = plain
        self._plain_labels: list[npt.NDArray[np.int64]] = []
        self._full = Engine(traced)
        self._curve = curve
        self._known: list[Known] = []
        self._answered: list[list[Answered]] = [[] for _ in papers]
        self._scores: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]] = []
        self._room = race_frames, _KEPT_BYTES
        self.kept: list[Frame] = []
        """The first frames, as they were read: to measure time with."""

    def take(self, batch: Batch) -> None:
        """Answers a micro-batch by every paper, and by the full model."""
        no_audits = np.zeros(len(batch), np.bool_)
        full = self._full.run(batch.pictures, no_audits)
        self._known.append(Known(full.labels, full.probabilities.max(1), batch.truth, batch.content))
        for paper, answered in zip(self.papers, self._answered, strict=True):
            answers = paper.engine.run(batch.pictures, no_audits)
            answered.append(Answered(answers.exits, answers.labels))
        self._plain_labels.append(
            full.labels if self._plain is None else self._plain.run(batch.pictures, no_audits).labels
        )
        if self._curve is not None:
            self._scores.append(self._curve.score(batch.pictures))
        for frame in batch.frames:
            size = len(frame.value or b"")
            if self._room[0] and self._room[1] >= size:
                self._room = self._room[0] - 1, self._room[1] - size
                self.kept.append(frame)

    def __len__(self) -> int:
        return sum(len(known.full) for known in self._known)

    def known(self) -> Known:
        """All frames. Raises ``ValueError`` where there were none."""
        return joined(self._known)

    def answered(self, number: int) -> Answered:
        """What paper ``number`` has answered."""
        return joined(self._answered[number])

    def plain_labels(self) -> npt.NDArray[np.int64]:
        """What the best plain runtime has answered."""
        return np.concatenate(self._plain_labels)

    def scores(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Of the curve's exits, ``[N, exits]`` each."""
        return tuple(np.concatenate(parts) for parts in zip(*self._scores, strict=True))  # type: ignore[return-value]


def result(paper: Paper, answered: Answered, known: Known, rows: npt.NDArray[np.bool_]) -> Exam | None:
    """Of the frames in ``rows``, bool ``[N]``; None where there are none."""
    frames = int(rows.sum())
    if not frames:
        return None
    exits, labels, full, truth = answered.exits[rows], answered.labels[rows], known.full[rows], known.truth[rows]
    wrong = int((labels != full).sum())
    names = paper.engine.exit_names
    counts = np.bincount(exits.astype(np.int64) % len(names), minlength=len(names))  # -1 is the last
    labelled = truth >= 0
    return Exam(
        frames=frames,
        hit_rate=float((exits >= 0).mean()),
        time_saved=float(1 - paper.engine.time_shares[exits].mean()),
        flops_saved=float(1 - paper.engine.flops_shares[exits].mean()),
        disagreements=wrong,
        lowest=lower_bound(wrong, frames, _TAIL),
        highest=upper_bound(wrong, frames, _TAIL),
        exits={name: float(count / frames) for name, count in zip(names, counts, strict=True)},
        accuracy=float((labels == truth)[labelled].mean()) if labelled.any() else None,
        full_accuracy=float((full == truth)[labelled].mean()) if labelled.any() else None,
    )


def plain_result(rival: Rival, labels: npt.NDArray[np.int64], full: npt.NDArray[np.int64]) -> Plain:
    """The best plain runtime's, whose ``labels`` are held against the model's ``full``, ``[N]`` each."""
    frames, wrong = len(full), int((labels != full).sum())
    return Plain(
        name=rival.name,
        note=rival.note,
        heats_fps=dict(rival.fps),
        frames=frames,
        disagreements=wrong,
        lowest=lower_bound(wrong, frames, _TAIL) if frames else 0.0,
        highest=upper_bound(wrong, frames, _TAIL) if frames else 1.0,
    )


def by_class(
    answered: Answered, known: Known, rows: npt.NDArray[np.bool_], names: Sequence[str]
) -> tuple[OfClass, ...]:
    """The classes that the full model gives to frames in ``rows``, the most disagreements first, then the largest."""
    full, wrong, left = known.full[rows], (answered.labels != known.full)[rows], (answered.exits >= 0)[rows]
    found = [
        OfClass(
            name=names[label],
            frames=int((full == label).sum()),
            hit_rate=float(left[full == label].mean()),
            disagreements=int(wrong[full == label].sum()),
        )
        for label in np.unique(full).tolist()
    ]
    return tuple(sorted(found, key=lambda one: (-one.disagreements, -one.frames))[:_WORST_CLASSES])


def curve(
    choice: ExitChoice,
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    full: npt.NDArray[np.int64],
) -> tuple[Point, ...]:
    """Every setting of the family that the trainer tests, from the safest to the boldest."""
    points = []
    for thresholds in choice.family.thresholds:
        exits = cascade(scores, thresholds)
        given = np.where(exits >= 0, labels[np.arange(len(exits)), exits], full)
        expected = versions.expected_savings(choice, exits)
        points.append(
            Point(
                disagreement=float((given != full).mean()),
                hit_rate=expected.hit_rate,
                flops_saved=expected.flops_saved,
                time_saved=expected.time_saved,
            )
        )
    return tuple(points)
