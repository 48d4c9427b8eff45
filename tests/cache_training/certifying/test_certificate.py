"""The certificate opens what it may and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from layercache.cache_training.certifying.binomial import allowed, p_value, upper_bound
from layercache.cache_training.certifying.certificate import (
    ClassCap,
    Errors,
    attempt_error,
    certify,
    certify_bolder,
    verdict_of,
)

budgets = st.floats(0.001, 0.3)
errors = st.floats(1e-5, 0.2)


def test_the_errors_of_all_attempts_sum_to_what_the_user_allows() -> None:
    first_thousand = sum(attempt_error(k, 0.95) for k in range(1, 1001))
    assert first_thousand == pytest.approx(0.05 * (1 - 1 / 1001))
    assert attempt_error(1, 0.95) == pytest.approx(0.025)


@given(st.integers(0, 3000), budgets, errors)
def test_allowed_is_the_most_that_still_passes(frames: int, budget: float, error: float) -> None:
    most = allowed(frames, budget, error)
    assert most == -1 or p_value(most, frames, budget) <= error
    assert p_value(most + 1, frames, budget) > error


@given(st.integers(1, 2000), st.data(), errors)
def test_the_upper_bound_and_the_test_agree(frames: int, data: st.DataObject, error: float) -> None:
    disagreements = data.draw(st.integers(0, frames - 1))
    bound = upper_bound(disagreements, frames, error)
    assert p_value(disagreements, frames, bound) == pytest.approx(error, rel=1e-6)


def test_with_fewer_frames_than_the_bound_needs_nothing_opens() -> None:
    flawless = np.zeros((3, 298), np.bool_)
    assert certify(flawless, budget=0.01, error=0.05) is None
    assert certify(np.zeros((3, 0), np.bool_), budget=0.01, error=0.05) is None


def test_the_boldest_setting_before_the_first_failure_wins() -> None:
    wrong = np.zeros((4, 1000), np.bool_)
    wrong[1, :3] = True
    wrong[2, :50] = True  # fails, so the flawless one after it must not be reached
    verdict = certify(wrong, budget=0.01, error=0.05)
    assert verdict is not None
    assert (verdict.index, verdict.disagreements, verdict.frames) == (1, 3, 1000)
    assert verdict.upper_bound < 0.01


def test_settings_may_have_levels_of_their_own() -> None:
    wrong = np.zeros((4, 1000), np.bool_)
    wrong[1:, :3] = True  # passes at 0.0103 and above
    levels = np.array([0.02, 0.02, 0.01, 0.01])
    verdict = certify(wrong, budget=0.01, error=levels)
    assert verdict == verdict_of(1, wrong[1], 0.01, 0.02)
    classes = ClassCap(0.01, np.zeros(1000, np.int64), 1)
    assert classes.passes(wrong, levels).tolist() == [True, True, False, False]
    assert classes.passes(wrong, 0.02).all()
    # The larger budget's levels are those of its settings, wherever its test begins.
    bolder = certify_bolder(wrong, verdict, 0.03, np.array([0.0, 0.0, 0.02, 1e-12]))
    assert bolder == verdict_of(2, wrong[2], 0.03, 0.02)


def test_what_passes_on_new_pictures_must_pass_on_all_of_them_together() -> None:
    """What has not been learnt meanwhile may be the easier part of the stream."""
    new, whole = np.zeros((3, 1000), np.bool_), np.zeros((3, 1500), np.bool_)
    whole[1, 1000:1003], whole[2, 1000:1020] = True, True
    verdict = certify(new, 0.01, 0.05, whole=whole)
    assert verdict is not None
    assert (verdict.index, verdict.frames, verdict.disagreements) == (1, 1000, 0)
    bolder = certify_bolder(new, verdict, 0.03, 0.05, whole=whole)
    assert bolder is not None
    assert bolder.index == 2
    assert certify_bolder(new, verdict, 0.011, 0.05, whole=whole) is None
    many = np.zeros((1, 1000), np.bool_)
    many[0, :20] = True
    assert certify(many, 0.01, 0.05, whole=np.pad(many, ((0, 0), (0, 9000)))) is None, "easy repeated ones help nobody"


def broken_share(budget: float, error: float, frames: int, tries: int, empirical_mean: bool = False) -> float:
    """How often a risk just over the budget passes: by the test, or by the mutant that trusts the mean."""
    random = np.random.default_rng(7)
    wrong = random.random((tries, frames)) < budget * 1.0001
    if empirical_mean:
        return float((wrong.mean(1) <= budget).mean())
    return float(np.mean([certify(row[None], budget, error) is not None for row in wrong]))


def test_a_risk_over_the_budget_passes_no_more_often_than_the_error() -> None:
    tries, error = 2000, 0.05
    passed = broken_share(0.01, error, 1000, tries)
    assert passed <= (binom.ppf(0.999, tries, error)) / tries


def test_the_same_check_catches_a_mutant_that_trusts_the_mean() -> None:
    tries, error = 2000, 0.05
    assert broken_share(0.01, error, 1000, tries, empirical_mean=True) > binom.ppf(0.999, tries, error) / tries


@given(st.floats(1e-6, 0.5), st.booleans())
def test_two_budgets_have_no_more_error_than_one(error: float, two_budgets: bool) -> None:
    errors = Errors.of(error, two_budgets)
    assert errors.normal + errors.overload == pytest.approx(error, rel=1e-12)
    assert errors.normal > errors.overload >= 0
    assert (errors.overload > 0) == two_budgets


@given(st.integers(0, 2**32), st.integers(1, 3000), st.integers(1, 12), st.data())
def test_the_larger_budget_goes_on_where_the_smaller_stopped(
    seed: int, frames: int, settings: int, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    wrong = random.random((settings, frames)) < np.sort(random.uniform(0, 0.1, settings))[:, None]
    stopped = data.draw(st.integers(0, settings - 1))
    verdict = certify_bolder(wrong, verdict_of(stopped, wrong[stopped], 0.01, 0.02), 0.03, 0.005)
    passes = [p_value(int(row.sum()), frames, 0.03) <= 0.005 for row in wrong[stopped + 1 :]]
    bolder = next((n for n, passed in enumerate(passes) if not passed), len(passes))
    if bolder == 0:
        assert verdict is None
    else:
        assert verdict == verdict_of(stopped + bolder, wrong[stopped + bolder], 0.03, 0.005)


def broken_by_either(errors: Errors, tries: int) -> int:
    """Attempts of which one budget or the other was broken: settings are safe, over 5 %, within 10 % and over 10 %."""
    random = np.random.default_rng(7)
    risks = np.array([0.015, 0.0501, 0.075, 0.1001])
    broken = 0
    for _ in range(tries):
        wrong = random.random(3000) < risks[:, None]
        normal = certify(wrong, 0.05, errors.normal)
        bolder = certify_bolder(wrong, normal, 0.1, errors.overload) if normal else None
        broken += (normal is not None and normal.index > 0) or (bolder is not None and bolder.index > 2)
    return broken


def test_with_shared_error_no_more_attempts_break_either_budget_than_may() -> None:
    tries, error = 2000, 0.2
    broken = broken_by_either(Errors(normal=0.9 * error, overload=0.1 * error), tries)
    assert 0.15 * tries < broken <= binom.ppf(0.999, tries, error)  # nor are the tests merely timid


def test_the_same_check_catches_two_budgets_that_each_take_all_of_it() -> None:
    tries, error = 2000, 0.2
    assert broken_by_either(Errors(normal=error, overload=error), tries) > binom.ppf(0.999, tries, error)
