"""What a method's exits are worth: the same arithmetic for the paper's and for ours, on the evaluation half."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite

import msgspec
import numpy as np
import numpy.typing as npt

from layercache.early_exit.engine import Engine
from layercache.early_exit.policy import cascade

Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
#: One per exit of an :class:`Outcome`; a frame leaves where its score is at least this, ``inf`` closes the exit.
Thresholds = tuple[float, ...]

#: The share of frames whose answer may differ from the full model's, at which methods are compared.
DISAGREEMENTS = (0.005, 0.01, 0.02, 0.05)
#: The paper's criterion: accuracy against labels at most this far below the full model's.
ACCURACY_LOSS = 0.01
WITHIN_ACCURACY = "accuracy within 1 point"
#: Ours, at the disagreement that the paper's method has at its own criterion.
AS_PAPER = "the paper's disagreement at accuracy within 1 point"


@dataclass(frozen=True)
class Exit:
    """A head at a cut, and what it costs as shares of the plain model's FLOPs."""

    cut: str
    trunk: float
    """FLOPs of the model up to the cut."""
    head: float
    """FLOPs of the head."""


@dataclass(frozen=True)
class Outcome:
    """What a method learnt from one half, and what its E exits say about the N frames of the other.

    Several exits may share a cut (candidate heads); a setting then opens at most one of them.
    """

    exits: tuple[Exit, ...]
    """In the model's order."""
    scores: Scores
    """``[N, E]``"""
    labels: Labels
    """``[N, E]``"""
    settings: tuple[Thresholds, ...]
    """A one-dimensional family from safest to boldest, to be swept over the evaluation half."""
    engine: Callable[[Thresholds], Engine]
    """The early-exit model that serves with the exits that a setting opens."""
    certified: Mapping[float, Thresholds] = field(default_factory=dict)
    """By the disagreement that was certified: the setting, all closed where nothing could be."""
    nowhere: float = 1.0
    """What a frame costs that no exit answers, heads left out."""
    upper_bound: float | None = None
    """On the disagreement, of what was certified; with one budget only."""
    time_saved: Callable[[npt.NDArray[np.int32]], float] | None = None
    """The expected share of the plain model's time, for where the frames leave, -1 for nowhere."""


@dataclass(frozen=True)
class Truth:
    """What the evaluation frames are judged by."""

    full: Labels
    """``[N]``: the full model's answers."""
    labels: Labels
    """``[N]``: what the frames show."""

    @property
    def accuracy(self) -> float:
        """The full model's."""
        return float(np.mean(self.full == self.labels))


class Point(msgspec.Struct, frozen=True):
    """One setting on the evaluation half; shares of frames and of the plain model's FLOPs."""

    flops_saved: float
    disagreement: float
    accuracy: float
    hit_rates: dict[str, float]
    """By cut: the share of all frames that leave there."""
    thresholds: tuple[float | None, ...]
    """By exit; None: closed."""
    time_saved: float | None = None
    """What was expected, by the time of each piece."""

    @property
    def settings(self) -> Thresholds:
        """The thresholds as numbers, ``inf`` where closed."""
        return tuple(inf if value is None else value for value in self.thresholds)


def measure(outcome: Outcome, thresholds: Thresholds, truth: Truth) -> Point:
    """Runs the cascade on the outcome's scores; the cost of every open head that a frame passes counts.

    >>> exits = (Exit("early", trunk=0.2, head=0.1),)
    >>> scores, labels = np.array([[0.9], [0.3]], np.float32), np.array([[1], [1]])
    >>> outcome = Outcome(exits, scores, labels, settings=(), engine=lambda thresholds: ...)
    >>> point = measure(outcome, (0.5,), Truth(full=np.array([1, 0]), labels=np.array([1, 0])))
    >>> round(point.flops_saved, 3), point.disagreement, point.hit_rates  # costs 0.3 and 1.1
    (0.3, 0.0, {'early': 0.5})
    """
    open_ = np.isfinite(thresholds)
    exits = cascade(outcome.scores, np.array(thresholds, np.float32))
    hits = exits >= 0
    answers = np.where(hits, outcome.labels[np.arange(len(exits)), np.maximum(exits, 0)], truth.full)
    heads = np.cumsum([exit_.head if used else 0.0 for exit_, used in zip(outcome.exits, open_, strict=True)])
    costs = np.append(
        [exit_.trunk for exit_ in outcome.exits] + heads, outcome.nowhere + (heads[-1] if len(heads) else 0.0)
    )
    hit_rates: dict[str, float] = {}
    for index, exit_ in enumerate(outcome.exits):
        if open_[index]:
            hit_rates[exit_.cut] = hit_rates.get(exit_.cut, 0.0) + float(np.mean(exits == index))
    return Point(
        flops_saved=float(1 - costs[exits].mean()),
        disagreement=float(np.mean(answers != truth.full)),
        accuracy=float(np.mean(answers == truth.labels)),
        hit_rates=hit_rates,
        thresholds=tuple(value if isfinite(value) else None for value in thresholds),
        time_saved=outcome.time_saved(exits) if outcome.time_saved else None,
    )


def sweep(outcome: Outcome, truth: Truth) -> list[Point]:
    """Every setting's point, safest first; before them all exits closed, which saves nothing and errs nowhere."""
    closed = (inf,) * len(outcome.exits)
    return [measure(outcome, thresholds, truth) for thresholds in (closed, *outcome.settings)]


def boldest(points: Sequence[Point], allowed: Callable[[Point], bool]) -> Point:
    """Of the points that are allowed the one that saves most; the first must be."""
    return max((point for point in points if allowed(point)), key=lambda point: point.flops_saved)


def within_disagreement(points: Sequence[Point], limit: float) -> Point:
    """What can be saved while at most ``limit`` of the frames are answered otherwise than by the full model."""
    return boldest(points, lambda point: point.disagreement <= limit)


def within_accuracy(points: Sequence[Point], full: float) -> Point:
    """What can be saved while accuracy stays within a point of the full model's, ``full``."""
    return boldest(points, lambda point: point.accuracy >= full - ACCURACY_LOSS - 1e-9)


def choose(points: Sequence[Point], truth: Truth) -> dict[str, Point]:
    """By criterion: the point of a swept family."""
    chosen = {percent(limit): within_disagreement(points, limit) for limit in DISAGREEMENTS}
    return chosen | {WITHIN_ACCURACY: within_accuracy(points, truth.accuracy)}


def percent(limit: float, what: str = "disagreement") -> str:
    """A criterion's name.

    >>> percent(0.005), percent(0.01, "certified")
    ('disagreement 0.5%', 'certified 1%')
    """
    return f"{what} {100 * limit:g}%"


def savings_at(points: Sequence[Point], disagreements: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """FLOPs saved at each of ``disagreements`` or less: the curve of a sweep, a step function."""
    return np.array([within_disagreement(points, limit).flops_saved for limit in disagreements])
