"""Apache Kafka in a container of the test's own, and a worker beside it: one frame in, one prediction out."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from torchvision.io import encode_png

from layercache.schemas.prediction import FULL, decoder
from layercache.schemas.settings import Topics
from testbed.ports import free_ports
from testbed.topics import create_topics
from testbed.waiting import wait_until
from tests.support import tiny_model
from tests.support.docker import KAFKA_COMMAND, KAFKA_IMAGE, require_docker

pytestmark = pytest.mark.docker


@pytest.fixture
def bootstrap_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    require_docker(KAFKA_IMAGE)
    # Its helper that clears away is one more image to fetch, and the `with` below clears away as well.
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    (port,) = free_ports(1)
    settings = {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "HOST://:9092,INTERNAL://:19092,CONTROLLER://:9093",
        # One for the port that the host sees, one by which the broker finds itself to commit transactions.
        "KAFKA_ADVERTISED_LISTENERS": f"HOST://localhost:{port},INTERNAL://localhost:19092",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "HOST:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_INTER_BROKER_LISTENER_NAME": "INTERNAL",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_HEAP_OPTS": "-Xms128M -Xmx512M",
    }
    container = DockerContainer(KAFKA_IMAGE).with_command(KAFKA_COMMAND).with_bind_ports(9092, port)
    for name, value in settings.items():
        container = container.with_env(name, value)
    with container:
        client = AdminClient({"bootstrap.servers": f"localhost:{port}", "log_level": 0})
        try:
            wait_until(lambda: answers(client), "Kafka's answer from its container", seconds=60)
        except AssertionError as late:
            raise AssertionError(b"\n".join(container.get_logs()).decode(errors="replace")[-4000:]) from late
        yield f"localhost:{port}"


def answers(client: AdminClient) -> bool:
    """Whether the broker answers."""
    try:
        client.list_topics(timeout=2)
    except KafkaException:
        return False
    return True


def test_a_frame_is_answered_through_kafka_in_a_container(bootstrap_servers: str, tmp_path: Path) -> None:
    topics = create_topics(bootstrap_servers, Topics())
    model = tiny_model.write(tmp_path / "model")
    command = [
        sys.executable, "-m", "layercache", "worker", "--bootstrap", bootstrap_servers,
        "--model", model.settings.spec, "--weights", str(model.settings.weights),
        "--store-url", f"file://{tmp_path / 'heads'}", "--torch-threads", "1",
    ]  # fmt: skip
    with (tmp_path / "worker.log").open("w") as log:
        worker = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ})
    try:
        producer = Producer({"bootstrap.servers": bootstrap_servers})
        green = torch.zeros(3, 16, 16, dtype=torch.uint8)
        green[1] = 200
        producer.produce(topics.frames, encode_png(green).numpy().tobytes(), key=b"camera")
        assert producer.flush(30) == 0
        prediction = read_one(bootstrap_servers, topics.predictions, worker)
        assert prediction is not None, (tmp_path / "worker.log").read_text()
        answer = decoder.decode(prediction)
        assert (answer.class_name, answer.exit, answer.id) == (
            "green",
            FULL,
            f"{topics.frames}-{answer.partition}-0",
        )
    finally:
        worker.terminate()
        code = worker.wait(60)
    assert code == 0, (tmp_path / "worker.log").read_text()


def read_one(bootstrap_servers: str, topic: str, worker: "subprocess.Popen[bytes]") -> bytes | None:
    """The first committed record of ``topic``, None if there is none within a minute or the worker ended."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "reader",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe([topic])
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline and worker.poll() is None:
            message = consumer.poll(1.0)
            if message is not None and message.error() is None:
                return message.value()
        return None
    finally:
        consumer.close()
