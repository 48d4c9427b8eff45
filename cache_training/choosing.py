"""Which heads at which cuts, with which thresholds: chosen on tuning audits to save the most measured time."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from cache_training.candidates import Candidate, Costs
from early_exit.policy import cascade

#: The family of settings, from the safest to the boldest: a frame may leave where the calibrated doubt, 1 - score, is
#: at most this. One number for all exits: at the best split of a budget each exit stops at the same marginal risk.
DOUBTS = np.geomspace(2e-4, 0.4, 60)
_TEMPERATURES = np.geomspace(0.25, 8, 41)
#: How many tuning frames' worth the calibrated doubt counts beside what was observed.
_PRIOR_FRAMES = 200

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """A candidate's calibrated answers to N tuning audits."""

    candidate: Candidate
    temperature: float
    scores: npt.NDArray[np.float32]
    """``[N]``"""
    wrong: npt.NDArray[np.bool_]
    """``[N]``: another label than the full model's"""


@dataclass(frozen=True)
class Choice:
    """Exits worth an attempt to certify them."""

    exits: tuple[Scored, ...]
    time_saved: float
    """Expected at the boldest setting whose estimated risk fits the budget; a share of the plain model's time."""
    doubt: float
    """That setting."""


def calibrated(candidate: Candidate, logits: Floats, labels: npt.NDArray[np.int64]) -> Scored:
    """The temperature with the least cross-entropy to the full model's labels, and the scores under it."""
    best = min(_TEMPERATURES, key=lambda temperature: _cross_entropy(logits / temperature, labels))
    chances = _softmax(logits / best)
    return Scored(candidate, float(best), chances.max(1).astype(np.float32), chances.argmax(1) != labels)


def choose(scored: Sequence[Scored], cut_costs: dict[str, Costs], risk: float) -> Choice | None:
    """The subset of exits, one head a cut, that saves the most time at an estimated risk of at most ``risk``."""
    cuts = list(cut_costs)
    best_at: dict[str, Scored] = {}
    for cut in cuts:
        here = [one for one in scored if one.candidate.cut == cut]
        if here:
            best_at[cut] = max(here, key=lambda one: _saving((one,), cut_costs, risk)[0])
    options = [best_at[cut] for cut in cuts if cut in best_at]
    best: Choice | None = None
    for size in range(1, len(options) + 1):
        for subset in combinations(options, size):
            time_saved, doubt = _saving(subset, cut_costs, risk)
            if time_saved > (best.time_saved if best else 0.0):
                best = Choice(subset, time_saved, doubt)
    return best


def shares(exits: npt.NDArray[np.int32], cut_costs: Sequence[float], head_costs: Sequence[float]) -> float:
    """Mean cost per frame, 1 being the plain model: ``exits[i]`` is where frame i left (-1: nowhere)."""
    passed = np.cumsum(head_costs)
    costs = np.append(np.asarray(cut_costs) + passed, 1 + (passed[-1] if len(passed) else 0))
    return float(costs[exits].mean())


def _saving(subset: Sequence[Scored], cut_costs: dict[str, Costs], risk: float) -> tuple[float, float]:
    """Time saved and doubt of the boldest setting that fits; (0, 0) where none does."""
    scores = np.stack([one.scores for one in subset], 1)
    wrong = np.stack([one.wrong for one in subset], 1)
    reach = [cut_costs[one.candidate.cut].time for one in subset]
    heads = [one.candidate.costs.time for one in subset]
    best = (0.0, 0.0)
    for doubt in DOUBTS:
        exits = cascade(scores, np.full(len(subset), 1 - doubt, np.float32))
        left = np.flatnonzero(exits >= 0)
        doubts = 1 - scores[left, exits[left]]
        frames = len(scores)
        estimate = (wrong[left, exits[left]].sum() + _PRIOR_FRAMES * doubts.sum() / frames) / (frames + _PRIOR_FRAMES)
        if estimate > risk:
            break
        saved = 1 - shares(exits, reach, heads)
        if saved > best[0]:
            best = (saved, float(doubt))
    return best


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    result: Floats = raised / raised.sum(1, keepdims=True)
    return result


def _cross_entropy(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).mean())
