"""What librdkafka says by itself: time-outs and failures come through, attempts to connect do not."""

import logging

import pytest
from confluent_kafka import Producer

from layercache.stream.kafka.client_log import KafkaLog
from layercache.stream.kafka.clients import long_running
from testbed.ports import free_ports
from testbed.waiting import wait_until

#: As librdkafka 2.16 words them, and at the levels at which confluent-kafka hands them over.
SESSION = (
    logging.WARNING, "SESSTMOUT",
    "[thrd:main]: Consumer group session timed out (in join-state steady) after 10123 ms without a successful response "
    "from the group coordinator (broker 1, last error was Success): revoking assignment and rejoining group",
)  # fmt: skip
POLL = (
    logging.WARNING, "MAXPOLL",
    "[thrd:main]: Application maximum poll interval (300000ms) exceeded by 84ms (adjust max.poll.interval.ms for "
    "long-running message processing): leaving group",
)  # fmt: skip
FENCED = (
    logging.CRITICAL, "FATAL",
    "[thrd:main]: Fatal error: Broker: Static consumer fenced by other consumer with same group.instance.id: Fatal "
    "consumer error: Broker: Static consumer fenced by other consumer with same group.instance.id",
)  # fmt: skip
NO_ASSIGNOR = (logging.ERROR, "ASSIGNOR", '[thrd:main]: Group "g": failed to run assignor "range" for 2 member(s): x')
TIMED_OUT = (logging.WARNING, "REQTMOUT", "[thrd:TxnCoordinator]: TxnCoordinator/1: Timed out 1 in-flight requests")
PARTITIONS = (logging.INFO, "PARTCNT", "[thrd:main]: Topic frames (id x) partition count changed from 2 to 4")
REFUSED = (
    logging.ERROR,
    "FAIL",
    "[thrd:localhost:1/bootstrap]: Connect to ipv4#127.0.0.1:1 failed",
)
SAID_BY_ERROR_CB = (logging.ERROR, "ERROR", "[thrd:localhost:1/bootstrap]: 1/1 brokers are down")
IGNORED = (
    logging.WARNING,
    "CONFWARN",
    "[thrd:app]: Configuration property acks is a producer property",
)
DEBUG = (logging.DEBUG, "SEND", "[thrd:main]: Sent HeartbeatRequest")

Line = tuple[int, str, str]


def hand(logger: KafkaLog, *lines: Line) -> None:
    for level, facility, text in lines:
        logger.log(level, "%s [%s] %s", facility, "worker#consumer-1", text)


@pytest.mark.parametrize("line", [SESSION, POLL, FENCED, NO_ASSIGNOR, TIMED_OUT, PARTITIONS], ids=lambda line: line[1])
def test_what_people_must_see_comes_through(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hand(KafkaLog({}), line)
    assert [(one.levelno, one.getMessage()) for one in caplog.records] == [
        (line[0], f"Kafka: {line[2].removeprefix('[thrd:main]: ').removeprefix('[thrd:TxnCoordinator]: ')}")
    ]


def test_what_is_said_elsewhere_or_repeats_itself_does_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logger = KafkaLog({})
    hand(logger, REFUSED, SAID_BY_ERROR_CB, IGNORED, DEBUG, (logging.INFO, "NOTICE", "[thrd:main]: something"))
    assert not caplog.records
    hand(logger, SESSION, POLL, SESSION, TIMED_OUT, TIMED_OUT)
    assert len(caplog.records) == 3  # one of a kind within a few seconds


@pytest.mark.parametrize("asked", [{"debug": "cgrp"}, {"debug": "eos", "log_level": 2}])
def test_who_asks_for_debug_lines_sees_them_all(asked: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    hand(KafkaLog(asked), DEBUG, DEBUG, REFUSED)
    assert [one.getMessage() for one in caplog.records] == [
        f"{facility} [worker#consumer-1] {text}" for _, facility, text in (DEBUG, DEBUG, REFUSED)
    ]


def test_of_a_broker_that_is_away_error_cb_tells_once(caplog: pytest.LogCaptureFixture) -> None:
    (port,) = free_ports(1)
    config = {"bootstrap.servers": f"127.0.0.1:{port}", "reconnect.backoff.ms": 10, "reconnect.backoff.max.ms": 10}
    producer = Producer(long_running(config))
    wait_until(lambda: producer.poll(0.1) is not None and "refused" in caplog.text, "the broker is known to be away")
    assert not [one for one in caplog.records if one.name == "layercache.stream.kafka.client_log"]
    assert len([one for one in caplog.records if "refused" in one.getMessage()]) == 1


def test_a_users_log_level_and_debug_stay(caplog: pytest.LogCaptureFixture) -> None:
    assert long_running({})["log_level"] == 5
    config = long_running({"log_level": 7, "debug": "broker", "bootstrap.servers": "127.0.0.1:1"})
    assert (config["log_level"], config["debug"]) == (7, "broker")
    caplog.set_level(logging.INFO)
    producer = Producer(config)
    wait_until(lambda: producer.poll(0.1) is not None and "[thrd:127.0.0.1:1/bootstrap]" in caplog.text, "debug lines")
