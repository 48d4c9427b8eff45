"""Apache Kafka nodes from ``KAFKA_HOME``, started for a test in folders of their own; alone or as a cluster."""

import base64
import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from testbed.kafka_proxy import KafkaProxy
from testbed.ports import free_ports
from testbed.topics import partitions_of

_START_DEADLINE_S = 180.0
_HOST = "localhost"
#: Java's quick compiler alone, and its simplest garbage collector.
_QUICK_START = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"

PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.bootstrap.servers={quorum}
listeners=PLAINTEXT://{host}:{broker},DETOUR://{host}:{detour},CONTROLLER://{host}:{controller}
advertised.listeners=PLAINTEXT://{host}:{broker},DETOUR://{host}:{advertised}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,DETOUR:PLAINTEXT
log.dirs={logs}
offsets.topic.replication.factor={replication}
transaction.state.log.replication.factor={replication}
transaction.state.log.min.isr={in_sync}
share.coordinator.state.topic.replication.factor={replication}
share.coordinator.state.topic.min.isr={in_sync}
default.replication.factor={replication}
min.insync.replicas={in_sync}
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
log.cleaner.dedupe.buffer.size=33554432
auto.create.topics.enable=false
"""


@dataclass(frozen=True)
class Place:
    """Where one node listens; ``detour`` is a second listener that tells clients to come by port ``advertised``."""

    node: int
    broker: int
    controller: int
    detour: int
    advertised: int
    directory: str
    """Identity of the controller's metadata folder, as ``kafka-storage.sh`` wants it."""

    @classmethod
    def free(cls, node: int, advertised: int | None = None) -> "Place":
        """On free ports; without ``advertised`` the second listener advertises its own port."""
        broker, controller, detour = free_ports(3)
        return cls(node, broker, controller, detour, advertised or detour, _unique_id())


class KafkaNode:
    """One node, broker and controller in one, for as long as the ``with`` block runs.

    ``stop`` and then ``start`` keep port and data, like a broker that was away. ``quorum`` is all nodes of its cluster,
    itself included; ``properties`` add to or override :data:`PROPERTIES`. A node that ``starts_quickly`` takes half the
    time to start, but works more slowly afterwards. ``passwords`` are of users that it knows from the start (SCRAM),
    ``client`` holds the options of the client that waits for it, and ``environment`` is for its process alone.
    """

    def __init__(
        self,
        home: Path,
        folder: Path,
        place: Place | None = None,
        quorum: tuple[Place, ...] = (),
        cluster_id: str = "",
        properties: Mapping[str, object] | None = None,
        starts_quickly: bool = False,
        passwords: Mapping[str, str] | None = None,
        client: Mapping[str, str | int | float | bool] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._environment = environment or {}
        self._starts_quickly = starts_quickly
        self._passwords = passwords or {}
        self._client = client or {}
        self._home = home
        self.folder = folder
        self.place = place or Place.free(1)
        self._quorum = quorum or (self.place,)
        self._properties = folder / "server.properties"
        self._properties.write_text(self._text(properties or {}))
        self._process: subprocess.Popen[bytes] | None = None
        self._format(cluster_id or _unique_id())

    @property
    def bootstrap_servers(self) -> str:
        return f"{_HOST}:{self.place.broker}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Starts it without waiting for it."""
        own = {"LOG_DIR": str(self.folder), **self._environment}
        environment = {"KAFKA_HEAP_OPTS": "-Xms128M -Xmx512M", **os.environ, **own}
        if self._starts_quickly:
            environment["KAFKA_JVM_PERFORMANCE_OPTS"] = _QUICK_START
        with (self.folder / "node.log").open("ab") as output:
            self._process = subprocess.Popen(
                [self._home / "bin" / "kafka-server-start.sh", self._properties],
                env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Waits until it answers; stops it if it does not."""
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

    def kill(self) -> None:
        """SIGKILL: no controlled shutdown, no leader hands over its partitions."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(15)
            self._process = None

    def pause(self) -> None:
        """SIGSTOP: its connections stay open and nothing answers on them."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends :meth:`pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, number)

    def _text(self, properties: Mapping[str, object]) -> str:
        place, size = self.place, len(self._quorum)
        lines = PROPERTIES.format(
            host=_HOST, node=place.node, broker=place.broker, controller=place.controller, detour=place.detour,
            advertised=place.advertised, logs=self.folder / "logs", replication=size, in_sync=max(1, size - 1),
            quorum=",".join(f"{_HOST}:{one.controller}" for one in self._quorum),
        )  # fmt: skip
        own = dict(line.split("=", 1) for line in lines.splitlines())
        return "".join(f"{name}={value}\n" for name, value in {**own, **properties}.items())

    def _format(self, cluster_id: str) -> None:
        if len(self._quorum) == 1:
            controllers = ["--standalone"]
        else:
            voters = (f"{one.node}@{_HOST}:{one.controller}:{one.directory}" for one in self._quorum)
            controllers = ["--initial-controllers", ",".join(voters)]
        users = [
            argument
            for user, password in self._passwords.items()
            for argument in ("--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]")
        ]
        subprocess.run(
            [
                self._home / "bin" / "kafka-storage.sh", "format", *controllers, "-t", cluster_id,
                "-c", self._properties, *users,
            ],
            check=True, capture_output=True, env={**os.environ, "LOG_DIR": str(self.folder)},
        )  # fmt: skip

    def _wait(self) -> None:
        assert self._process is not None
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0, **self._client})
        deadline = time.monotonic() + _START_DEADLINE_S
        while True:
            try:
                client.list_topics(timeout=1.0)
                return
            except KafkaException as error:
                log_end = (self.folder / "node.log").read_text(errors="replace")[-3_000:]
                if self._process.poll() is not None:
                    raise RuntimeError(f"Kafka ended with exit code {self._process.returncode}:\n{log_end}") from error
                if time.monotonic() > deadline:
                    raise RuntimeError(f"Kafka did not answer within {_START_DEADLINE_S:.0f} s:\n{log_end}") from error


class KafkaCluster:
    """``size`` nodes that replicate each other, every topic on all of them, one of which may be away (of three).

    Clients of :attr:`detour_servers` connect through a proxy per node, which can cut their connections and hold single
    requests. ``environment`` returns a node's environment for its folder.
    """

    def __init__(
        self,
        home: Path,
        folder: Path,
        size: int = 3,
        properties: Mapping[str, object] | None = None,
        environment: Callable[[Path], Mapping[str, str]] = lambda folder: {},
    ) -> None:
        self._stack = ExitStack()
        self.proxies = [self._stack.enter_context(KafkaProxy()) for _ in range(size)]
        places = tuple(Place.free(number + 1, proxy.port) for number, proxy in enumerate(self.proxies))
        cluster_id = _unique_id()
        self.nodes = []
        for place, proxy in zip(places, self.proxies, strict=True):
            proxy.target = place.detour
            own = folder / f"node-{place.node}"
            own.mkdir(parents=True)
            self.nodes.append(
                KafkaNode(
                    home, own, place, places, cluster_id, properties, starts_quickly=True, environment=environment(own)
                )
            )

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(node.bootstrap_servers for node in self.nodes)

    @property
    def detour_servers(self) -> str:
        return ",".join(f"{_HOST}:{proxy.port}" for proxy in self.proxies)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            for node in self.nodes:
                node.launch()
            for node in self.nodes:
                node.wait()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends nodes and proxies; the data stay."""
        for node in self.nodes:
            node.resume()
            node.kill()
        self._stack.close()

    def leaders(self, topic: str) -> Iterator[KafkaNode]:
        """The node that leads each partition of ``topic``, by partition."""
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        partitions = partitions_of(topic, client)
        for number in sorted(partitions):
            yield self.nodes[partitions[number].leader - 1]


def _unique_id() -> str:
    """22 characters of base64; a leading dash would be read as an option."""
    made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return "A" + made[1:] if made.startswith("-") else made
