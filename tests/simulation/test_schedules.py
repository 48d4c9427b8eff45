"""Seeded schedules break no promise, and each is the same whenever it is played."""

from __future__ import annotations

import pytest

from tests.simulation.__main__ import SEEDS, play
from tests.simulation.schedule import THEMES, Play, simulate

#: Of each theme, in `make test`; `make simulate` plays a million.
_SCHEDULES = 40


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.__name__)
def test_no_schedule_breaks_the_promise(theme: Play) -> None:
    failed = {seed: verdict.problems for seed in range(_SCHEDULES) if (verdict := simulate(seed, theme=theme)).problems}
    assert failed == {}, f"see: python -m tests.simulation --verbose --theme {theme.__name__} --seed {min(failed)}"


def test_seeds_that_failed_once_do_not_fail_again() -> None:
    seeds = [int(line) for line in SEEDS.read_text().split()] if SEEDS.exists() else []
    assert [seed for seed in seeds if play(range(seed, seed + 1))[1]] == []


@pytest.mark.parametrize("seed", [3, 14, 159])
def test_a_seed_is_always_the_same_schedule(seed: int) -> None:
    traces: list[list[str]] = [[], []]
    for trace in traces:
        simulate(seed, trace.append)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 10


def test_schedules_do_what_they_are_for() -> None:
    """Faults strike, transactions time out, groups rebalance; otherwise nothing is shown by nothing being wrong."""
    totals, _ = play(range(300))
    assert totals["faults"] > 600
    assert totals["transactions_timed_out"] > 30
    assert totals["rebalances"] > 1_000
    assert totals["frames"] > 3_000
