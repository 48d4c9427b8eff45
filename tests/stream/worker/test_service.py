"""A worker as a process: what its parts are given, and what its end becomes."""

import logging
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from layercache.early_exit.machine import MachineFailed
from layercache.early_exit.model.loading import ModelError
from layercache.early_exit.model.reference import UNDECIDED
from layercache.schemas.settings import Kafka, References, Settings, Worker
from layercache.stream.kafka.client_log import LEVEL, KafkaLog
from layercache.stream.kafka.clients import CLIENT_ID, ClientFactory, Config, KafkaUnusable
from layercache.stream.references.fetching_pool import fetching_pool
from layercache.stream.references.prefixes import UnusablePrefix
from layercache.stream.worker import service
from layercache.stream.worker.loop import Unfinished
from layercache.stream.worker.members import named_clients
from layercache.stream.worker.metrics import Metrics
from layercache.stream.worker.stopping import StopRequest

FINGERPRINT = "3f9a52c1e0b7d4aa"
SETTINGS = Settings.model_validate({"worker": {"worker_id": "w-0", "metrics_port": 0, "transaction_timeout_ms": 7_000}})


class Parts:
    """Stand-ins for all that a worker is made of; they note what happens to them. ``end`` is how the worker ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None] = lambda: None) -> None:
        self.happened: list[str] = []
        self.given: dict[str, Any] = {}
        self.end = end
        classifier = SimpleNamespace(
            name="tiny", fingerprint=FINGERPRINT, device="cpu", preprocessing=None, reference=UNDECIDED
        )
        for name, part in {
            "load": classifier, "with_reference": classifier, "trace": SimpleNamespace(), "open_store": None,
            "wait_for_topics": True,
            "keep_freed_memory": None, "collect_seldom": None, "ask_size_limits": {"frames.dlq": 300_000},
            "fetching_pool": self.part("pool"), "HeadWatch": self.part("heads"),
        }.items():  # fmt: skip
            monkeypatch.setattr(service, name, lambda *_, part=part, **__: part)
        monkeypatch.setattr(service, "GroupCheck", self.group)
        monkeypatch.setattr(service, "ModelAnswering", lambda *given: self.given.update(letter_limit=given[-1]))
        monkeypatch.setattr(service, "make_worker", self.worker)

    def part(self, name: str) -> SimpleNamespace:
        def noting(what: str) -> Callable[..., None]:
            return lambda *_: self.happened.append(f"{name} {what}")

        return SimpleNamespace(start=noting("starts"), stop=noting("stops"), close=noting("closes"))

    def group(self, settings: Settings, fingerprint: str, joined: Callable[[], bool]) -> SimpleNamespace:
        self.given |= {"fingerprint": fingerprint, "joined": joined}
        return self.part("group check")

    def worker(self, settings: Settings, name: str, answering: Any, metrics: Any, stop: Any, **more: Any) -> Any:
        self.given |= {"settings": settings, "name": name, "metrics": metrics} | more
        return SimpleNamespace(run=self.end)


def raising(error: Exception) -> Callable[[], None]:
    def end() -> None:
        raise error

    return end


def test_a_worker_is_given_what_it_was_started_with(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch)
    monkeypatch.setattr(service, "named_clients", lambda name: name)
    assert service.run(SETTINGS) == service.OK
    given = parts.given
    assert given["name"] == "w-0"
    assert given["settings"].kafka.producer_options == {"batch.size": 300_000}, "no more at once than a topic takes"
    assert given["letter_limit"].bytes == 300_000
    assert given["clients"] == f"{CLIENT_ID}.3f9a52c1e0b7.w-0"
    assert given["metrics"].health.settle_s == 27.0, "as long as a broker may take to abort, and to share out"
    assert parts.happened == ["heads starts", "group check starts", "group check stops", "heads stops", "pool closes"]
    assert given["fingerprint"] == FINGERPRINT
    assert not given["joined"]()
    given["metrics"].partitions.set(1)
    given["metrics"].health.beat()
    assert given["joined"]()


@pytest.mark.parametrize(
    "error",
    [
        MachineFailed("no memory"),
        ModelError("it fails at everything"),
        KafkaUnusable("no topic frames; create the topics with `layercache topics create`"),
        UnusablePrefix("references.prefixes: a prefix cannot be used"),
    ],
)
def test_what_is_not_a_programs_fault_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    parts = Parts(monkeypatch, raising(error))
    assert service.run(SETTINGS) == service.FAILED
    (line,) = [
        one
        for one in caplog.records
        if one.levelno >= logging.WARNING and one.name == "layercache.stream.worker.service"
    ]
    assert (line.getMessage(), line.exc_info) == (str(error), None)
    assert parts.happened[-2:] == ["heads stops", "pool closes"]


def test_an_unusable_prefix_ends_a_worker_before_it_reads_a_frame(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Parts(monkeypatch)
    monkeypatch.setattr(service, "fetching_pool", fetching_pool)
    settings = SETTINGS.model_copy(update={"references": References(prefixes={"simplecache::s3://cameras/": {}})})
    assert service.run(settings) == service.FAILED
    (line,) = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert line.getMessage().startswith("references.prefixes: a prefix cannot be used")
    assert line.exc_info is None


def test_a_worker_that_shall_stop_while_it_waits_for_a_broker_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch)

    def waiting(settings: Settings, stopping: Callable[[], bool], topics: object) -> bool:
        assert not stopping()
        signal.raise_signal(signal.SIGTERM)
        return not stopping()

    monkeypatch.setattr(service, "wait_for_topics", waiting)
    assert service.run(SETTINGS) == service.OK
    assert parts.happened == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, service.OK), (signal.SIGINT, service.INTERRUPTED)])
def test_the_signal_that_stopped_a_worker_is_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    Parts(monkeypatch, lambda: signal.raise_signal(number))
    assert service.run(SETTINGS) == code


def test_nothing_is_waited_for_by_a_worker_that_did_not_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch, raising(Unfinished("3 frames were still being answered")))
    assert service.run(SETTINGS) == service.UNFINISHED
    assert "pool closes" not in parts.happened


def test_the_workers_clients_are_what_its_consumer_and_people_need() -> None:
    """Whatever the user's options say, which are still heard where they are about something else."""
    options: Any = {"auto.offset.reset": "latest", "enable.partition.eof": False}
    kafka = Kafka(bootstrap_servers="localhost:1", consumer_options=options)
    made: list[tuple[str, Config]] = []

    def remembered(kind: Any) -> Any:
        def make(config: Config) -> Any:
            made.append((kind.__name__, config))
            return kind(config)

        return make

    clients = ClientFactory(remembered(Consumer), remembered(Producer), remembered(AdminClient))
    settings = Settings(kafka=kafka, worker=Worker(delivery="at_least_once"))
    metrics, stop = Metrics(max_batch=8), StopRequest()
    worker = service.make_worker(settings, "w-1", Mock(), metrics, stop, clients=named_clients("me", clients))
    worker._delivery.close()
    worker._consumer.close()
    assert sorted(kind for kind, _ in made) == ["AdminClient", "Consumer", "Consumer", "Producer"]
    assert {config["client.id"] for _, config in made} == {"me"}
    (reader,) = [config for kind, config in made if kind == "Consumer" and "logger" in config]
    assert (reader["auto.offset.reset"], reader["enable.partition.eof"]) == ("earliest", True)
    assert (reader["log_level"], type(reader["logger"])) == (LEVEL, KafkaLog)
    assert worker._delivery._time_left == worker._consumer.time_left
