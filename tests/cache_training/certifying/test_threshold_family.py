"""Each exit has thresholds of its own, and together they go one way: from the safest setting to the boldest."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layercache.cache_training.certifying import threshold_family
from layercache.cache_training.certifying.threshold_family import (
    CLOSED,
    DOUBTS,
    LONGEST,
    Leaving,
    Spending,
    with_one_doubt,
    with_own_doubts,
)
from layercache.early_exit.policy import cascade


def spending(*costs: float) -> Spending:
    """Of leaving at each exit and, last, nowhere."""
    return lambda left: left @ np.array(costs)


def simulated(
    random: np.random.Generator, frames: int, powers: Sequence[float], lies: Sequence[float] | None = None
) -> tuple[np.ndarray, list[Leaving]]:
    """Scores ``[frames, exits]`` of exits that doubt difficult frames; ``lies`` times as often they err."""
    difficulty = random.random(frames)
    doubts = [np.clip(0.9 * difficulty**power * random.lognormal(0, 0.5, frames), 0, 1) for power in powers]
    exits = [
        ((1 - doubt).astype(np.float32), random.random(frames) < lie * doubt)
        for doubt, lie in zip(doubts, lies or [1.0] * len(powers), strict=True)
    ]
    return np.stack([scores for scores, _ in exits], 1), [Leaving.of(*exit_) for exit_ in exits]


def better_last_exit(frames: int = 1000) -> tuple[np.ndarray, list[Leaving]]:
    """An early head that is often in doubt, and as often wrong; a last exit that hardly ever is."""
    return simulated(np.random.default_rng(4), frames, (1.5, 40.0))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32), st.integers(1, 300), st.lists(st.floats(0.3, 12), min_size=1, max_size=4),
    st.floats(1, 2), st.floats(1e-4, 0.2),
)  # fmt: skip
def test_bolder_settings_open_every_exit_as_wide_or_wider_save_more_and_risk_more(
    seed: int, frames: int, powers: list[float], nowhere: float, risk: float
) -> None:
    random = np.random.default_rng(seed)
    scores, exits = simulated(random, frames, powers)
    costs = (*np.sort(random.uniform(0.05, 0.9, len(exits))).tolist(), nowhere)
    family = with_own_doubts(exits, spending(*costs), risk)
    assert family.thresholds.dtype == np.float32
    assert len(family.thresholds) == len(family.risks) == len(family.times) <= LONGEST
    assert (np.diff(family.thresholds, axis=0) <= 0).all()
    assert (np.diff(family.times) <= 1e-9).all()
    assert (np.diff(family.risks) >= -1e-9).all()
    for setting, (thresholds, tuned) in enumerate(zip(family.thresholds, family.risks, strict=True)):
        at = cascade(scores, thresholds)
        assert tuned == pytest.approx(sum(one.risk[at == i].sum() for i, one in enumerate(exits)) / (frames + 200))
        left = np.bincount(np.where(at < 0, len(exits), at), minlength=len(exits) + 1) / frames
        assert family.times[setting] == pytest.approx(float(left @ np.array(costs)))
    target = family.target(risk)
    assert target == -1 or family.risks[target] <= risk


@pytest.mark.parametrize("frames", [118, 1000])
def test_a_single_exit_gets_what_one_doubt_gives(frames: int) -> None:
    _, exits = simulated(np.random.default_rng(frames), frames, (3.0,))
    own, one = with_own_doubts(exits, spending(0.3, 1.0), 0.01), with_one_doubt(exits, spending(0.3, 1.0))
    # Beyond the boldest doubt of any frame nothing is saved, and the exit does not open wider.
    assert 50 < len(own.thresholds) <= LONGEST == len(one.thresholds)
    assert own.thresholds.tolist() == one.thresholds[: len(own.thresholds)].tolist()
    assert own.target(0.01) == one.target(0.01) > 0
    assert own.times == pytest.approx(one.times[: len(own.times)])
    assert one.times[len(own.times) :] == pytest.approx(own.times[-1])


def test_before_a_much_better_last_exit_a_head_opens_late() -> None:
    """What no exit is sure of costs the model besides, as where the last exit is the model in int8."""
    scores, exits = better_last_exit()
    costs = spending(0.1, 0.25, 1.25)
    own, one = with_own_doubts(exits, costs, 0.005), with_one_doubt(exits, costs)
    head, last = own.thresholds[own.target(0.005)].tolist()
    assert 0.8 < last < 0.9 < head < 1
    assert own.thresholds[0].tolist() == [CLOSED, np.float32(1 - DOUBTS[0])]
    to_the_model = [
        float((cascade(scores, family.thresholds[family.target(0.005)]) < 0).mean()) for family in (own, one)
    ]
    assert 0.03 < to_the_model[0] < 0.6 * to_the_model[1]
    assert own.time_saved(own.target(0.005)) > one.time_saved(one.target(0.005)) + 0.02


def test_an_exit_that_is_never_sure_stays_closed() -> None:
    _, (sure,) = simulated(np.random.default_rng(1), 300, (3.0,))
    unsure = Leaving.of(np.full(300, 0.5, np.float32), np.zeros(300, np.bool_))
    family = with_own_doubts([unsure, sure], spending(0.1, 0.3, 1.0), 0.01)
    assert (family.thresholds[:, 0] == CLOSED).all()
    assert (family.thresholds[:, 1] < CLOSED).all()
    nothing = with_own_doubts([unsure], spending(0.1, 1.0), 0.01)
    assert nothing.thresholds.shape == (0, 1)
    assert nothing.target(0.01) == -1
    assert nothing.time_saved(-1) == -np.inf


def test_an_exit_that_answers_better_than_a_later_one_lowers_the_risk() -> None:
    """Settings at which only the later one is open are not needed: a bolder one has less risk."""
    scores = np.full(200, 0.999, np.float32)
    right, wrong = Leaving.of(scores, np.zeros(200, np.bool_)), Leaving.of(scores, np.arange(200) < 20)
    family = with_own_doubts([right, wrong], spending(0.9, 0.95, 2.0), 0.01)
    assert (family.risks < 0.01).all()
    assert (family.thresholds[:, 0] < 1).all()


def run(
    scores: np.ndarray, exits: Sequence[Leaving], settings: Iterable[np.ndarray], costs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of every setting: the share of wrong answers, where each exit's ``risk`` is that, and the time."""
    found = []
    for thresholds in settings:
        at = cascade(scores, thresholds)
        left = np.bincount(np.where(at < 0, len(exits), at), minlength=len(exits) + 1) / len(scores)
        found.append((sum(one.risk[at == i].sum() for i, one in enumerate(exits)) / len(scores), left @ costs))
    risks, times = np.array(found).T
    return risks, times


@pytest.mark.parametrize("nowhere", [1.0, 1.6])
@pytest.mark.parametrize("frames", [118, 1000])
def test_on_frames_to_come_hardly_any_setting_is_better_than_the_familys(frames: int, nowhere: float) -> None:
    """At the same risk, of all pairs of thresholds, where the early head errs more often than it says; with one doubt
    more are."""
    costs = np.array([0.2, 0.6, nowhere])
    thresholds = np.append(CLOSED, 1 - DOUBTS[::4]).astype(np.float32)
    worse = []
    for seed in range(4):
        _, tuning = simulated(np.random.default_rng(seed), frames, (1.5, 12.0), (2.0, 0.3))
        scores, exits = simulated(np.random.default_rng(seed + 1000), 4000, (1.5, 12.0), (2.0, 0.3))
        come = [replace(one, risk=(one.risk > 0.99).astype(np.float64)) for one in exits]  # wrong answers alone
        every = run(scores, come, (np.array(pair) for pair in product(thresholds, repeat=2)), costs)
        families = [with_own_doubts(tuning, spending(*costs), 0.01), with_one_doubt(tuning, spending(*costs))]
        for risk in (0.005, 0.01, 0.02):
            best = every[1][every[0] <= risk].min()
            found = [run(scores, come, family.thresholds, costs) for family in families]
            worse.append([times[risks <= risk].min() - best for risks, times in found])
    own, one = np.mean(worse, 0)
    assert own < 0.02
    assert own < 0.6 * one


def test_of_many_settings_those_go_that_are_close_to_others_and_never_the_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, exits = simulated(np.random.default_rng(0), 3000, (1.5, 2.0, 3.0, 4.0))
    costs, planned = spending(0.2, 0.4, 0.6, 0.8, 1.0), np.geomspace(0.001, 0.05, 20)
    families = [with_own_doubts(exits, costs, risk) for risk in planned]
    assert {len(family.risks) for family in families} == {LONGEST}
    # From one setting to the next there are some wrong answers more, or a third.
    for family in families:
        assert (np.diff(family.risks) < np.maximum(0.35 * family.risks[:-1], 4 / 3000)).all()
    monkeypatch.setattr(threshold_family, "LONGEST", 1000)
    every = with_own_doubts(exits, costs, 0.01)
    assert len(every.risks) > 3 * LONGEST
    for family, risk in zip(families, planned, strict=True):
        assert family.risks[family.target(risk)] == every.risks[every.target(risk)]
