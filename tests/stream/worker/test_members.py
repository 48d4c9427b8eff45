"""Workers of different models that share a group see each other."""

from types import SimpleNamespace
from typing import Any

import pytest

from layercache.schemas.settings import Kafka, Settings
from layercache.stream.kafka.clients import ClientFactory, consumer_config, worker_config
from layercache.stream.worker.members import GroupCheck, client_id, models_of, named_clients
from testbed.waiting import wait_until

OLD, NEW = "3f9a52c1e0b7d4aa", "81c0ffee00112233"


def test_every_client_of_a_worker_has_its_name_but_the_users_own_wins() -> None:
    made: list[dict[str, Any]] = []
    remembered: Any = made.append
    clients = named_clients(client_id(OLD, "worker-0"), ClientFactory(remembered, remembered, remembered))
    own = Settings(kafka=Kafka(options={"client.id": "cameras"}))
    for config in (worker_config(Settings()), worker_config(own)):
        clients.consumer(config)
        clients.producer(config)
        clients.admin(config)
    assert [config["client.id"] for config in made] == ["layercache.3f9a52c1e0b7.worker-0"] * 3 + ["cameras"] * 3


def test_members_that_name_no_model_are_none_of_ours() -> None:
    ids = [client_id(NEW, "b"), client_id(OLD, "a.b"), client_id(OLD, "c"), "layercache", "rdkafka", "layercache.x"]
    assert models_of(ids) == ["3f9a52c1e0b7", "81c0ffee0011"]


def test_the_worker_asks_once_it_has_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    monkeypatch.setattr(GroupCheck, "look", lambda check: looks.append("asked"))
    monkeypatch.setattr("layercache.stream.worker.members._LOOK_EVERY_S", 0.001)
    asked = iter([False, False, True])
    check = GroupCheck(Settings(), OLD, lambda: next(asked))
    check.start()
    wait_until(lambda: bool(looks), "it looks")
    assert list(asked) == []
    check.stop()


def test_new_partitions_are_noticed_within_seconds() -> None:
    assert consumer_config(Settings(), "group")["topic.metadata.refresh.interval.ms"] == 10_000
    rare = Settings(kafka=Kafka(options={"topic.metadata.refresh.interval.ms": 60_000}))
    assert consumer_config(rare, "group")["topic.metadata.refresh.interval.ms"] == 60_000


def test_who_joins_beside_another_model_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    members = [SimpleNamespace(client_id=client_id(model, "w")) for model in (OLD, NEW)]
    found = [SimpleNamespace(id="layercache", members=members)]
    client = SimpleNamespace(list_groups=lambda group, timeout: found)
    monkeypatch.setattr("layercache.stream.worker.members.admin_client", lambda settings: client)
    check = GroupCheck(Settings(), NEW, lambda: True)
    assert check.look() == ["3f9a52c1e0b7"]
    assert "has workers of another model, 3f9a52c1e0b7, beside this one's, 81c0ffee0011" in caplog.text
    caplog.clear()
    del members[0]
    assert (check.look(), caplog.text) == ([], "")
