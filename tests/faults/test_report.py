"""What the harness found is told as it was: totals of exactly once, failures first, at least once beside them."""

import json
from dataclasses import replace
from pathlib import Path

from tests.faults.harness.clock import Fault
from tests.faults.harness.fleet import Ended
from tests.faults.harness.ledger import Verdict
from tests.faults.harness.report import write
from tests.faults.harness.verdict import Outcome

VERDICT = Verdict(
    frames=1_000, answered=1_000, lost=0, duplicated=0, wrong=0, misplaced=0, out_of_order=0, unknown=0,
    predictions=980, dead_letters=20,
)  # fmt: skip

EXACT = Outcome(
    phase="one broker", delivery="exactly_once", nodes=1, seed=0, seconds=60.0, read_to_the_end=True, settled=True,
    verdict=VERDICT, missing=[], repeated=[],
    faults=[
        Fault(1, "worker_kill", "worker-0", 1.0, recovery_s=4.0, gap_s=4.5),
        Fault(2, "worker_kill", "worker-1", 9.0, recovery_s=6.0, gap_s=6.5),
        Fault(3, "broker_restart", "node 1", 20.0, recovery_s=11.0, gap_s=10.0),
    ],
    longest_gap_s=10.0, longest_partition_gap_s=10.5, blocked_partitions=0, offsets_behind=0,
    exit_codes={0: 4}, stubborn=0, ended=[Ended("worker-0-2", 1, "now ERROR a: fenced", is_clean=True)], versions=3,
    exits={"first": 900, "full": 80}, publisher_failure=None, errors=[], reader_failure=None, left_out=[],
)  # fmt: skip

AT_LEAST = replace(EXACT, phase="at least once", delivery="at_least_once", verdict=replace(VERDICT, duplicated=7))


def test_totals_are_those_of_exactly_once(tmp_path: Path) -> None:
    write([EXACT, EXACT, AT_LEAST], "make faults", "2026-01-01", tmp_path)
    found = json.loads((tmp_path / "benchmarks" / "faults.json").read_text())
    assert (found["frames"], found["faults"], found["lost"], found["duplicated"]) == (2_000, 6, 0, 0)
    assert found["by_kind"]["worker_kill"]["count"] == 4
    assert found["by_kind"]["worker_kill"]["recovery_median_s"] == 5.0
    assert found["by_kind"]["worker_kill"]["recovery_longest_s"] == 6.0
    assert found["failures"] == []
    assert found["phases"][2]["verdict"]["duplicated"] == 7
    assert found["phases"][0]["exits"] == {"first": 900, "full": 80}


def test_the_page_says_what_went_wrong_at_its_top(tmp_path: Path) -> None:
    bad = replace(
        EXACT,
        verdict=replace(VERDICT, lost=2, duplicated=1),
        missing=[7, 8],
        faults=[replace(EXACT.faults[0], recovery_s=None)],
        ended=[Ended("worker-1-1", -11, "Segmentation fault", is_clean=False)],
        stubborn=1,
        blocked_partitions=3,
    )
    found = write([bad], "make faults", "2026-01-01", tmp_path)
    page = (tmp_path / "reliability.md").read_text()
    assert len(found["failures"]) == 6
    for text in (
        "2 frames were lost: [7, 8]",
        "1 answers were duplicates",
        "worker-1-1: -11",
        "not recovered from: ['1",
    ):
        assert text in page[: page.index("## What was done")]
    assert "never | never" in page


def test_a_page_of_a_good_run_has_no_list_of_failures(tmp_path: Path) -> None:
    write([EXACT, AT_LEAST], "make faults", "2026-01-01", tmp_path)
    page = (tmp_path / "reliability.md").read_text()
    assert "What should not have been" not in page
    assert "1,000 frames, 3 faults: 0 lost, 0 duplicated, 0 wrong, 0 out of order" in page
    assert "2 times a worker ended by itself" in page
