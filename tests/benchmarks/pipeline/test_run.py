"""A tiny run of the pipeline benchmark on a broker: the bare loop, which needs no other environment."""

import sys
from pathlib import Path

from confluent_kafka.admin import AdminClient

from benchmarks.pipeline.load import Load
from benchmarks.pipeline.measure import Session
from benchmarks.pipeline.peers.job import NOTHING
from benchmarks.pipeline.systems import EXACTLY_ONCE, Peer
from tests.conftest import Broker

LOOP = Peer("loop", EXACTLY_ONCE, "what there is", {3_000: 10_000.0}, "loop_app", sys.executable)
LOAD = Load(NOTHING, (b"x" * 3_000, b"y" * 3_000), "image/jpeg")


def topics_of(broker: Broker) -> set[str]:
    return set(AdminClient({"bootstrap.servers": broker.bootstrap_servers}).list_topics(timeout=10).topics)


def test_a_system_drains_a_backlog_and_keeps_up_and_leaves_nothing(apache_kafka: Broker, tmp_path: Path) -> None:
    before = topics_of(apache_kafka)
    with Session(LOOP, LOAD, apache_kafka.bootstrap_servers, tmp_path, tmp_path) as session:
        session.publish(40_960)
        session.start()
        session.wait_for_group()
        drained = session.drain(frames=40_960, expected_s=10, label=lambda number: 3)
        kept = session.keep_up(per_s=1_024, seconds=0.5)
        pid = session.usage().memory_mb
    assert drained.finished
    assert (drained.frames, drained.agreement) == (40_960, 1.0)
    assert drained.frames_per_s > 0
    assert drained.cpu_ms_per_frame > 0
    assert drained.memory_mb <= pid
    # one second's worth is not measured
    assert kept.frames == 1_536 - 1_024
    assert 0 < kept.mean_ms <= kept.p99_ms
    assert 1 <= kept.most_waiting <= 1_536
    assert topics_of(apache_kafka) - before <= {"__consumer_offsets", "__transaction_state"}
