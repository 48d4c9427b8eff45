"""The whole run has what its goals ask for, however its cards fall."""

import random
from collections import Counter

from tests.faults.harness.plan import ENDS_DELAYED, IN_WINDOW, KINDS, NEED_MORE_BROKERS, deal, phases

FRAMES, FAULTS = 2_020_000, 410


def test_the_sums_are_at_least_what_was_asked_for() -> None:
    exact = [phase for phase in phases(FRAMES, FAULTS, 0) if phase.delivery == "exactly_once"]
    assert sum(phase.frames for phase in exact) >= FRAMES
    assert sum(phase.faults for phase in exact) >= FAULTS
    assert {phase.protocol for phase in exact} == {"classic", "consumer"}


def test_every_kind_strikes_and_those_of_the_goals_often_enough() -> None:
    dealt: Counter[str] = Counter()
    for phase in phases(FRAMES, FAULTS, 0):
        if phase.delivery == "exactly_once":
            dealt.update(deal(phase, random.Random(0), NEED_MORE_BROKERS if phase.nodes == 1 else frozenset()))
    assert dealt.keys() == KINDS.keys()
    # Some come beside their moment: goals are 60 and 40.
    assert sum(dealt[kind] for kind in IN_WINDOW) >= 80
    assert sum(dealt[kind] for kind in ENDS_DELAYED) >= 55


def test_a_phase_deals_the_same_by_the_same_seed_and_nothing_that_it_leaves_out() -> None:
    phase = phases(FRAMES, FAULTS, 7)[1]
    left_out = frozenset({"store_full", "clock_skew"})
    first, second = (deal(phase, random.Random(phase.seed), left_out) for _ in range(2))
    assert first == second
    assert len(first) == phase.faults
    assert not left_out & set(first)
