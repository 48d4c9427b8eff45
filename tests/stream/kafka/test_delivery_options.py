"""Options that would void the promise are refused by name; those that only cost time are not."""

from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer

from layercache.schemas.settings import Kafka, Options, Settings, Worker
from layercache.stream.kafka.clients import KafkaUnusable, worker_config
from layercache.stream.kafka.delivery_options import RULES, Rule, refused_options
from layercache.stream.worker import service

PAGE = Path(__file__).parents[3] / "docs" / "exactly-once.md"

VOID: dict[str, str | int | bool] = {
    "isolation.level": "read_uncommitted",
    "enable.auto.commit": True,
    "group.id": "another",
    "broker.version.fallback": "0.9.0",
    "enable.idempotence": "False",
    "acks": 1,
    "request.required.acks": "0",
    "transactional.id": "one-for-all",
    "transaction.timeout.ms": 60_000,
    "max.in.flight.requests.per.connection": 6,
    "max.in.flight": "1000000",
    "retries": 0,
    "message.send.max.retries": "0",
    "queuing.strategy": "LIFO",
}
HARMLESS: Options = {
    "isolation.level": "READ_COMMITTED",
    "enable.auto.commit": "F",
    "group.id": "layercache",
    "broker.version.fallback": "0.10.0",
    "enable.idempotence": "true",
    "acks": "All",
    "request.required.acks": -1,
    "transaction.timeout.ms": 10_000,
    "max.in.flight": 5,
    "retries": 3,
    "queuing.strategy": "fifo",
    "auto.offset.reset": "latest",
    "enable.auto.offset.store": True,
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 5_000,
    "debug": "eos",
    "log_level": 7,
}


def names(settings: Settings) -> list[str]:
    return [one.name for one in refused_options(settings)]


def test_every_rule_is_tried_here() -> None:
    assert set(VOID) == {name for rule in RULES for name in rule.names}


@pytest.mark.parametrize("name", VOID)
def test_under_exactly_once_it_is_refused_by_name(name: str) -> None:
    settings = Settings(kafka=Kafka(options={name: VOID[name]}))
    assert names(settings) == [name]
    with pytest.raises(KafkaUnusable, match=rf"^{name} = .* \(kafka\.options or -X\) voids .* = exactly_once: .*; \w+"):
        worker_config(settings)


def test_what_only_costs_time_is_the_users() -> None:
    assert names(Settings(kafka=Kafka(options=HARMLESS))) == []


def test_at_least_once_refuses_what_would_lose_frames_and_no_more() -> None:
    once, twice = Worker(), Worker(delivery="at_least_once")
    assert len(names(Settings(kafka=Kafka(options=VOID), worker=once))) == len(VOID)
    assert names(Settings(kafka=Kafka(options=VOID), worker=twice)) == [
        "enable.auto.commit", "group.id", "acks", "request.required.acks", "transactional.id",
    ]  # fmt: skip


def test_the_clients_own_section_wins_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "level").write_text("read_uncommitted")
    reads: Options = {"isolation.level": "read_uncommitted"}
    mended = Kafka(options=reads, consumer_options={"isolation.level": "read_committed"})
    assert names(Settings(kafka=mended)) == []
    assert names(Settings(kafka=Kafka(producer_options=reads))) == []  # no consumer's business
    for kafka, source in (
        (Kafka(consumer_options=reads), "kafka.consumer_options"),
        (Kafka(option_files={"isolation.level": tmp_path / "level"}), "kafka.option_files"),
        (Kafka(producer_options={"acks": 1}), "kafka.producer_options"),
    ):
        [refused] = refused_options(Settings(kafka=kafka))
        assert refused.source == source


def test_a_worker_ends_before_it_loads_its_model_and_names_all(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "load", lambda model: pytest.fail("it is loaded"))
    options: Options = {"isolation.level": "read_uncommitted", "acks": 1}
    assert service.run(Settings(kafka=Kafka(options=options))) == service.FAILED
    [line] = caplog.messages
    assert "isolation.level = read_uncommitted" in line
    assert "acks = 1" in line


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.names[0])
def test_librdkafka_knows_the_options(rule: Rule) -> None:
    """A misspelt rule would refuse nothing."""
    for client in rule.clients:
        for name in rule.names:
            config = {"group.id": "nobody", name: "no such value, and of no type"}
            try:
                made = Consumer(config) if client == "consumer" else Producer(config)
            except KafkaException as error:
                assert "No such configuration property" not in error.args[0].str()
            else:
                if isinstance(made, Consumer):
                    made.close()


def test_the_page_on_exactly_once_has_the_same_table() -> None:
    for rule in RULES:
        names = ", ".join(f"`{name}`" for name in rule.names)
        row = f"| {names} | {rule.allowed} | {rule.because} |"
        assert row in PAGE.read_text(encoding="utf-8"), f"docs/exactly-once.md lacks this row, in this place:\n{row}"
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first = lines.index("| option | may be | because otherwise |") + 2
    assert len(RULES) == next(count for count, line in enumerate(lines[first:]) if not line.startswith("|"))
