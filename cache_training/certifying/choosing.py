"""Chooses heads, cuts and thresholds on tuning audits so that they save the most measured time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Self

import numpy as np
import numpy.typing as npt

from layercache.cache_training.certifying.threshold_family import (
    Floats,
    Leaving,
    Spending,
    ThresholdFamily,
    with_one_doubt,
    with_own_doubts,
)
from layercache.cache_training.learning.candidates import ExitCandidate
from layercache.cache_training.learning.routes import Route

_TEMPERATURES = np.geomspace(0.25, 8, 41)
#: So many subsets of exits, the best with one doubt for all, get thresholds of their own: hardly any other ends as the
#: best, and each costs a few times as much as judging a subset by one doubt.
_REFINED = 3


@dataclass(frozen=True)
class ScoredCandidate:
    """A candidate's calibrated answers to N tuning audits."""

    candidate: ExitCandidate
    temperature: float
    scores: npt.NDArray[np.float32]
    """``[N]``"""
    wrong: npt.NDArray[np.bool_]
    """``[N]``: another label than the full model's"""


@dataclass(frozen=True)
class Option:
    """The candidates on one route; all were scored on the same tuning audits."""

    route: Route
    scored: Sequence[ScoredCandidate]


@dataclass(frozen=True)
class ExitChoice:
    """The exits that an attempt is made with, and the settings that it tests; all of it is fixed on tuning audits."""

    route: Route
    exits: tuple[ScoredCandidate, ...]
    family: ThresholdFamily
    """The settings to test; these very thresholds are served."""
    target: int
    """The planned target, of the family's settings: what should save the most at the risk that :func:`choose` got."""

    @property
    def time_saved(self) -> float:
        """Expected at the planned target; a share of the plain model's time."""
        return self.family.time_saved(self.target)

    def time_saved_within(self, risk: float) -> float:
        """The same at another estimated risk, by the same family; minus infinity where no setting has so little."""
        return self.family.time_saved(self.family.target(risk))


def calibrate(candidate: ExitCandidate, logits: Floats, labels: npt.NDArray[np.int64]) -> ScoredCandidate:
    """Scores at the temperature with the least cross-entropy to the full model's labels."""
    best = min(_TEMPERATURES, key=lambda temperature: _cross_entropy(logits / temperature, labels))
    chances = _softmax(logits / best)
    return ScoredCandidate(candidate, float(best), chances.max(1).astype(np.float32), chances.argmax(1) != labels)


def choose(option: Option, risk: float) -> ExitChoice | None:
    """The subset of exits, one at a cut, that saves the most time at an estimated risk of at most ``risk``.

    On a compiled path it has all of the path's exits. Subsets are first compared with one doubt for all their exits,
    then the best few with thresholds of their own.
    """
    route = option.route
    known = [_Known(one, Leaving.of(one.scores, one.wrong)) for one in option.scored]
    by_cut = [[one for one in known if one.scored.candidate.cut == cut] for cut in route.reach]
    options = [max(here, key=lambda one: _together((one,), route, risk).saved) for here in by_cut if here]
    sizes = range(1, len(options) + 1) if route.path is None else [len(options)]
    subsets = [subset for size in sizes for subset in combinations(options, size)]
    # A sort is stable: of equally good subsets those of few exits stay first.
    plans = sorted((_together(subset, route, risk) for subset in subsets), key=lambda plan: -plan.saved)
    several = [plan.exits for plan in plans if len(plan.exits) > 1]
    plans += [_apart(exits, route, risk) for exits in several[:_REFINED]]
    best = max(plans, key=lambda plan: plan.saved, default=None)
    if best is None or best.saved <= 0:
        return None
    exits = tuple(one.scored for one in best.exits)
    return ExitChoice(route, exits, best.family, best.family.target(risk))


def choose_among(options: Sequence[Option], risk: float) -> ExitChoice | None:
    """The best choice of any route."""
    choices = filter(None, (choose(option, risk) for option in options))
    return max(choices, key=lambda choice: choice.time_saved, default=None)


def time_saved_alone(option: Option, risk: float) -> dict[str, float]:
    """By candidate's name: the time saved with it as the only exit, at an estimated risk of at most ``risk``."""
    known = [_Known(one, Leaving.of(one.scores, one.wrong)) for one in option.scored]
    return {one.scored.candidate.name: max(0.0, _together((one,), option.route, risk).saved) for one in known}


@dataclass(frozen=True)
class _Known:
    """A candidate, and what it would do alone."""

    scored: ScoredCandidate
    leaving: Leaving


@dataclass(frozen=True)
class _Plan:
    """A subset of exits with one family of thresholds."""

    exits: tuple[_Known, ...]
    family: ThresholdFamily
    saved: float
    """Time saved at the family's target; minus infinity where it has none."""

    @classmethod
    def of(cls, exits: tuple[_Known, ...], family: ThresholdFamily, risk: float) -> Self:
        """At an estimated risk of at most ``risk``."""
        return cls(exits, family, family.time_saved(family.target(risk)))


def _together(exits: tuple[_Known, ...], route: Route, risk: float) -> _Plan:
    family = with_one_doubt([one.leaving for one in exits], _spending(exits, route))
    return _Plan.of(exits, family, risk)


def _apart(exits: tuple[_Known, ...], route: Route, risk: float) -> _Plan:
    family = with_own_doubts([one.leaving for one in exits], _spending(exits, route), risk)
    return _Plan.of(exits, family, risk)


def _spending(exits: Sequence[_Known], route: Route) -> Spending:
    """Time by where frames leave."""
    return partial(route.time, [one.scored.candidate for one in exits])


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(1, keepdims=True))
    result: Floats = raised / raised.sum(1, keepdims=True)
    return result


def _cross_entropy(logits: Floats, labels: npt.NDArray[np.int64]) -> float:
    shifted = logits - logits.max(1, keepdims=True)
    return float((np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]).mean())
