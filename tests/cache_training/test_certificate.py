"""The certificate opens what it may and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from cache_training.certificate import allowed, attempt_error, certify, p_value, upper_bound

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
