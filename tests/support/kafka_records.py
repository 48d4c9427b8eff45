"""Records as a consumer hands them over, without a broker."""

from dataclasses import dataclass
from typing import cast

from confluent_kafka import TIMESTAMP_CREATE_TIME, Message

from layercache.schemas import prediction
from layercache.schemas.dead_letter import Reason
from layercache.schemas.dead_letter import headers as dead_letter_headers
from layercache.schemas.prediction import FULL, Prediction, Ranked, Times

MODEL = "3f9a" * 16


@dataclass
class _Record:
    """What is asked of ``confluent_kafka.Message``."""

    _value: bytes | None
    _key: bytes | None = None
    _headers: list[tuple[str, bytes]] | None = None
    _timestamp_ms: int = 0
    _partition: int = 0
    _offset: int = 0

    def value(self) -> bytes | None:
        return self._value

    def key(self) -> bytes | None:
        return self._key

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        return TIMESTAMP_CREATE_TIME, self._timestamp_ms

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset


def record(
    value: bytes | None,
    key: bytes | None = None,
    headers: list[tuple[str, bytes]] | None = None,
    timestamp_ms: int = 0,
    partition: int = 0,
    offset: int = 0,
) -> Message:
    """A record without an error."""
    return cast(Message, _Record(value, key, headers, timestamp_ms, partition, offset))


def answer(
    offset: int,
    at_ms: int,
    exit_: str = FULL,
    version: str | None = None,
    model: str = MODEL,
    label: int = 0,
    class_name: str = "red",
    audited: bool = False,
    latency_ms: int = 50,
) -> Prediction:
    """The answer to the frame at ``offset`` of partition 0, given at ``at_ms``."""
    return Prediction(
        id=f"frames-0-{offset}", topic="frames", partition=0, offset=offset, label=label, class_name=class_name,
        confidence=0.9, top_k=(Ranked(label, class_name, 0.9),), exit=exit_, audited=audited, heads_version=version,
        model=model, times=Times(at_ms - latency_ms, at_ms, 1.0, 5.0),
    )  # fmt: skip


def answered(*predictions: Prediction) -> list[Message]:
    """As they stand on the predictions topic."""
    return [record(prediction.encoder.encode(one)) for one in predictions]


def dead_letter(
    value: bytes | None, offset: int, at_ms: int, reason: Reason = Reason.CORRUPT, message: str = "it ends too soon"
) -> Message:
    """As it stands on the dead-letter topic."""
    return record(value, b"gate-1", dead_letter_headers(reason, message, "frames", 0, offset), at_ms)
