"""What librdkafka's log tells of a producer's requests, in its own words."""

import logging

import pytest

from layercache.stream.kafka.clients import long_running
from layercache.stream.worker.delivery.request_watch import RequestWatch

PEER = "[thrd:TxnCoordinator]: TxnCoordinator/1: "


def hear(watch: RequestWatch, *lines: tuple[str, str]) -> None:
    for facility, text in lines:
        watch.log(logging.DEBUG, "%s [%s] %s", facility, "layercache#producer-1", PEER + text)


def sent(name: str) -> tuple[str, str]:
    return "SEND", f"Sent {name}Request (v1, 43 bytes @ 0, CorrId 5)"


def received(name: str) -> tuple[str, str]:
    return "RECV", f"Received {name}Response (v1, 6 bytes, CorrId 5, rtt 0.04ms)"


def test_a_request_is_unanswered_until_its_answer_came() -> None:
    watch = RequestWatch()
    hear(watch, sent("EndTxn"))
    assert watch.unanswered() == ("EndTxn",)
    hear(watch, received("EndTxn"))
    assert watch.unanswered() == ()


def test_a_repeated_request_leaves_one_without_an_answer() -> None:
    watch = RequestWatch()
    hear(watch, sent("TxnOffsetCommit"), sent("TxnOffsetCommit"), received("TxnOffsetCommit"))
    assert watch.unanswered() == ("TxnOffsetCommit",)


def test_an_answer_to_one_kind_is_none_to_another() -> None:
    watch = RequestWatch()
    hear(watch, sent("EndTxn"), received("AddOffsetsToTxn"))
    assert watch.unanswered() == ("EndTxn",)


def test_half_a_request_is_none() -> None:
    """Brokers act on whole ones."""
    watch = RequestWatch()
    hear(watch, ("SEND", "Sent partial EndTxnRequest (v1, 0+20/43 bytes, CorrId 5)"))
    assert watch.unanswered() == ()


def test_records_are_numbered_and_may_be_late() -> None:
    watch = RequestWatch()
    hear(watch, sent("Produce"), sent("Metadata"))
    assert watch.unanswered() == ()


def test_nothing_is_known_from_words_that_nobody_knows() -> None:
    watch = RequestWatch()
    hear(watch, ("SEND", "Request InitProducerId v4 is out"), ("RECV", "Reply InitProducerId v4 is in"))
    assert not watch.hears()
    hear(watch, sent("InitProducerId"), received("InitProducerId"))
    assert watch.hears()


@pytest.mark.parametrize(("users", "debug"), [({}, "protocol"), ({"debug": "broker"}, "broker,protocol")])
def test_people_see_what_they_asked_to_see(
    users: dict[str, object], debug: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watch = RequestWatch()
    assert watch.options(long_running(users))["debug"] == debug
    warning = (logging.WARNING, "REQTMOUT", "a request timed out")
    others = [(logging.ERROR, "FAIL", "cannot connect"), (logging.DEBUG, "SEND", "Sent EndTxnRequest (v1, 43 bytes)")]
    for level, facility, text in (warning, *others):
        watch.log(level, "%s [%s] %s", facility, "layercache#producer-1", text)
    if users:
        assert [one.getMessage().split("] ")[-1] for one in caplog.records] == [
            warning[2],
            *(text for *_, text in others),
        ]
    else:
        assert caplog.messages == ["Kafka: a request timed out"]
