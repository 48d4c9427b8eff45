"""What the clients are configured with."""

import pytest

from schemas.settings import Kafka, Settings
from stream.clients import consumer_config


@pytest.mark.parametrize(("session_ms", "heartbeat_ms"), [(2_000, 500), (45_000, 3_000)])
def test_a_session_is_never_shorter_than_its_heartbeats(session_ms: int, heartbeat_ms: int) -> None:
    settings = Settings(kafka=Kafka(options={"session.timeout.ms": session_ms}))
    assert consumer_config(settings, "group")["heartbeat.interval.ms"] == heartbeat_ms


def test_a_heartbeat_that_the_user_chose_stays() -> None:
    chosen = Kafka(consumer_options={"session.timeout.ms": 10_000, "heartbeat.interval.ms": 900})
    assert consumer_config(Settings(kafka=chosen), "group")["heartbeat.interval.ms"] == 900
