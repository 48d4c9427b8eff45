"""Every kind of fault once or more on Apache Kafka, in both modes and on three brokers: the harness, made short.

The long run is ``make faults``; what it found last is in ``docs/reliability.md``.
"""

import os
from pathlib import Path

import pytest

from tests.faults.harness.phase import run
from tests.faults.harness.plan import Phase
from tests.support.require import missing

pytestmark = [pytest.mark.faults, pytest.mark.timeout(420)]

SEED = 5
RATE = 1_000.0

PHASES = (
    Phase(
        "workers and storage", 1, "exactly_once", 15_000, 0, SEED, RATE,
        ("store_hanging", "commit_kill_join", "heads_published", "member_evicted", "store_full", "worker_kill"),
        is_static=True,
    ),
    Phase(
        "brokers and network", 1, "exactly_once", 15_000, 0, SEED, RATE,
        ("connections_stalled", "commit_delayed", "worker_added", "clock_skew", "abort_delayed", "topic_anew",
         "broker_pause", "connections_cut", "worker_removed"),
    ),
    Phase(
        "at least once, poison", 1, "at_least_once", 10_000, 0, SEED, RATE,
        ("worker_kill", "connections_half_open"), is_poisoned=True,
    ),
    Phase(
        "one of three brokers, KIP-848", 3, "exactly_once", 10_000, 0, SEED, RATE,
        ("broker_kill", "commit_kill_join", "broker_restart"), protocol="consumer",
    ),
)  # fmt: skip


@pytest.fixture
def home() -> Path:
    if "KAFKA_HOME" not in os.environ:
        missing("apache-kafka", "set KAFKA_HOME to an unpacked distribution (needs Java 17): faults stop and kill it")
    return Path(os.environ["KAFKA_HOME"])


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_nothing_is_lost_and_nothing_comes_twice(phase: Phase, home: Path, tmp_path: Path) -> None:
    outcome = run(phase, home, tmp_path / "phase")
    assert not outcome.failures()
    assert [fault.kind for fault in outcome.faults] == [kind for kind in phase.kinds if kind not in outcome.left_out]
    assert outcome.frames >= phase.frames
    assert outcome.dead_letters > 0
    assert outcome.commits_seen > 0, "the group's offsets were never told"
    assert outcome.exits["first"] > 0, "no head was ever taken up"
