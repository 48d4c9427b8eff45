"""What watching adds up to, and what it makes of records."""

from typing import Any

import msgspec
import pytest

from layercache.schemas import prediction
from layercache.schemas.dead_letter import Reason, headers
from layercache.schemas.prediction import FULL, Prediction
from layercache.stream.watching import DeadLetter, Tally, json_line, read_dead_letter
from tests.schemas.test_published import PREDICTION


def answered(exit_name: str, audited: bool = False) -> Prediction:
    return msgspec.structs.replace(PREDICTION, exit=exit_name, audited=audited)


def test_hit_rate_counts_every_frame_that_left_early_over_all() -> None:
    tally = Tally()
    for name, audited in [("a", False), ("a", False), ("b", False), (FULL, False), (FULL, True)]:
        tally.add(answered(name, audited), now=0.0)
    assert tally.hit_rate == pytest.approx(3 / 5)
    assert (tally.total, tally.audited) == (5, 1)
    assert tally.exits == {"a": 2, "b": 1, FULL: 2}


def test_hit_rate_is_that_of_the_latest() -> None:
    tally = Tally(window=4)
    for name in [FULL] * 100 + ["a"] * 3:
        tally.add(answered(name), now=0.0)
    assert tally.hit_rate == 0.75
    assert tally.total == 103


def test_rate_is_that_of_the_last_seconds() -> None:
    tally = Tally(rate_s=5.0)
    for number in range(200):
        tally.add(answered(FULL), now=number * 0.05)
    assert tally.per_second(now=10.0) == pytest.approx(20.0, rel=0.02)
    assert tally.per_second(now=12.5) == pytest.approx(10.0, rel=0.04)
    assert tally.per_second(now=100.0) == 0.0


def test_nothing_seen_is_nothing() -> None:
    assert (Tally().hit_rate, Tally().per_second(now=1.0)) == (0.0, 0.0)


def test_the_first_moment_does_not_show_a_rate_that_nobody_had() -> None:
    tally = Tally()
    tally.add(answered(FULL), now=7.0)
    assert tally.per_second(now=7.001) == 1.0


def test_memory_of_a_tally_is_bounded() -> None:
    tally = Tally(window=10, rate_s=1.0)
    for number in range(1_000):
        tally.add(answered(FULL), now=number * 0.1)
    assert len(tally._hits) == 10
    assert len(tally._times) <= 11


def test_a_json_line_is_the_document_on_one_line() -> None:
    value = prediction.encoder.encode(PREDICTION)
    spread = msgspec.json.format(value, indent=2)
    assert b"\n" in spread
    assert b"\n" not in json_line(spread)
    assert prediction.decoder.decode(json_line(spread)) == PREDICTION


def test_a_json_line_keeps_fields_that_a_later_version_adds() -> None:
    assert msgspec.json.decode(json_line(b'{"id": "a",\n "later": [1, 2]}')) == {"id": "a", "later": [1, 2]}


class Record:
    """A consumed record's headers."""

    def __init__(self, raw: list[tuple[str, bytes | None]] | None) -> None:
        self._raw = raw

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self._raw


@pytest.mark.parametrize(("own", "name"), [([("ce_id", b"cat.jpg")], "cat.jpg"), ([], "frames-3-17")])
def test_a_dead_letter_is_called_as_its_frame_was(own: list[Any], name: str) -> None:
    record: Any = Record(own + headers(Reason.CORRUPT, "ends early", "frames", 3, 17))
    assert read_dead_letter(record) == DeadLetter(
        id=name, topic="frames", partition=3, offset=17, reason="corrupt", message="ends early"
    )


@pytest.mark.parametrize("raw", [None, [], [("layercache-reason", b"corrupt")]])
def test_a_record_that_is_no_dead_letter_is_refused(raw: list[tuple[str, bytes | None]] | None) -> None:
    record: Any = Record(raw)
    with pytest.raises(msgspec.ValidationError):
        read_dead_letter(record)
