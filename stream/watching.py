"""What one who watches the topics is shown: dead letters, and what the latest predictions add up to."""

import time
from collections import Counter, deque
from dataclasses import dataclass, field

import msgspec
from confluent_kafka import Message

from layercache.schemas.dead_letter import DeadLetterHeaders
from layercache.schemas.frame import FrameHeaders, default_id
from layercache.schemas.prediction import FULL, Prediction
from layercache.stream.kafka.record_headers import headers_of


def json_line(value: bytes) -> bytes:
    """A JSON document on one line, as it was otherwise."""
    return msgspec.json.format(value, indent=-1)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter without its picture, as ``watch --dead-letters`` shows it."""

    id: str
    topic: str
    partition: int
    offset: int
    reason: str
    message: str


def read_dead_letter(message: Message) -> DeadLetter:
    """From a record of the dead-letter topic. Raises ``msgspec.ValidationError`` where it is none."""
    raw = headers_of(message)
    letter = DeadLetterHeaders.read(raw)
    frame = FrameHeaders.read(raw)
    partition, offset = int(letter.partition), int(letter.offset)
    return DeadLetter(
        id=frame.ce_id or default_id(letter.topic, partition, offset),
        topic=letter.topic,
        partition=partition,
        offset=offset,
        reason=letter.reason,
        message=letter.message,
    )


@dataclass
class Tally:
    """What the predictions seen so far add up to."""

    window: int = 1_000
    """Hit rate over so many latest predictions."""
    rate_s: float = 5.0
    """Predictions per second over so many seconds."""
    total: int = 0
    audited: int = 0
    exits: Counter[str] = field(default_factory=Counter)
    _hits: deque[bool] = field(default_factory=deque)
    _times: deque[float] = field(default_factory=deque)
    _begun: float | None = None

    def add(self, prediction: Prediction, now: float) -> None:
        """Counts one prediction, seen at ``now`` (monotonic seconds)."""
        self.total += 1
        self.audited += prediction.audited
        self.exits[prediction.exit] += 1
        self._hits.append(prediction.exit != FULL)
        if len(self._hits) > self.window:
            self._hits.popleft()
        self._begun = now if self._begun is None else self._begun
        self._times.append(now)
        self._forget(now)

    @property
    def hit_rate(self) -> float:
        """Share of the latest ``window`` predictions, audited ones included, that left at an exit."""
        return sum(self._hits) / len(self._hits) if self._hits else 0.0

    def per_second(self, now: float | None = None) -> float:
        """Predictions per second of late."""
        now = time.monotonic() if now is None else now
        self._forget(now)
        if self._begun is None:
            return 0.0
        span = min(self.rate_s, now - self._begun)
        return len(self._times) / max(span, 1.0)

    def _forget(self, now: float) -> None:
        while self._times and self._times[0] <= now - self.rate_s:
            self._times.popleft()
