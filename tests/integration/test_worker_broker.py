"""A worker waits for a broker, joins its group by either protocol, and outlives a broker's absence."""

import time
import uuid
from pathlib import Path

import pytest

from layercache.broker import EmbeddedBroker
from layercache.schemas.settings import Kafka, Settings, Store, Worker
from testbed.apache_kafka import KafkaNode
from testbed.ports import free_ports
from testbed.topics import create_topics, unique_topics
from testbed.waiting import wait_until
from testbed.worker_process import Picture, Reader, WorkerProcess, publish, reading, running_worker
from tests.conftest import Broker
from tests.support.pictures import coloured, encode
from tests.support.tiny_model import TinyModel


def settings_for(kafka: Kafka, model: TinyModel, folder: Path, **worker: object) -> Settings:
    topics = unique_topics()
    return Settings(
        kafka=kafka,
        topics=topics,
        model=model.settings,
        store=Store(url=f"file://{folder}/heads"),
        worker=Worker.model_validate({"group_id": topics.frames, "torch_threads": 1} | worker),
    )


def kafka_at(servers: str) -> Kafka:
    return Broker(servers, transactional=False).kafka


def test_a_broker_that_comes_later_is_waited_for(tiny_model: TinyModel, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = settings_for(kafka_at(f"127.0.0.1:{port}"), tiny_model, tmp_path)
    with running_worker(settings, tmp_path) as worker:
        worker.wait_for("no answer from Kafka at 127.0.0.1")
        # Paused while the topics are made: it would rightly end if it found the broker without them.
        worker.process.send_signal(19)
        with EmbeddedBroker(port) as broker:
            create_topics(broker.bootstrap_servers, settings.topics)
            worker.process.send_signal(18)
            publish(settings, [Picture(encode(coloured("blue"), "JPEG"), id="late")])
            with reading(settings, settings.topics.predictions) as reader:
                reader.read_count(1)
                assert reader.predictions()[0].class_name == "blue"
            assert worker.stop() == 0


def test_a_second_worker_of_the_same_name_ends_the_first(
    apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path
) -> None:
    settings = settings_for(apache_kafka.kafka, tiny_model, tmp_path, worker_id="zero")
    create_topics(apache_kafka.bootstrap_servers, settings.topics)
    with running_worker(settings, tmp_path, "first") as first, reading(settings, settings.topics.predictions) as reader:
        publish(settings, [Picture(encode(coloured("red"), "PNG"), id="a")])
        reader.read_count(1)
        with running_worker(settings, tmp_path, "second") as second:
            second.wait_for("working on")
            wait_until(lambda: not answered_by_anyone_but(first, settings, reader), "the first has ended", 60)
            assert first.process.wait(30) == 1
            assert first.said("each running worker needs a worker_id of its own")
            publish(settings, [Picture(encode(coloured("blue"), "PNG"), id="z")])
            reader.read_until(lambda: "z" in {one.id for one in reader.predictions()}, "the second's answer")
            assert second.stop() == 0
        reader.read(1.0)
        ids = [one.id for one in reader.predictions()]
        assert len(ids) == len(set(ids))


def answered_by_anyone_but(first: WorkerProcess, settings: Settings, reader: Reader) -> bool:
    """Sends another frame and says whether ``first`` still runs: it notices when it next commits."""
    publish(settings, [Picture(encode(coloured("green"), "PNG"), id=f"m-{uuid.uuid4().hex[:8]}")])
    reader.read()
    return first.process.poll() is None


def test_the_consumer_group_protocol_of_kip_848(apache_kafka: Broker, tiny_model: TinyModel, tmp_path: Path) -> None:
    kafka = Kafka(bootstrap_servers=apache_kafka.bootstrap_servers, consumer_options={"group.protocol": "consumer"})
    settings = settings_for(kafka, tiny_model, tmp_path)
    create_topics(apache_kafka.bootstrap_servers, settings.topics)
    publish(settings, [Picture(encode(coloured("green"), "PNG"), id=str(n)) for n in range(20)])
    with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
        reader.read_count(20)
        assert worker.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_a_broker_that_goes_away_and_comes_back(
    own_node: KafkaNode, tiny_model: TinyModel, tmp_path: Path, delivery: str
) -> None:
    with own_node:
        settings = settings_for(kafka_at(own_node.bootstrap_servers), tiny_model, tmp_path, delivery=delivery)
        create_topics(own_node.bootstrap_servers, settings.topics)
        with running_worker(settings, tmp_path) as worker, reading(settings, settings.topics.predictions) as reader:
            publish(settings, [Picture(encode(coloured("red"), "PNG"), id=f"before-{n}") for n in range(3_000)])
            reader.read_until(lambda: len(reader.messages) > 0, "a first prediction")
            own_node.stop()
            away = time.monotonic()
            worker.wait_for("WARNING layercache.stream")
            own_node.start()
            assert time.monotonic() - away > 1
            publish(settings, [Picture(encode(coloured("blue"), "PNG"), id=f"after-{n}") for n in range(10)])
            expected = {f"before-{n}" for n in range(3_000)} | {f"after-{n}" for n in range(10)}
            reader.read_until(lambda: expected <= {one.id for one in reader.predictions()}, "all of them", 150)
            reader.read(1.0)
            if delivery == "exactly_once":
                assert len(reader.messages) == len(expected)
            assert worker.process.poll() is None
            assert worker.stop() == 0
