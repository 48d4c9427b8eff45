"""The drift test keeps its level at any stopping time, and notices a change also after a long quiet past."""

import numpy as np
import pytest
from scipy.stats import binom

from early_exit.drift import DriftDetector


def frames_until_alarm(risks: np.ndarray, budget: float = 0.01, level: float = 0.05, seed: int = 0) -> int | None:
    detector = DriftDetector(budget, level)
    random = np.random.default_rng(seed)
    for index, risk in enumerate(risks):
        if detector.update(bool(random.random() < risk)):
            return index + 1
    return None


@pytest.mark.parametrize("budget", [0.01, 0.05])
def test_false_alarms_stay_within_the_level_however_long_one_looks(budget: float) -> None:
    streams, level = 300, 0.05
    alarms = sum(frames_until_alarm(np.full(3000, budget), budget, level, seed) is not None for seed in range(streams))
    assert alarms <= binom.ppf(0.999, streams, level)


def test_a_change_is_noticed_soon_also_after_a_long_quiet_past() -> None:
    for quiet in (0, 1000, 20_000):
        delays = []
        for seed in range(10):
            risks = np.concatenate((np.full(quiet, 0.001), np.full(2000, 0.10)))
            alarm = frames_until_alarm(risks, seed=seed)
            assert alarm is not None
            assert alarm > quiet
            delays.append(alarm - quiet)
        assert np.median(delays) < 200, quiet


def test_it_goes_on_where_another_process_stopped() -> None:
    one, other = DriftDetector(0.01, 0.01), DriftDetector(0.01, 0.01)
    for index in range(100):
        one.update(index % 40 == 0)
    other.restore(one.state())
    assert other.evidence == one.evidence
    assert (other.audits, other.disagreements) == (100, 3)


@pytest.mark.parametrize(("budget", "level"), [(0, 0.1), (0.1, 0), (1, 0.1), (0.1, 1)])
def test_shares_must_be_shares(budget: float, level: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        DriftDetector(budget, level)
