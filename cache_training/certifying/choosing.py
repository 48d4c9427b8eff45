"""Chooses heads, cuts and thresholds on tuning audits so that they save the most measured time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self

import numpy as np
import numpy.typing as npt

from layercache.cache_training.learning.batch_times import BatchTimes
from layercache.cache_training.learning.candidates import Candidate, Costs

#: The family of settings, from the safest to the boldest: a frame may leave where its calibrated doubt, 1 - score, is
#: at most this. All exits share one number: in the best split of a budget each exit stops at the same marginal risk.
DOUBTS = np.geomspace(2e-4, 0.4, 60)
_TEMPERATURES = np.geomspace(0.25, 8, 41)
#: The calibrated doubt counts as much as this many tuning frames; it is added to the observed errors.
_PRIOR_FRAMES = 200

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate's calibrated answers to N tuning audits."""

    candidate: Candidate
    temperature: float
    scores: npt.NDArray[np.float32]
    """``[N]``"""
    wrong: npt.NDArray[np.bool_]
    """``[N]``: another label than the full model's"""


@dataclass(frozen=True)
class ExitChoice:
    """The exits that an attempt is made with."""

    exits: tuple[ScoredCandidate, ...]
    time_saved: float
    """Expected at the best setting whose estimated risk fits the budget; a share of the plain model's time."""
    doubt: float
    """That setting."""


def calibrate(candidate: Candidate, logits: Floats, labels: npt.NDArray[np.int64]) -> ScoredCandidate:
    """Scores at the temperature with the least cross-entropy to the full model's labels."""
    best = min(_TEMPERATURES, key=lambda temperature: _cross_entropy(logits / temperature, labels))
    chances = _softmax(logits / best)
    return ScoredCandidate(candidate, float(best), chances.max(1).astype(np.float32), chances.argmax(1) != labels)


def choose(
    scored: Sequence[ScoredCandidate], cut_costs: dict[str, Costs], risk: float, times: BatchTimes | None = None
) -> ExitChoice | None:
    """The subset of exits, one head a cut, that saves the most time at an estimated risk of at most ``risk``.

    Time is a shrinking micro-batch's, by ``times``; without it, each piece costs every frame that passes it the same.
    All of ``scored`` must be on the same tuning audits.
    """
    judged = [(*_saving((leaving,), cut_costs, risk, times), leaving) for leaving in map(_Leaving.of, scored)]
    options: list[_Leaving] = []
    best: ExitChoice | None = None
    for cut in cut_costs:
        here = [one for one in judged if one[2].scored.candidate.cut == cut]
        if here:
            time_saved, doubt, leaving = max(here, key=lambda one: one[0])
            options.append(leaving)
            if time_saved > (best.time_saved if best else 0.0):
                best = ExitChoice((leaving.scored,), time_saved, doubt)
    for size in range(2, len(options) + 1):
        for subset in combinations(options, size):
            time_saved, doubt = _saving(subset, cut_costs, risk, times)
            if time_saved > (best.time_saved if best else 0.0):
                best = ExitChoice(tuple(leaving.scored for leaving in subset), time_saved, doubt)
    return best


def time_saved_alone(
    scored: Sequence[ScoredCandidate], cut_costs: dict[str, Costs], risk: float, times: BatchTimes | None = None
) -> dict[str, float]:
    """By candidate's name: the time saved with it as the only exit, at an estimated risk of at most ``risk``."""
    alone = map(_Leaving.of, scored)
    return {one.scored.candidate.name: _saving((one,), cut_costs, risk, times)[0] for one in alone}


def shares(exits: npt.NDArray[np.int32], cut_costs: Sequence[float], head_costs: Sequence[float]) -> float:
    """Mean cost per frame, 1 being the plain model: ``exits[i]`` is where frame i left (-1: nowhere)."""
    passed = np.cumsum(head_costs)
    costs = np.append(np.asarray(cut_costs) + passed, 1 + (passed[-1] if len(passed) else 0))
    return float(costs[exits].mean())


@dataclass(frozen=True)
class _Leaving:
    """For one exit alone: from which setting on each of N tuning frames leaves there, and at what risk."""

    scored: ScoredCandidate
    opens: npt.NDArray[np.intp]
    """``[N]``: the first setting of :data:`DOUBTS` at which the frame may leave; ``len(DOUBTS)``: it never may."""
    risk: Floats
    """``[N]``: 1 for a wrong answer, plus a share of the frame's doubt."""

    @classmethod
    def of(cls, scored: ScoredCandidate) -> Self:
        """For one candidate."""
        # Both are float32, as in :func:`layercache.early_exit.policy.cascade`; both are negated, since thresholds fall
        # as doubts rise.
        opens = np.searchsorted((DOUBTS - 1).astype(np.float32), -scored.scores)
        doubts = (1 - scored.scores).astype(np.float64)
        return cls(scored, opens, scored.wrong + _PRIOR_FRAMES / len(doubts) * doubts)


def _saving(
    subset: Sequence[_Leaving], cut_costs: dict[str, Costs], risk: float, times: BatchTimes | None
) -> tuple[float, float]:
    """Time saved and doubt of the best setting, up to the boldest that fits ``risk``; (0, 0) where none fits."""
    frames = len(subset[0].opens)
    left, risks = np.empty((len(DOUBTS), len(subset) + 1)), np.zeros(len(DOUBTS))
    taken = np.full(frames, len(DOUBTS))  # by an earlier exit, from this setting on
    for number, one in enumerate(subset):
        here = one.opens < taken
        opens, closes = one.opens[here], taken[here]
        left[:, number] = _by_setting(opens, closes) / frames
        risks += _by_setting(opens, closes, one.risk[here])
        taken = np.minimum(taken, one.opens)
    left[:, -1] = 1 - left[:, :-1].sum(1)
    fits = np.logical_and.accumulate(risks / (frames + _PRIOR_FRAMES) <= risk)
    candidates = [one.scored.candidate for one in subset]
    spent = times.share(candidates, left) if times else left @ _costs_of_leaving(candidates, cut_costs)
    saved = np.where(fits, 1 - spent, 0.0)
    best = int(saved.argmax())
    return (float(saved[best]), float(DOUBTS[best])) if saved[best] > 0 else (0.0, 0.0)


def _by_setting(
    opens: npt.NDArray[np.intp], closes: npt.NDArray[np.intp], weights: Floats | None = None
) -> npt.NDArray[np.float64 | np.intp]:
    """``[settings]``: how many frames, or how much of ``weights``, lie within [opens, closes) at every setting."""
    size = len(DOUBTS) + 1
    changes = np.bincount(opens, weights, size) - np.bincount(closes, weights, size)
    within: npt.NDArray[np.float64 | np.intp] = changes.cumsum()[:-1]
    return within


def _costs_of_leaving(exits: Sequence[Candidate], cut_costs: dict[str, Costs]) -> Floats:
    """``[exits + 1]``: time of a frame that leaves at each exit and, last, nowhere."""
    passed = np.cumsum([one.costs.time for one in exits])
    return np.append([cut_costs[one.cut].time for one in exits] + passed, 1 + passed[-1])


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    result: Floats = raised / raised.sum(1, keepdims=True)
    return result


def _cross_entropy(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).mean())
