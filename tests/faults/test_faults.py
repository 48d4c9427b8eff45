"""Every kind of fault once or more on Apache Kafka, in both modes and on three brokers: the harness, made short.

The long run is ``make faults``; what it found last is in ``docs/reliability.md``.
"""

import os
from pathlib import Path

import pytest

from layercache.schemas.prediction import FULL
from tests.faults.harness.phase import run
from tests.faults.harness.plan import Phase, Timeouts
from tests.support.require import missing

pytestmark = [pytest.mark.faults, pytest.mark.timeout(420)]

SEED = 5
RATE = 1_000.0

#: So that what is waited for comes soon; the window of unstable offsets is two seconds wide.
TIMEOUTS = Timeouts(session_ms=2_000, transaction_ms=4_000)

PHASES = (
    Phase(
        "workers and storage", 1, "exactly_once", 10_000, 0, SEED, RATE,
        ("store_hanging", "commit_kill_join", "heads_published", "member_evicted", "store_full"),
        timeouts=TIMEOUTS, is_static=True,
    ),
    Phase(
        "brokers and network", 1, "exactly_once", 10_000, 0, SEED, RATE,
        ("connections_stalled", "commit_delayed", "worker_added", "clock_skew", "abort_delayed", "topic_anew",
         "connections_cut"),
        timeouts=TIMEOUTS,
    ),
    Phase(
        "at least once, poison", 1, "at_least_once", 10_000, 0, SEED, RATE,
        ("worker_kill", "connections_half_open"), timeouts=TIMEOUTS, is_poisoned=True,
    ),
    Phase(
        "one of three brokers, KIP-848", 3, "exactly_once", 10_000, 0, SEED, RATE,
        ("broker_kill", "commit_kill_join", "broker_restart"), timeouts=TIMEOUTS, protocol="consumer",
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
    assert outcome.exits.keys() - {FULL}, "no head was ever taken up"
