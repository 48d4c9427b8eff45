"""Exits are chosen by the measured time that they save, and thresholds by the risk that they may take."""

from collections.abc import Sequence
from itertools import chain, combinations, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layercache.cache_training.certifying.choosing import Option, ScoredCandidate, calibrate, choose, choose_among
from layercache.cache_training.certifying.threshold_family import DOUBTS
from layercache.cache_training.learning.candidates import Candidate, Costs
from layercache.cache_training.learning.routes import Route
from layercache.early_exit.policy import cascade
from layercache.schemas.manifest import CompiledPath, HeadSpec


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


def test_a_route_charges_every_head_passed() -> None:
    exits, left = [candidate("e", "early", 0.01), candidate("l", "late", 0.02)], np.array([0.25, 0.25, 0.5])
    for route, nowhere in ((Route(REACH), 1.03), (Route(REACH, nowhere=Costs(2.0, 2.0)), 2.03)):
        assert [one.time for one in route.by_exit(exits)] == pytest.approx([0.21, 0.63, nowhere])
        assert route.time(exits, left) == pytest.approx(0.25 * 0.21 + 0.25 * 0.63 + 0.5 * nowhere)
        assert route.flops(exits, left) == route.time(exits, left)
    assert Route(REACH).time([], np.array([1.0])) == 1.0


def test_of_several_routes_the_one_that_saves_most_is_taken(labels: np.ndarray) -> None:
    never, half = np.zeros(1000, np.bool_), np.arange(1000) % 2 == 0
    slow = Option(Route(REACH), [calibrate(candidate("e", "early", 0.01), logits(labels, never, half), labels)])
    end = Route({"int8": Costs(1.0, 0.25)}, nowhere=Costs(2.0, 1.25))
    quick = Option(end, [calibrate(candidate("int8", "int8", 0.0), logits(labels, never, ~never), labels)])
    for options in ([slow, quick], [quick, slow]):
        choice = choose_among(options, risk=0.005)
        assert choice is not None
        assert choice.route is end
        assert choice.time_saved == pytest.approx(0.75)
    assert choose_among([], risk=0.005) is None
    assert choose_among([Option(end, [])], risk=0.005) is None


def test_the_head_that_saves_most_net_of_its_own_cost_wins(labels: np.ndarray) -> None:
    never = np.zeros(1000, np.bool_)
    half, most = np.arange(1000) % 2 == 0, np.arange(1000) % 100 < 60
    cheap = calibrate(candidate("cheap", "early", 0.01), logits(labels, never, half), labels)
    dear = calibrate(candidate("dear", "early", 0.2), logits(labels, never, most), labels)
    choice = choose(Option(Route(REACH), [cheap, dear]), risk=0.005)
    assert choice is not None
    assert [one.candidate.name for one in choice.exits] == ["cheap"]
    assert choice.time_saved > 0.35


def test_an_exit_that_does_not_pay_for_its_head_stays_closed(labels: np.ndarray) -> None:
    few = np.arange(1000) < 20
    useless = calibrate(candidate("useless", "late", 0.05), logits(labels, np.zeros(1000, np.bool_), few), labels)
    risky = calibrate(candidate("risky", "early", 0.0), logits(labels, np.arange(1000) % 3 == 0, few | True), labels)
    assert choose(Option(Route(REACH), [useless, risky]), risk=0.002) is None


def test_two_exits_are_better_than_one_where_each_knows_other_frames(labels: np.ndarray) -> None:
    never = np.zeros(1000, np.bool_)
    easy, medium = np.arange(1000) < 400, np.arange(1000) < 800
    early = calibrate(candidate("e", "early", 0.01), logits(labels, never, easy), labels)
    late = calibrate(candidate("l", "late", 0.01), logits(labels, never, medium), labels)
    choice = choose(Option(Route(REACH), [early, late]), risk=0.005)
    assert choice is not None
    assert [one.candidate.cut for one in choice.exits] == ["early", "late"]
    assert choice.time_saved == pytest.approx(0.4 * 0.79 + 0.4 * 0.38 - 0.2 * 0.02)


def test_on_a_path_that_was_made_all_exits_are_served_and_the_useless_one_is_closed(labels: np.ndarray) -> None:
    never = np.zeros(1000, np.bool_)
    useless = calibrate(candidate("u", "early", 0.0), logits(labels, np.arange(1000) % 2 == 0, ~never), labels)
    end = calibrate(candidate("int8", "int8", 0.0), logits(labels, never, ~never), labels)
    reach = {"early": Costs(0.1, 0.05), "int8": Costs(1.0, 0.25)}
    imagined = choose(Option(Route(reach, nowhere=Costs(2.0, 1.25)), [useless, end]), 0.005)
    path = CompiledPath(precision="int8", graphs=("a", "b"))
    made = choose(Option(Route(reach, nowhere=Costs(2.0, 1.25), path=path), [useless, end]), 0.005)
    assert imagined is not None
    assert made is not None
    assert [one.candidate.cut for one in imagined.exits] == ["int8"]
    assert [one.candidate.cut for one in made.exits] == ["early", "int8"]
    closed, opened = made.family.thresholds[made.target].tolist()
    assert closed > useless.scores.max()
    assert opened <= end.scores.min()
    assert made.time_saved == pytest.approx(0.75)


def test_temperature_makes_overconfident_scores_honest() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 4000)
    wrong = random.random(4000) < 0.2
    scored = calibrate(candidate("c", "early", 0.0), logits(labels, wrong, np.ones(4000, np.bool_)), labels)
    assert scored.temperature > 2
    assert scored.scores.mean() == pytest.approx(0.8, abs=0.08)


def judged(subset: Sequence[ScoredCandidate], thresholds: np.ndarray, costs: dict[str, Costs]) -> tuple[float, float]:
    """Estimated risk and time saved: one setting run as the engine would, and costs frame by frame."""
    scores, wrong = (np.stack([getattr(one, name) for one in subset], 1) for name in ("scores", "wrong"))
    exits = cascade(scores, thresholds)
    gone = np.flatnonzero(exits >= 0)
    doubts = (1 - scores[gone, exits[gone]]).astype(np.float64)
    # As if 200 frames more had been seen, which are wrong as often as the scores say.
    risk = (wrong[gone, exits[gone]].sum() + 200 * doubts.sum() / len(scores)) / (len(scores) + 200)
    passed = np.cumsum([one.candidate.costs.time for one in subset])
    by_exit = np.append([costs[one.candidate.cut].time for one in subset] + passed, 1 + passed[-1])
    return float(risk), 1 - float(by_exit[exits].mean())


def saving(subset: Sequence[ScoredCandidate], costs: dict[str, Costs], risk: float) -> tuple[float, float]:
    """Time saved and doubt of the best setting with one doubt for all exits."""
    best = (0.0, 0.0)
    for doubt in DOUBTS:
        estimated, saved = judged(subset, np.full(len(subset), 1 - doubt, np.float32), costs)
        if estimated > risk:
            break
        best = max(best, (saved, doubt), key=lambda one: round(one[0], 12))
    return best


@settings(max_examples=25, deadline=None)
@example(59573792, 235, 3, 1, 0.25)  # two subsets save the same
@given(st.integers(0, 2**32), st.integers(1, 300), st.integers(1, 3), st.integers(1, 2), st.floats(1e-4, 0.3))
def test_no_subset_with_one_doubt_for_all_saves_more_than_the_choice(
    seed: int, frames: int, cuts: int, heads: int, risk: float
) -> None:
    random = np.random.default_rng(seed)
    costs = {f"cut {at}": Costs(time, time) for at, time in enumerate(np.sort(random.uniform(0.05, 0.9, cuts)))}
    scored = []
    for cut, head in product(costs, range(heads)):
        doubts = random.beta(0.3, random.uniform(0.5, 4), frames)
        wrong = random.random(frames) < doubts * random.uniform(0, 2)
        # Some scores are thresholds: at its threshold a score is high enough.
        doubts = np.where(random.random(frames) < 0.3, random.choice(DOUBTS, frames), doubts)
        one = candidate(f"{cut}/{head}", cut, random.uniform(0, 0.1))
        scored.append(ScoredCandidate(one, 1.0, (1 - doubts).astype(np.float32), wrong))
    best_at = [
        max((one for one in scored if one.candidate.cut == cut), key=lambda one: saving((one,), costs, risk)[0])
        for cut in costs
    ]
    subsets = chain.from_iterable(combinations(best_at, size) for size in range(1, cuts + 1))
    saved = [(*saving(subset, costs, risk), [one.candidate.name for one in subset]) for subset in subsets]
    most = max(time for time, *_ in saved)
    choice = choose(Option(Route(costs), scored), risk)
    if choice is None:
        assert most == 0
        return
    assert choice.time_saved >= most - 1e-12
    # Every setting is what tuning says it is, if it is run as the engine will run it.
    thresholds = choice.family.thresholds
    expected = np.array([judged(choice.exits, setting, costs) for setting in thresholds])
    assert choice.family.risks == pytest.approx(expected[:, 0], abs=1e-9)
    assert 1 - choice.family.times == pytest.approx(expected[:, 1], abs=1e-9)
    assert (expected[: choice.target + 1, 0] <= risk + 1e-9).all()
    # From one setting to the next bolder one no exit closes and no frame takes longer.
    assert len(thresholds) <= len(DOUBTS)
    assert (np.diff(thresholds, axis=0) <= 0).all()
    assert (np.diff(choice.family.times) <= 1e-9).all()
    if cuts == 1:
        # Several where an exit, whose frames another one takes anyway, adds nothing.
        best = [(doubt, names) for time, doubt, names in saved if time == pytest.approx(most, abs=1e-12)]
        assert (DOUBTS[choice.target], [one.candidate.name for one in choice.exits]) in best
        assert thresholds[:, 0].tolist() == (1 - DOUBTS).astype(np.float32).tolist()


def test_a_head_that_is_chosen_alone_may_cost_more_than_the_plain_model_without_the_others(labels: np.ndarray) -> None:
    """A frame that no exit is sure of costs a whole model more: only together the exits save anything."""
    never = np.zeros(1000, np.bool_)
    first, rest = np.arange(1000) < 450, np.arange(1000) >= 450
    costs = {"early": Costs(0.1, 0.1), "late": Costs(0.3, 0.3)}
    scored = [
        calibrate(candidate(name, cut, 0.0), logits(labels, never, sure), labels)
        for name, cut, sure in (("unsure", "early", first & rest), ("e", "early", first), ("l", "late", rest))
    ]
    choice = choose(Option(Route(costs, nowhere=Costs(2.0, 2.0)), scored), 0.005)
    assert choice is not None
    assert [one.candidate.name for one in choice.exits] == ["e", "l"]
    assert choice.time_saved == pytest.approx(1 - 0.45 * 0.1 - 0.55 * 0.3)
