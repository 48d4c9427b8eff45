"""Exits are chosen by the measured time that they save, and thresholds by the risk that they may take."""

from collections.abc import Sequence
from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layercache.cache_training.certifying.choosing import DOUBTS, ScoredCandidate, calibrate, choose, shares
from layercache.cache_training.learning.candidates import Candidate, Costs
from layercache.early_exit.policy import cascade
from layercache.schemas.manifest import HeadSpec


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
    cheap = calibrate(candidate("cheap", "early", 0.01), logits(labels, never, half), labels)
    dear = calibrate(candidate("dear", "early", 0.2), logits(labels, never, most), labels)
    choice = choose([cheap, dear], REACH, risk=0.005)
    assert choice is not None
    assert [one.candidate.name for one in choice.exits] == ["cheap"]
    assert choice.time_saved > 0.35


def test_an_exit_that_does_not_pay_for_its_head_stays_closed(labels: np.ndarray) -> None:
    few = np.arange(1000) < 20
    useless = calibrate(candidate("useless", "late", 0.05), logits(labels, np.zeros(1000, np.bool_), few), labels)
    risky = calibrate(candidate("risky", "early", 0.0), logits(labels, np.arange(1000) % 3 == 0, few | True), labels)
    assert choose([useless, risky], REACH, risk=0.002) is None


def test_two_exits_are_better_than_one_where_each_knows_other_frames(labels: np.ndarray) -> None:
    never = np.zeros(1000, np.bool_)
    easy, medium = np.arange(1000) < 400, np.arange(1000) < 800
    early = calibrate(candidate("e", "early", 0.01), logits(labels, never, easy), labels)
    late = calibrate(candidate("l", "late", 0.01), logits(labels, never, medium), labels)
    choice = choose([early, late], REACH, risk=0.005)
    assert choice is not None
    assert [one.candidate.cut for one in choice.exits] == ["early", "late"]
    assert choice.time_saved == pytest.approx(0.4 * 0.79 + 0.4 * 0.38 - 0.2 * 0.02)


def test_temperature_makes_overconfident_scores_honest() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 4000)
    wrong = random.random(4000) < 0.2
    scored = calibrate(candidate("c", "early", 0.0), logits(labels, wrong, np.ones(4000, np.bool_)), labels)
    assert scored.temperature > 2
    assert scored.scores.mean() == pytest.approx(0.8, abs=0.08)


def saving(subset: Sequence[ScoredCandidate], costs: dict[str, Costs], risk: float) -> tuple[float, float]:
    """Time saved and doubt of the best setting: every setting run as the engine would, and costs frame by frame."""
    scores, wrong = (np.stack([getattr(one, name) for one in subset], 1) for name in ("scores", "wrong"))
    reach, heads = [costs[one.candidate.cut].time for one in subset], [one.candidate.costs.time for one in subset]
    best = (0.0, 0.0)
    for doubt in DOUBTS:
        exits = cascade(scores, np.full(len(subset), 1 - doubt, np.float32))
        gone = np.flatnonzero(exits >= 0)
        doubts = (1 - scores[gone, exits[gone]]).astype(np.float64)
        # As if 200 frames more had been seen, which are wrong as often as the scores say.
        if (wrong[gone, exits[gone]].sum() + 200 * doubts.sum() / len(scores)) / (len(scores) + 200) > risk:
            break
        best = max(best, (1 - shares(exits, reach, heads), doubt), key=lambda one: round(one[0], 12))
    return best


@settings(max_examples=25, deadline=None)
@example(59573792, 235, 3, 1, 0.25)  # two subsets save the same
@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 3), st.integers(1, 2), st.floats(1e-4, 0.3))
def test_no_subset_at_any_setting_saves_more_than_the_choice(
    seed: int, frames: int, cuts: int, heads: int, risk: float
) -> None:
    random = np.random.default_rng(seed)
    costs = {f"cut {at}": Costs(time, time) for at, time in enumerate(np.sort(random.uniform(0.05, 0.9, cuts)))}
    scored = []
    for cut, head in product(costs, range(heads)):
        doubts = random.beta(0.3, random.uniform(0.5, 4), frames)
        wrong = random.random(frames) < doubts * random.uniform(0, 2)
        one = candidate(f"{cut}/{head}", cut, random.uniform(0, 0.1))
        scored.append(ScoredCandidate(one, 1.0, (1 - doubts).astype(np.float32), wrong))
    best_at = [
        max((one for one in scored if one.candidate.cut == cut), key=lambda one: saving((one,), costs, risk)[0])
        for cut in costs
    ]
    subsets = chain.from_iterable(combinations(best_at, size) for size in range(1, cuts + 1))
    saved = [(*saving(subset, costs, risk), [one.candidate.name for one in subset]) for subset in subsets]
    most = max(time for time, *_ in saved)
    choice = choose(scored, costs, risk)
    if most == 0:
        assert choice is None
    else:
        assert choice is not None
        # Several where an exit, whose frames another one takes anyway, adds nothing.
        best = [(doubt, names) for time, doubt, names in saved if time == pytest.approx(most, abs=1e-12)]
        assert (choice.doubt, [one.candidate.name for one in choice.exits]) in best
        assert choice.time_saved == pytest.approx(most, abs=1e-12)
