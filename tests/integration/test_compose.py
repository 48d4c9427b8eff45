"""The stack of docker-compose.yml, for real: it comes up, answers frames from the host, and survives its worker."""

import json
import re
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer

from schemas.prediction import FULL, Prediction, decoder
from tests.support.docker import KAFKA_IMAGE, PYTHON_IMAGE, docker, require_docker
from tests.support.ports import free_ports
from tests.support.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
FRAMES = ROOT / "examples" / "fashion-mnist-frames.zip"
#: The first build fetches torch, which may take minutes; later ones find the layers.
BUILD_S = 1200.0
UP_S = 240.0

pytestmark = [pytest.mark.docker, pytest.mark.timeout(BUILD_S + 4 * UP_S)]


@dataclass(frozen=True)
class Stack:
    """A compose project of its own on ports of its own."""

    project: str
    kafka_port: int
    metrics_port: int

    @property
    def bootstrap_servers(self) -> str:
        return f"localhost:{self.kafka_port}"

    def compose(self, *arguments: str, check: bool = True, seconds: float = 120.0) -> str:
        """Standard output of ``docker compose`` in this project."""
        environment = {
            "KAFKA_PORT": str(self.kafka_port),
            "METRICS_PORT": str(self.metrics_port),
            "LAYERCACHE_IMAGE": "layercache-test",
        }
        arguments = ("compose", "--ansi", "never", "--project-name", self.project, *arguments)
        return docker(arguments, check=check, seconds=seconds, environment=environment, folder=ROOT).stdout

    def up(self) -> None:
        self.compose("up", "--detach", "--wait", "--wait-timeout", str(int(UP_S)), seconds=UP_S + 30)

    def container(self, service: str) -> dict[str, Any]:
        """What ``docker inspect`` says about the service's container, stopped ones too."""
        name = self.compose("ps", "--all", "--quiet", service).strip()
        found: list[dict[str, Any]] = json.loads(docker(["inspect", name]).stdout)
        return found[0]

    def publish(self, count: int) -> None:
        """So many of the demo's frames, from the host, by the command line."""
        command = [sys.executable, "-m", "layercache", "publish", str(FRAMES), "--bootstrap", self.bootstrap_servers]
        command += ["--limit", str(count)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    require_docker(KAFKA_IMAGE, PYTHON_IMAGE)
    kafka_port, metrics_port = free_ports(2)
    made = Stack(f"layercache-test-{uuid.uuid4().hex[:8]}", kafka_port, metrics_port)
    made.compose("build", seconds=BUILD_S)
    try:
        made.up()
        yield made
    finally:
        print(made.compose("ps", "--all", check=False))
        print(made.compose("logs", "--no-color", "--tail", "200", check=False))  # pytest shows it where a test failed
        made.compose("down", "--volumes", "--remove-orphans", "--timeout", "10", seconds=UP_S)
    label = f"label=com.docker.compose.project={made.project}"
    assert docker(["ps", "--all", "--quiet", "--filter", label]).stdout == ""
    assert docker(["volume", "ls", "--quiet", "--filter", label]).stdout == ""


class Reader:
    """Everything on the predictions topic, as a ``read_committed`` consumer on the host sees it."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.seen: list[Prediction] = []
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"reader-{uuid.uuid4().hex[:8]}",
                "auto.offset.reset": "earliest",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
            }
        )
        self.consumer.subscribe(["predictions"])

    def read(self, count: int) -> list[Prediction]:
        """All predictions so far, once they are ``count`` and no more come: one too many was answered twice."""
        wait_until(lambda: self._poll(1.0) and len(self.seen) >= count, f"{count} predictions", seconds=120)
        while self._poll(3.0):
            pass
        return self.seen

    def _poll(self, seconds: float) -> bool:
        message = self.consumer.poll(seconds)
        if message is None:
            return False
        assert message.error() is None, message.error()
        self.seen.append(decoder.decode(message.value() or b""))
        return True


@pytest.fixture
def reader(stack: Stack) -> Iterator[Reader]:
    made = Reader(stack.bootstrap_servers)
    yield made
    made.consumer.close()


def test_the_stack_answers_frames_from_the_host_and_survives_its_worker(stack: Stack, reader: Reader) -> None:
    stack.publish(60)
    answered = reader.read(60)
    assert len(positions(answered)) == len(answered) == 60
    assert {prediction.exit for prediction in answered} == {FULL}  # no heads yet: never a guess

    with urllib.request.urlopen(f"http://localhost:{stack.metrics_port}/metrics", timeout=10) as page:
        assert re.search(r"^layercache_frames_total\S* 60\.0$", page.read().decode(), re.MULTILINE)

    docker(["kill", str(stack.container("worker")["Id"])])
    stack.publish(60)
    stack.up()
    answered = reader.read(120)
    assert len(positions(answered)) == len(answered) == 120
    assert len({prediction.model for prediction in answered}) == 1

    trainer = stack.container("trainer")
    assert (trainer["State"]["Running"], trainer["RestartCount"]) == (True, 0)


@pytest.mark.parametrize("service", ["worker", "trainer"])
def test_a_container_has_no_rights_and_nothing_to_write_to_but_its_volumes(service: str, stack: Stack) -> None:
    host, user = stack.container(service)["HostConfig"], stack.container(service)["Config"]["User"]
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert user == "10001:10001"
    # What the kernel says of process 1 and lets it do, not what was asked for.
    status = stack.compose("exec", "-T", service, "cat", "/proc/1/status")
    lines = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert lines["Uid"].split() == ["10001"] * 4
    assert (int(lines["CapEff"], 16), int(lines["CapBnd"], 16), lines["NoNewPrivs"].strip()) == (0, 0, "1")
    for folder in ("/", "/app", "/opt/venv", "/home/layercache", "/etc", "/models"):
        found = stack.compose("exec", "-T", service, "python", "-c", f"open('{folder}/x', 'w')", check=False)
        assert found == ""
        there = stack.compose("exec", "-T", service, "ls", "-a", folder)
        assert "x" not in there.split(), folder
    for folder in ("/heads", "/tmp", "/home/layercache/.cache"):
        stack.compose(
            "exec", "-T", service, "python", "-c", f"import os; open('{folder}/x', 'w'); os.remove('{folder}/x')"
        )


def test_the_demo_profile_publishes_by_itself(stack: Stack) -> None:
    stack.compose("--profile", "demo", "up", "--detach", "publisher", seconds=UP_S)
    reader = Reader(stack.bootstrap_servers)
    wait_until(lambda: reader._poll(1.0) and len(reader.seen) >= 300, "predictions of the publisher's", seconds=120)
    reader.consumer.close()


def positions(predictions: list[Prediction]) -> set[tuple[str, int, int]]:
    """The frames' places in their topic: as many as there are predictions if each frame was answered once."""
    return {(prediction.topic, prediction.partition, prediction.offset) for prediction in predictions}
