"""An Apache Kafka node from ``KAFKA_HOME``, started for a test session in a folder of its own."""

import base64
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.support.ports import free_ports

_START_DEADLINE_S = 60.0
_HOST = "localhost"

PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers={host}:{controller}
listeners=PLAINTEXT://{host}:{broker},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={logs}
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=33554432
auto.create.topics.enable=false
"""


class KafkaNode:
    """One node, broker and controller in one, for as long as the ``with`` block runs.

    ``stop`` and ``start`` again keep the port and the data: a broker that was away.
    """

    def __init__(self, home: Path, folder: Path) -> None:
        self._home = home
        self._folder = folder
        self._port, controller = free_ports(2)
        self._properties = folder / "server.properties"
        self._properties.write_text(
            PROPERTIES.format(host=_HOST, broker=self._port, controller=controller, logs=folder / "logs")
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._format()

    @property
    def bootstrap_servers(self) -> str:
        return f"{_HOST}:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        environment = {"KAFKA_HEAP_OPTS": "-Xms128M -Xmx512M", **os.environ, "LOG_DIR": str(self._folder)}
        with (self._folder / "node.log").open("ab") as output:
            self._process = subprocess.Popen(
                [self._home / "bin" / "kafka-server-start.sh", self._properties],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is None:
            return
        # The script replaces itself with the JVM or, in other distributions, may be its parent: the whole group goes.
        for sent in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                os.killpg(self._process.pid, sent)
                try:
                    self._process.wait(15)
                except subprocess.TimeoutExpired:
                    continue
        self._process = None

    def _format(self) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if cluster.startswith("-"):  # the tool would read it as an option
            cluster = "A" + cluster[1:]
        subprocess.run(
            [
                self._home / "bin" / "kafka-storage.sh", "format", "--standalone", "-t", cluster,
                "-c", self._properties,
            ],
            check=True, capture_output=True, env={**os.environ, "LOG_DIR": str(self._folder)},
        )  # fmt: skip

    def _wait(self) -> None:
        assert self._process is not None
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        deadline = time.monotonic() + _START_DEADLINE_S
        while True:
            try:
                client.list_topics(timeout=1.0)
                return
            except KafkaException as error:
                said = (self._folder / "node.log").read_text(errors="replace")[-3_000:]
                if self._process.poll() is not None:
                    raise RuntimeError(f"Kafka ended with exit code {self._process.returncode}:\n{said}") from error
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Kafka did not answer within {_START_DEADLINE_S:.0f} s:\n{said}") from error
