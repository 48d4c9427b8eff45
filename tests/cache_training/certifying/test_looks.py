"""However often an attempt looks, a risk above its budget passes no more often than its level says."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from layercache.cache_training.certifying.binomial import allowed, enough_frames, p_value, upper_bound
from layercache.cache_training.certifying.certificate import certify
from layercache.cache_training.certifying.looks import LookPlan, Looks
from layercache.cache_training.certifying.samples import Sample

#: Samples that grow, and what is spent by each look; budgets and levels.
growing = st.lists(st.integers(0, 120), min_size=1, max_size=4).map(lambda more: np.cumsum([40, *more]).tolist())
budgets, levels = st.floats(0.005, 0.2), st.floats(0.001, 0.2)


def looks_at(ends: list[int]) -> Looks:
    return Looks(tuple(ends), tuple(end / ends[-1] for end in ends))


def passing(looks: Looks, most: tuple[int, ...], risk: float) -> list[float]:
    """By look, the chance that a setting of this risk has passed by then; by a table of all histories."""
    chances, before, passed = {0: 1.0}, 0, [0.0]
    for end, limit in zip(looks.ends, most, strict=True):
        more = stats.binom.pmf(np.arange(end - before + 1), end - before, risk)
        following: dict[int, float] = {}
        for had, chance in chances.items():
            for count, step in enumerate(more):
                if chance * step > 1e-15:
                    following[had + count] = following.get(had + count, 0.0) + chance * step
        passed.append(passed[-1] + sum(chance for had, chance in following.items() if had <= limit))
        chances, before = {had: chance for had, chance in following.items() if had > limit}, end
    return passed[1:]


@given(growing, budgets, levels)
def test_by_each_look_no_more_has_passed_than_may_be_spent_by_then(
    ends: list[int], budget: float, level: float
) -> None:
    looks = looks_at(ends)
    most = looks.boundary(budget, level)
    passed = passing(looks, most, budget)
    assert all(got <= level * spent + 1e-9 for got, spent in zip(passed, looks.spent, strict=True))
    # It is as much as may be: one more at the last look would be too much.
    assert passing(looks, (*most[:-1], most[-1] + 1), budget)[-1] > level - 1e-9
    assert all(less <= more + 1e-12 for more, less in zip(passed, passing(looks, most, 1.3 * budget), strict=True))


def test_looks_that_each_had_the_whole_level_would_pass_too_much() -> None:
    looks = looks_at([432, 504, 576, 648, 720])
    each = tuple(allowed(end, 0.01, 0.025) for end in looks.ends)
    assert passing(looks, each, 0.01)[-1] > 1.3 * 0.025
    assert passing(looks, looks.boundary(0.01, 0.025), 0.01)[-1] <= 0.025


@given(growing, budgets, levels, st.integers(0, 30))
def test_whoever_passes_has_a_p_value_within_the_level_and_a_bound_within_the_budget(
    ends: list[int], budget: float, level: float, disagreements: int
) -> None:
    looks = looks_at(ends)
    if disagreements > ends[-1]:
        return
    p, bound = looks.p_value(disagreements, budget, level), looks.upper_bound(disagreements, budget, level)
    earlier = looks.boundary(budget, level)[:-1]
    assert p == pytest.approx(passing(looks, (*earlier, disagreements), budget)[-1], abs=1e-9)
    if disagreements <= looks.allowed(budget, level):
        assert p <= level + 1e-9
        assert disagreements / ends[-1] <= bound <= budget + 1e-9
    else:
        assert p > level - 1e-9
        assert bound >= budget - 1e-9


@given(st.integers(1, 3000), st.integers(0, 40), budgets, levels)
def test_one_look_is_the_exact_test_and_its_bound(frames: int, disagreements: int, budget: float, level: float) -> None:
    once = Looks.once(frames)
    assert once.boundary(budget, level) == (allowed(frames, budget, level),)
    assert once.p_value(disagreements, budget, level) == p_value(disagreements, frames, budget)
    assert once.upper_bound(disagreements, budget, level) == upper_bound(disagreements, frames, level)


@given(budgets, levels, st.sampled_from([0.2, 0.5]))
def test_a_plan_looks_first_where_flawless_heads_pass_and_last_where_a_single_look_would_be(
    budget: float, level: float, tolerance: float
) -> None:
    frames = enough_frames(tolerance * budget, budget, level)
    plan = LookPlan.of(frames, budget, level)
    assert plan.longest == frames
    assert plan.first >= 0.6 * frames
    assert all(low < high for low, high in pairwise(plan.sizes))
    assert Looks((plan.first,), (plan.spent(plan.first),)).allowed(budget, level) >= 0
    assert plan.spent(plan.longest) == 1.0
    assert [plan.after(size) for size in plan.sizes[:-1]] == list(plan.sizes[1:])


def test_a_group_of_frames_knows_how_many_it_had_at_each_look() -> None:
    kept = np.array([True, False, True, True, False, True])
    looks = Looks((2, 6), (0.5, 1.0)).of(kept)
    assert looks == Looks((1, 4), (0.5, 1.0))
    assert Looks((2,), (0.5,)).then(Looks((4,), (1.0,))) == Looks((2, 6), (0.5, 1.0))


def test_settings_are_tested_by_all_looks_so_far_and_blocks_by_bets() -> None:
    first, second = (np.zeros((2, frames), np.bool_) for frames in (432, 288))
    second[1, :2] = True
    one, more = (Sample(looks=Looks((wrong.shape[1],), (spent,))) for wrong, spent in ((first, 0.6), (second, 1.0)))
    both = np.concatenate((first, second), 1)
    verdict = certify(both, 0.01, 0.025, samples=(one.then(more), one.then(more)))
    assert verdict is not None
    # A single look at 720 would let two disagree; six tenths of the level were there for the first look.
    assert (verdict.index, allowed(720, 0.01, 0.025), one.then(more).looks) == (0, 2, Looks((432, 720), (0.6, 1.0)))
    assert verdict.upper_bound < 0.01
    pairs = [
        Sample(np.arange(wrong.shape[1]) // 2, 2, looks=part.looks) for wrong, part in ((first, one), (second, more))
    ]
    joined = pairs[0].then(pairs[1])
    assert joined.block is not None
    assert (np.diff(joined.block) <= 1).all()
    assert joined.block.max() + 1 == 360
    logs = [np.log(sample.p_values(wrong[:1], 0.01)[0]) for sample, wrong in zip(pairs, (first, second), strict=True)]
    assert np.log(joined.p_values(both[:1], 0.01)[0]) == pytest.approx(sum(logs), rel=0.2)
