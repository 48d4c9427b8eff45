"""What the harness found is told as it was: totals of exactly once, failures first, at least once beside them."""

import json
from dataclasses import replace
from pathlib import Path

from tests.faults.harness.checks import EXACTLY_ONCE, Finding
from tests.faults.harness.clock import Fault
from tests.faults.harness.fleet import Ended
from tests.faults.harness.plan import Phase
from tests.faults.harness.report import by_kind, write
from tests.faults.harness.verdict import Outcome

NOTHING = {check.__name__: Finding(0) for check in EXACTLY_ONCE}
PHASE = Phase("one broker", 1, "exactly_once", 1_000, 3, 0, 500.0)

EXACT = Outcome(
    phase=PHASE, made="2026-01-01", seconds=60.0, read_to_the_end=True, settled=True, frames=1_000, predictions=980,
    dead_letters=20, findings=NOTHING,
    faults=[
        Fault(1, "worker_kill", "worker-0", 1.0, recovery_s=4.0, gap_s=4.5),
        Fault(2, "worker_kill", "worker-1", 9.0, recovery_s=6.0, gap_s=6.5),
        Fault(3, "commit_kill_join", "worker-3", 20.0, recovery_s=11.0, gap_s=10.0),
    ],
    longest_gap_s=10.0, standstill_s={0: 8.0, 1: 10.5}, blocked_partitions=0, offsets_behind=0,
    exit_codes={0: 4}, stubborn=0, ended=[Ended("worker-0-2", 1, "now ERROR a: fenced", is_clean=True)], versions=3,
    exits={"first": 900, "full": 80}, commits_seen=100,
)  # fmt: skip

TWICE = Finding(7, ("frame 9 (1@4): prediction 1@12 by worker-1-1; prediction 1@19 by worker-2-1",))
AT_LEAST = replace(
    EXACT,
    phase=replace(PHASE, name="at least once", delivery="at_least_once"),
    findings={**NOTHING, "duplicated": TWICE, "gaps": Finding(3)},
)


def test_totals_are_those_of_exactly_once(tmp_path: Path) -> None:
    write([EXACT, EXACT, AT_LEAST], "make faults", "2026-01-01", tmp_path)
    found = json.loads((tmp_path / "benchmarks" / "faults.json").read_text())
    assert (found["frames"], found["faults"]) == (2_000, 6)
    assert set(found["found"].values()) == {0}
    assert (found["in_window"], found["ends_delayed"], found["longest_standstill_s"]) == (2, 0, 10.5)
    assert found["by_kind"]["worker_kill"]["count"] == 4
    assert found["by_kind"]["worker_kill"]["recovery_median_s"] == 5.0
    assert found["by_kind"]["worker_kill"]["recovery_longest_s"] == 6.0
    assert found["failures"] == []
    assert found["phases"][2]["findings"]["duplicated"]["count"] == 7
    assert found["phases"][0]["exits"] == {"first": 900, "full": 80}


def test_the_page_says_what_went_wrong_at_its_top(tmp_path: Path) -> None:
    bad = replace(
        EXACT,
        findings={
            **NOTHING,
            "lost": Finding(2, ("frame 7 (1@3)", "frame 8 (0@4)")),
            "duplicated": replace(TWICE, count=1),
        },
        faults=[replace(EXACT.faults[0], recovery_s=None)],
        ended=[Ended("worker-1-1", -11, "Segmentation fault", is_clean=False)],
        stubborn=1,
        blocked_partitions=3,
    )
    found = write([bad], "make faults", "2026-01-01", tmp_path)
    page = (tmp_path / "reliability.md").read_text()
    assert len(found["failures"]) == 6
    for text in (
        "2 frames were lost: frame 7 (1@3); frame 8 (0@4)",
        "1 answers were duplicates: frame 9 (1@4): prediction 1@12 by worker-1-1; prediction 1@19 by worker-2-1",
        "worker-1-1: -11",
        "not recovered from: ['1",
    ):
        assert text in page[: page.index("## What was done")]
    assert "never | never" in page


def test_a_page_of_a_good_run_has_no_list_of_failures(tmp_path: Path) -> None:
    write([EXACT, AT_LEAST], "make faults", "2026-01-01", tmp_path)
    page = (tmp_path / "reliability.md").read_text()
    assert "What should not have been" not in page
    assert "| 1,000 | 3 | 0 | 7 | 0 | 0 | 0 |" in page, "gaps are no fault at least once"
    assert "1,000 frames, 3 faults: 0 lost, 0 duplicated, 0 wrong, 0 out of order" in page
    assert "2 times a worker ended by itself" in page


def test_a_kill_beside_the_window_does_not_count_as_one_in_it() -> None:
    beside = replace(EXACT, faults=[replace(EXACT.faults[2], hit=False), EXACT.faults[2]])
    assert beside.in_window == 1
    assert by_kind(beside.faults)["commit_kill_join"]["beside"] == 1


def test_a_partition_may_stand_still_as_long_as_its_phase_says() -> None:
    strict = replace(EXACT, phase=replace(PHASE, standstill_s=10.0))
    assert strict.failures() == ["a partition stood still for 10.5 s, 10.0 s at most were wanted"]
    assert replace(EXACT, phase=replace(PHASE, standstill_s=25.0)).failures() == []
