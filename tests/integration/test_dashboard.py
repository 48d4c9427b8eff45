"""The collector beside a real worker: what it answers, sets aside and has to do shows up, and can be acted upon."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from layercache.broker import EmbeddedBroker
from layercache.dashboard.collector import Collector
from layercache.dashboard.state import Snapshot
from layercache.schemas import prediction
from layercache.schemas.prediction import FULL
from layercache.schemas.settings import Kafka, Settings
from testbed.ports import free_ports
from testbed.topics import create_topics
from testbed.waiting import wait_until
from testbed.worker_process import Picture, publish, running_worker
from tests.conftest import Broker
from tests.support.heads import publish_heads, store_of
from tests.support.kafka_records import answer
from tests.support.pictures import coloured, encode

pytestmark = pytest.mark.one_broker


def seen(collector: Collector, condition: Callable[[Snapshot], bool], what: str, seconds: float = 60.0) -> Snapshot:
    """The first snapshot for which ``condition`` holds."""
    found: list[Snapshot] = []

    def holds() -> bool:
        found[:] = [collector.snapshot()]
        return condition(found[0])

    try:
        wait_until(holds, what, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}; the last snapshot: {found[0]!r}") from None
    return found[0]


@pytest.fixture
def settings(worker_settings: Settings) -> Settings:
    worker = worker_settings.worker.model_copy(update={"metrics_port": 0})
    return worker_settings.model_copy(update={"worker": worker})


def pictures(count: int, prefix: str) -> list[Picture]:
    kinds = ("PNG", "JPEG", "WEBP", "NPY")
    return [
        Picture(encode(coloured("red", noise=n), kinds[n % 4]), id=f"{prefix}-{n}", key=f"gate-{n % 2}")
        for n in range(count)
    ]


def test_a_worker_is_seen_whole_and_rolled_back(settings: Settings, tmp_path: Path) -> None:
    publish_heads(settings, "v1", "red", audit_rate=0.5)
    with running_worker(settings, tmp_path, anew=True) as worker:
        worker.wait_for("serving heads v1")
        worker.wait_for("metrics at ")
        port = worker.log.read_text().split("metrics at http://localhost:")[1].split("/")[0]
        publish(settings, pictures(40, "early"))
        publish(settings, [Picture(pictures(1, "x")[0].value, "image/jpeg", "mislabelled"), Picture(b"", id="empty")])
        with Collector(settings, [f"http://localhost:{port}/metrics"]) as collector:
            publish(settings, pictures(40, "late"))

            # what came before it was opened, and after
            shown = seen(collector, lambda one: one.now.frames == 80 and len(one.frames) >= 16, "80 answers, pictures")
            assert shown.problems == ()
            assert shown.model == store_of(settings).load("v1")[0].model
            assert shown.model_name == "tiny"
            assert all(frame.picture is not None for frame in shown.frames), [one.no_picture for one in shown.frames]
            assert {frame.class_name for frame in shown.frames} == {"red"}
            cut = store_of(settings).load("v1")[0].exits[0].cut
            assert {frame.exit for frame in shown.frames} <= {cut, FULL}
            assert [segment.cut for segment in shown.flow.segments] == [cut, FULL]
            assert shown.flow.segments[0].left + shown.flow.segments[1].left == 80
            assert shown.now.hit_rate == shown.flow.segments[0].left / 80
            assert shown.now.latency_p99_ms is not None

            letters = seen(collector, lambda one: len(one.dead_letters.latest) == 2, "two dead letters").dead_letters
            by_id = {letter.id: letter for letter in letters.latest}
            assert by_id["mislabelled"].reason == "wrong-content-type"
            assert by_id["mislabelled"].picture is not None
            assert (by_id["empty"].reason, by_id["empty"].picture) == ("empty", None)

            lag = seen(collector, lambda one: bool(one.lags) and one.lags[0].total == 0, "no lag").lags[0]
            assert (lag.who, lag.group) == ("workers", settings.worker.group_id)
            assert sum(one.committed or 0 for one in lag.partitions) == 82

            audited = seen(collector, lambda one: one.disagreement.audits > 0, "audits").disagreement
            assert (audited.source, audited.disagreements) == ("topic", 0)
            told = seen(
                collector, lambda one: bool(one.workers) and one.workers[0].version == "v1", "the worker's metrics"
            )
            assert (told.workers[0].exits_closed, told.workers[0].frames) == (False, 80)
            assert [one.name for one in told.classes] == ["red"]

            publish_heads(settings, "v2", "blue", audit_rate=0.0)
            seen(collector, lambda one: one.heads.live == "v2", "the new version")
            worker.wait_for("serving heads v2")
            assert collector.roll_back("v1", "blue is wrong") == "workers use v1"
            assert collector.snapshot().heads.live == "v1"
            worker.wait_for("serving heads v1", times=2)
            assert collector.close_exits("a test").startswith("all exits are kept closed (a test)")
            worker.wait_for("all exits kept closed by the operator")
            assert collector.snapshot().heads.closed
        assert worker.stop() == 0


def test_nobodys_offsets_move_and_no_group_appears(settings: Settings, broker: Broker) -> None:
    publish(settings, pictures(10, "early"))
    with Collector(settings) as collector:
        lag = seen(collector, lambda one: bool(one.lags) and one.lags[0].total > 0, "the lag of nobody").lags[0]
    assert {one.committed for one in lag.partitions} == {None}
    for group in (settings.worker.group_id, "layercache-dashboard"):
        asking = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group})
        places = [TopicPartition(settings.topics.frames, number) for number in range(settings.topics.partitions)]
        assert {one.offset for one in asking.committed(places, 10)} == {-1001}
        asking.close()


@pytest.mark.parametrize("broker", ["apache"], indirect=True)  # the embedded one writes no markers
def test_markers_at_the_end_of_a_topic_are_no_lag(settings: Settings, broker: Broker) -> None:
    frames = settings.topics.frames
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "transactional.id": f"camera-{frames}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(frames, b"a frame", partition=0)
    producer.commit_transaction(30)
    group = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": settings.worker.group_id})
    group.commit(offsets=[TopicPartition(frames, 0, 1)], asynchronous=False)
    group.close()
    with Collector(settings) as collector:
        found = seen(collector, lambda one: bool(one.lags) and one.lags[0].total == 0, "no lag").lags[0]
    assert (found.partitions[0].committed, found.partitions[0].end) == (1, 2)


@pytest.mark.parametrize("broker", ["embedded"], indirect=True)
def test_a_flood_is_sampled_and_told(settings: Settings) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers, "linger.ms": 50})
    flooding = threading.Event()
    flooding.set()

    def flood() -> None:
        offset = 0
        while flooding.is_set():
            for _ in range(400):
                one = answer(offset, time.time_ns() // 1_000_000, "first", "v1")
                producer.produce(settings.topics.predictions, prediction.encoder.encode(one), partition=offset % 2)
                offset += 1
            producer.poll(0.02)
        producer.flush(10)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        with Collector(settings) as collector:
            shown = seen(collector, lambda one: any("were passed over" in note for note in one.notes), "the flood")
            assert shown.now.hit_rate == 1.0
    finally:
        flooding.clear()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("broker", ["embedded"], indirect=True)  # which is quick to start
def test_a_broker_that_is_away_is_told_and_found_again(settings: Settings) -> None:
    (port,) = free_ports(1)
    away = settings.model_copy(update={"kafka": Kafka(bootstrap_servers=f"127.0.0.1:{port}")})
    with Collector(away) as collector:
        lost = seen(collector, lambda one: bool(one.problems), "the problem")
        assert {problem.where for problem in lost.problems} == {"broker"}
        assert f"no answer from Kafka at 127.0.0.1:{port}" in lost.problems[0].message
        with EmbeddedBroker(port):
            missing = seen(collector, lambda one: {two.where for two in one.problems} == {"topics"}, "no topics")
            assert "layercache topics create" in missing.problems[0].message
            create_topics(away.kafka.bootstrap_servers, away.topics)
            seen(collector, lambda one: not one.problems, "all is well")
            _answer_one(away)
            seen(collector, lambda one: one.now.frames == 1, "an answer")
        seen(collector, lambda one: {two.where for two in one.problems} == {"broker"}, "the broker's end")
        with EmbeddedBroker(port):
            create_topics(away.kafka.bootstrap_servers, away.topics)
            seen(collector, lambda one: not one.problems, "all is well again")

            def goes_on(one: Snapshot) -> bool:
                _answer_one(away)  # again: it begins at the end of topics that are not those that it knew
                return one.flow.frames > 1

            seen(collector, goes_on, "another answer")


def _answer_one(settings: Settings) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka.bootstrap_servers})
    producer.produce(settings.topics.predictions, prediction.encoder.encode(answer(0, time.time_ns() // 1_000_000)))
    assert producer.flush(10) == 0
