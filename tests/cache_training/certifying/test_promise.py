"""The promise for life as a simulation: the trainer's own classes, many streams, many attempts in each.

``python -m benchmarks.promise`` is the long version of this, and says more.
"""

from dataclasses import replace
from functools import cache

import pytest

from benchmarks.promise import scenarios as promise
from benchmarks.promise.runs import Result, Scenario, live, simulate
from benchmarks.promise.simulated_heads import Flat
from layercache.cache_training.certifying.binomial import enough_frames, fewest_allowing
from layercache.cache_training.certifying.certificate import attempt_error

#: Processor time, not time to wait: on a busy machine a minute of simulation takes many.
pytestmark = pytest.mark.timeout(1200)

#: How many streams of each scenario, about 700 in all, and how many attempts in each: fewer than in the long version.
#: `make slow` simulates a part of them, `make exhaustive` the others; few show a mutant, which breaks many lives.
STREAMS = [
    (promise.WORST, 100, 10),
    (promise.SMALL_WINDOW, 150, 8),
    (promise.LOOKS, 30, 4),
    (promise.USUAL_BUDGET, 30, 8),
    (promise.CLIFF, 30, 8),
    (promise.ERRATIC, 20, 5),
    (promise.HOPELESS, 20, 6),
    (promise.IMPROVING, 20, 5),
    (promise.ONE_CLASS, 60, 6),
    (promise.COPIES, 60, 5),
    (promise.MEMORISING, 20, 5),
    (promise.LOOP, 20, 5),
    (promise.cameras(100), 20, 5),
    (promise.FEW_BURSTS, 20, 5),
    (promise.RARE_BURSTS, 20, 5),
    (promise.BUSY_HOURS, 20, 5),
    (promise.VIDEOS, 10, 4),
    (promise.TWO_BUDGETS, 40, 6),
    (promise.TARGETS_MET, 60, 10),
    (promise.TARGETS_MISSED, 50, 8),
    (promise.BOLDER, 60, 6),
    (promise.LOST_OUTCOMES, 40, 8),
    (promise.TWO_TRAINERS, 20, 8),
    (promise.INT8, 20, 4),
    (promise.INT8_OVER, 60, 6),
]
Part = tuple[float, float]
PARTS = [
    pytest.param((0.0, 0.3), id="a part of the streams", marks=pytest.mark.slow),
    pytest.param((0.3, 1.0), id="the others", marks=[pytest.mark.slow, pytest.mark.exhaustive]),
]
#: Of each mutant about one and a half times the streams that show it.
MUTANTS = [
    (promise.WORST, "empirical mean", 12),
    (promise.CLIFF, "empirical mean", 12),
    (promise.WORST, "error not shared", 12),
    (promise.CLIFF, "error not shared", 24),
    (promise.COPIES, "copies counted singly", 40),
    (promise.MEMORISING, "dealt by frame", 150),
    (promise.LOOP, "dealt by position", 20),
    (promise.cameras(100), "scenes outlast blocks unseen", 60),
    (promise.FEW_BURSTS, "the first audit stands for its block", 12),
    (promise.FEW_BURSTS, "weights dropped", 12),
    (promise.RARE_BURSTS, "test chosen after seeing weights", 24),
    (promise.BUSY_HOURS, "rates not made equal", 12),
    (promise.ONE_CLASS, "classes not tested", 12),
    (promise.TWO_BUDGETS, "overload by the mean", 12),
    (promise.TWO_BUDGETS, "overload's error not shared", 36),
    (promise.TARGETS_MISSED, "passed on after a failure", 20),
    (promise.TARGETS_MISSED, "target chosen after looking", 20),
    (promise.TARGETS_MET, "passed on twice", 20),
    (promise.BOLDER, "bolder at the full level", 200),
    (promise.LOST_OUTCOMES, "passed on by unfinished attempts", 150),
]


def described(result: Result) -> str:
    low, high = result.interval()
    return f"{result.broken} of {result.streams} streams broke ({low:.1%} to {high:.1%}), {result.allowed:.0%} may"


@cache
def result_of(name: str, part: Part) -> Result:
    """A part of one scenario's streams, from one share of them to another; simulated once, for whoever asks."""
    scenario, streams, attempts = next(each for each in STREAMS if each[0].name == name)
    return simulate(replace(scenario, attempts=attempts), range(round(part[0] * streams), round(part[1] * streams)))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", [scenario.name for scenario, *_ in STREAMS])
def test_no_more_streams_break_than_promised(name: str, part: Part) -> None:
    assert result_of(name, part).kept, described(result_of(name, part))


@pytest.mark.slow  # unit tests catch each of these mistakes in no time
@pytest.mark.parametrize(("scenario", "mutant", "streams"), MUTANTS, ids=lambda part: getattr(part, "name", str(part)))
def test_the_same_check_fails_for_a_mutant(scenario: Scenario, mutant: str, streams: int) -> None:
    result = simulate(scenario, range(streams), mutant)
    assert not result.kept, described(result)


@pytest.mark.parametrize("part", PARTS)
def test_the_simulation_is_not_vacuous(part: Part) -> None:
    assert sum(streams for _, streams, _ in STREAMS) >= 500
    worst, cliff, hopeless, improving, int8 = (
        result_of(scenario.name, part)
        for scenario in (promise.WORST, promise.CLIFF, promise.HOPELESS, promise.IMPROVING, promise.INT8)
    )
    # Many attempts in each, and at the very edge of the budget some get through: the tests are not merely timid.
    assert worst.attempts > 7
    assert worst.broken / worst.streams > 0.03
    # Good heads are let through every time, again and again, and to good effect.
    assert improving.published == improving.streams
    assert improving.versions > 3
    assert improving.time_saved > 0.4
    # The model in int8 opens in every stream, and heads on its path follow: it alone saves less.
    assert int8.published == int8.streams
    assert int8.versions > 1
    assert int8.time_saved > 0.75
    assert cliff.published == cliff.streams
    assert hopeless.published == 0


def test_with_fewer_audits_than_the_bound_needs_nothing_is_attempted() -> None:
    """Flawless heads, one frame at a time: they open at the first look, six tenths on the way to the last one."""
    scenario = replace(promise.IMPROVING, heads=lambda: Flat(0.0, honest=True), attempts=1, frames_at_once=1)
    error = attempt_error(1, 0.95)
    assert enough_frames(0.2 * 0.01, 0.01, error) == 720
    assert fewest_allowing(0, 0.01, 0.6 * error) < 432
    life = live(scenario, seed=3)
    assert life.published == 1
    assert life.tested == 432
