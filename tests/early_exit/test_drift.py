"""The drift test keeps its level at any stopping time, and notices a change also after a long quiet past."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from benchmarks.drift import Detector, OneStart, Shift, alarm_at, count_alarms, measure_delays
from layercache.early_exit.drift import DriftDetector


class RunningMean(DriftDetector):
    """A mutant: alarms as soon as the mean of some audits is over the budget."""

    def update(self, disagreed: bool) -> bool:
        super().update(disagreed)
        self.alarmed |= self.audits >= 100 and self.disagreements > self.budget * self.audits
        return self.alarmed


def check_false_alarms(
    detector: Detector, budget: float, level: float, audits: int = 20_000, streams: int = 2000
) -> None:
    """Over streams whose risk is exactly the budget, at any time."""
    alarms = count_alarms(detector, budget, level, audits, streams, seed=1)
    assert binomtest(alarms, streams, level, alternative="greater").pvalue > 0.001, f"{alarms} of {streams} alarm"


@pytest.mark.parametrize(
    ("budget", "level", "audits"),
    [(0.005, 0.05, 20_000), (0.01, 0.05, 20_000), (0.01, 0.2, 20_000), (0.05, 0.05, 8_000)],
)
def test_false_alarms_stay_within_the_level_however_long_one_looks(budget: float, level: float, audits: int) -> None:
    check_false_alarms(DriftDetector, budget, level, audits)


def test_an_alarm_on_the_running_mean_would_not_pass() -> None:
    with pytest.raises(AssertionError, match="alarm"):
        check_false_alarms(RunningMean, 0.01, 0.05, streams=200)


@pytest.mark.parametrize("budget", [0.01, 0.1, 0.3, 0.7])
def test_the_evidence_is_a_martingale_at_the_budget(budget: float) -> None:
    n, expectation, alarming = 12, 0.0, 0.0
    for outcome in itertools.product((False, True), repeat=n):
        detector = DriftDetector(budget, level=0.3)
        for disagreed in outcome:
            detector.update(disagreed)
        chance = budget ** sum(outcome) * (1 - budget) ** (n - sum(outcome))
        expectation += chance * detector.evidence
        alarming += chance * detector.alarmed
    assert expectation == pytest.approx(1, abs=1e-9)
    assert 0 < alarming <= 0.3


def nats(risk: float, budget: float) -> float:
    """What an audit of that risk tells against the budget (Kullback, Leibler 1951)."""
    return risk * math.log(risk / budget) + (1 - risk) * math.log((1 - risk) / (1 - budget))


def check_delays(detector: Detector, budget: float, factor: float) -> None:
    """A tenfold past may cost twice the ln 10 nats that its logarithm is worth, and a shift is always noticed."""
    medians = []
    for past in (0, 5_000, 50_000, 500_000):
        found = measure_delays(detector, budget, 0.05, Shift("abrupt", factor, past), count=40, seed=2)
        assert found.missed == 0, f"{found.missed} shifts to {factor} times the budget were missed after {past:,}"
        medians.append(found.quantile(0.5))
    allowed = 2 * math.log(10) / nats(factor * budget, budget)
    assert all(later - sooner < allowed + 2 for sooner, later in itertools.pairwise(medians[1:])), medians
    assert medians[0] < (math.log(20) + math.log(20)) / nats(factor * budget, budget) + 2


@pytest.mark.parametrize("factor", [2, 5, 20])
def test_the_delay_grows_with_the_logarithm_of_a_quiet_past(factor: float) -> None:
    check_delays(DriftDetector, 0.01, factor)


def test_a_test_that_bets_at_the_start_alone_would_not_pass() -> None:
    with pytest.raises(AssertionError, match="were missed after"):
        check_delays(OneStart, 0.01, 5)


@pytest.mark.parametrize("past", [0, 50_000])
def test_a_gradual_shift_is_noticed_before_it_is_at_four_times_the_budget(past: int) -> None:
    shift = Shift("gradual", 5, past)
    found = measure_delays(DriftDetector, 0.01, 0.05, shift, count=60, seed=3)
    assert (found.early, found.missed) == (0, 0)
    risks, first = shift.risks(0.01)
    assert risks[first + int(found.quantile(0.9))] < 0.04


def alarming() -> DriftDetector:
    detector = DriftDetector(0.01, 0.01)
    assert alarm_at(detector, np.arange(100) >= 90) is not None
    return detector


def test_it_goes_on_where_another_process_stopped() -> None:
    one, other = DriftDetector(0.01, 0.01), DriftDetector(0.01, 0.01)
    for index in range(100):
        one.update(index % 40 == 0)
    other.restore(json.loads(json.dumps(one.state())))
    assert (other.evidence, other.audits, other.disagreements, other.alarmed) == (one.evidence, 100, 3, False)


def test_an_alarm_survives_a_restart_without_another_audit() -> None:
    restarted = DriftDetector(0.01, 0.01)
    restarted.restore(json.loads(json.dumps(alarming().state())))
    assert restarted.alarmed
    assert restarted.agree(1000)


def test_an_alarm_stays_however_quiet_the_stream_becomes() -> None:
    detector = alarming()
    detector.agree(5_000)
    assert detector.evidence < 1 < 1 / detector.level
    restarted = DriftDetector(0.01, 0.01)
    restarted.restore(json.loads(json.dumps(detector.state())))
    assert restarted.alarmed
    assert detector.update(True)
    assert restarted.update(False)


def test_the_state_of_another_test_is_refused() -> None:
    state = alarming().state()
    with pytest.raises(ValueError, match="another budget"):
        DriftDetector(0.02, 0.01).restore(state)
    with pytest.raises(ValueError, match="earlier kind of test"):  # what was saved before bets came
        DriftDetector(0.01, 0.01).restore({"audits": 100, "disagreements": 3, "wealth": [0.0] * 7})


@pytest.mark.parametrize(("budget", "level"), [(0, 0.1), (0.1, 0), (1, 0.1), (0.1, 1)])
def test_shares_must_be_shares(budget: float, level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        DriftDetector(budget, level)


def long_and_short(seed: int, blocks: int, wrong_in_long: float, wrong_in_short: float) -> list[tuple[int, int]]:
    """Disagreements and audits by block: a tenth have ten audits, the rest one, and each is wrong throughout or not."""
    random = np.random.default_rng(seed)
    audits = np.where(random.random(blocks) < 0.1, 10, 1)
    wrong = random.random(blocks) < np.where(audits > 1, wrong_in_long, wrong_in_short)
    return list(zip((audits * wrong).tolist(), audits.tolist(), strict=True))


def alarms_by_blocks(streams: int, blocks: int, wrong_in_long: float, wrong_in_short: float, most: int = 10) -> int:
    alarmed = 0
    for seed in range(streams):
        detector = DriftDetector(0.02, level=0.1)
        for disagreements, audits in long_and_short(seed, blocks, wrong_in_long, wrong_in_short):
            detector.update_block(min(disagreements, most), min(audits, most), most)
        alarmed += detector.alarmed
    return alarmed


@pytest.mark.parametrize(("in_long", "in_short"), [(0.038, 0.0), (0.02, 0.02), (0.0, 0.0422)])
def test_of_blocks_whose_risk_per_frame_is_the_budget_few_alarm(in_long: float, in_short: float) -> None:
    """Whether long blocks are wrong, or short ones, or both alike."""
    assert (10 * 0.1 * in_long + 0.9 * in_short) / 1.9 == pytest.approx(0.02, abs=1e-4)
    alarms = alarms_by_blocks(100, 2_000, in_long, in_short)
    assert binomtest(alarms, 100, 0.1, alternative="greater").pvalue > 0.001, f"{alarms} of 100 alarm"


def test_long_blocks_that_are_wrong_alarm_though_most_blocks_are_right() -> None:
    """By blocks 1.5 % are wrong, by frames 8 %."""
    assert alarms_by_blocks(20, 3_000, 0.15, 0.0) >= 19
    assert alarms_by_blocks(20, 3_000, 0.15, 0.0, most=1) == 0


@given(st.lists(st.booleans(), max_size=60))
def test_a_single_audit_is_a_block_of_one(outcomes: list[bool]) -> None:
    one, other = DriftDetector(0.05, 0.01), DriftDetector(0.05, 0.01)
    for disagreed in outcomes:
        assert one.update(disagreed) == other.update_block(int(disagreed), 1, 1)
    assert one.evidence == pytest.approx(other.evidence)
