"""Fixtures that several folders use: brokers, topics of one's own, and a tiny model."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from layercache.broker import SESSION_TIMEOUT_MS, EmbeddedBroker
from layercache.schemas.settings import Kafka, Topics
from testbed.apache_kafka import KafkaNode, Place
from testbed.kafka_proxy import KafkaProxy
from testbed.topics import create_topics, unique_topics
from tests.support import tiny_model as tiny
from tests.support.require import missing


@dataclass(frozen=True)
class Broker:
    """A broker to test against; ``transactional`` where ``read_committed`` readers do not see aborted records."""

    bootstrap_servers: str
    transactional: bool
    proxy: KafkaProxy | None = None
    """Where there is one, clients may come through it: see :attr:`detour_servers`."""

    @property
    def detour_servers(self) -> str:
        """The broker's address behind :attr:`proxy`; skips the test where there is no proxy."""
        if self.proxy is None:
            missing(
                "apache-kafka", "set KAFKA_HOME to an unpacked distribution (needs Java 17): a proxy stands before it"
            )
        return f"localhost:{self.proxy.port}"

    @property
    def kafka(self) -> Kafka:
        """The settings to reach it."""
        return Kafka(
            bootstrap_servers=self.bootstrap_servers,
            consumer_options={"session.timeout.ms": SESSION_TIMEOUT_MS, "heartbeat.interval.ms": 500},
        )


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[Broker]:
    """The embedded broker, one for the whole session: use topics and groups of your own."""
    with EmbeddedBroker() as broker:
        yield Broker(broker.bootstrap_servers, transactional=False)


@pytest.fixture(scope="session")
def apache_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Apache Kafka, one for the whole session: use topics and groups of your own."""
    if servers := os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        yield Broker(servers, transactional=True)
    elif home := os.environ.get("KAFKA_HOME"):
        with KafkaProxy() as proxy:
            place = Place.free(1, proxy.port)
            proxy.target = place.detour
            with KafkaNode(Path(home), tmp_path_factory.mktemp("kafka"), place, starts_quickly=True) as node:
                yield Broker(node.bootstrap_servers, transactional=True, proxy=proxy)
    else:
        missing(
            "apache-kafka",
            "set KAFKA_HOME to an unpacked distribution (needs Java 17), "
            "or KAFKA_BOOTSTRAP_SERVERS to a running broker",
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Brokers to run a test on: both, so that the embedded one stays as good as the real one for what the tests need.

    Where a test is about ours and starts many processes (``one_broker``) it runs on Apache Kafka, or where there is
    none, on the embedded one.
    """
    chosen = any(marker.args[0] == "broker" for marker in metafunc.definition.iter_markers("parametrize"))
    if chosen or "broker" not in metafunc.fixturenames:
        return
    kinds = ["embedded", "apache"]
    if metafunc.definition.get_closest_marker("one_broker"):
        kinds = kinds[-1:] if {"KAFKA_HOME", "KAFKA_BOOTSTRAP_SERVERS"} & os.environ.keys() else kinds[:1]
    metafunc.parametrize("broker", kinds, indirect=True)


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Broker:
    """The broker that :func:`pytest_generate_tests` chose."""
    found: Broker = request.getfixturevalue("embedded_broker" if request.param == "embedded" else "apache_kafka")
    return found


@pytest.fixture
def topics(broker: Broker) -> Topics:
    """Topics that no other test uses, created on ``broker``."""
    return create_topics(broker.bootstrap_servers, unique_topics())


@pytest.fixture
def tiny_model(tmp_path: Path) -> tiny.TinyModel:
    """A model that names a picture's strongest colour, its files in ``tmp_path``."""
    return tiny.write(tmp_path / "model")
