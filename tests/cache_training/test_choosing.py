"""Exits are chosen by the measured time that they save, and thresholds by the risk that they may take."""

import numpy as np
import pytest

from cache_training.candidates import Candidate, Costs
from cache_training.choosing import calibrated, choose, shares
from schemas.manifest import HeadSpec


def candidate(name: str, cut: str, time: float) -> Candidate:
    return Candidate(name, cut, HeadSpec(family="pooled", features=(4,), classes=2), Costs(time, time), seed=0)


def logits(labels: np.ndarray, wrong: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """Two classes; right or wrong, sure or in doubt."""
    answered = np.where(wrong, 1 - labels, labels)
    raised = np.where(sure, 8.0, 0.5)
    return np.where(np.arange(2) == answered[:, None], raised[:, None], 0.0)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, 1000)


REACH = {"early": Costs(0.2, 0.2), "late": Costs(0.6, 0.6)}


def test_shares_charge_every_head_passed() -> None:
    exits = np.array([0, 1, -1, -1], np.int32)
    assert shares(exits, [0.2, 0.6], [0.01, 0.02]) == pytest.approx((0.21 + 0.63 + 1.03 + 1.03) / 4)
    assert shares(np.array([-1], np.int32), [], []) == 1.0


def test_the_head_that_saves_most_net_of_its_own_cost_wins(labels: np.ndarray) -> None:
    never = np.zeros(1000, np.bool_)
    half, most = np.arange(1000) % 2 == 0, np.arange(1000) % 100 < 60
    cheap = calibrated(candidate("cheap", "early", 0.01), logits(labels, never, half), labels)
    dear = calibrated(candidate("dear", "early", 0.2), logits(labels, never, most), labels)
    choice = choose([cheap, dear], REACH, risk=0.005)
    assert choice is not None
    assert [one.candidate.name for one in choice.exits] == ["cheap"]
    assert choice.time_saved > 0.35


def test_an_exit_that_does_not_pay_for_its_head_stays_closed(labels: np.ndarray) -> None:
    few = np.arange(1000) < 20
    useless = calibrated(candidate("useless", "late", 0.05), logits(labels, np.zeros(1000, np.bool_), few), labels)
    risky = calibrated(candidate("risky", "early", 0.0), logits(labels, np.arange(1000) % 3 == 0, few | True), labels)
    assert choose([useless, risky], REACH, risk=0.002) is None


def test_two_exits_are_better_than_one_where_each_knows_other_frames(labels: np.ndarray) -> None:
    never = np.zeros(1000, np.bool_)
    easy, medium = np.arange(1000) < 400, np.arange(1000) < 800
    early = calibrated(candidate("e", "early", 0.01), logits(labels, never, easy), labels)
    late = calibrated(candidate("l", "late", 0.01), logits(labels, never, medium), labels)
    choice = choose([early, late], REACH, risk=0.005)
    assert choice is not None
    assert [one.candidate.cut for one in choice.exits] == ["early", "late"]
    assert choice.time_saved == pytest.approx(0.4 * 0.79 + 0.4 * 0.38 - 0.2 * 0.02)


def test_temperature_makes_overconfident_scores_honest() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 4000)
    wrong = random.random(4000) < 0.2
    scored = calibrated(candidate("c", "early", 0.0), logits(labels, wrong, np.ones(4000, np.bool_)), labels)
    assert scored.temperature > 2
    assert scored.scores.mean() == pytest.approx(0.8, abs=0.08)
