"""Reading answers: predictions and dead letters of committed transactions, into a recording."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import cast

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from layercache.schemas import dead_letter
from layercache.schemas.frame import CE_ID
from layercache.schemas.settings import Topics
from tests.faults.harness.clock import Recovery, wall_ms
from tests.faults.harness.entry import LIFE_HEADER
from tests.faults.harness.history import DEAD_LETTER, PREDICTION, UNKNOWN, Recording

_BATCH = 5_000


class _Times(msgspec.Struct):
    predicted_ms: int


class _Answer(msgspec.Struct):
    """What the harness looks at in a prediction."""

    id: str
    label: int
    partition: int
    offset: int
    exit: str
    heads_version: str | None
    times: _Times


_decoder = msgspec.json.Decoder(_Answer)

Row = tuple[int, ...]


class Reader:
    """Reads both topics from their beginning; no group, so that no rebalance makes it begin anew.

    ``number_at`` tells the number of a frame that no answer can name, from its partition and offset.
    """

    def __init__(
        self, servers: str, topics: Topics, recording: Recording, number_at: Callable[[int, int], int]
    ) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "none",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 2,
                "fetch.wait.max.ms": 50,
                "enable.partition.eof": True,
                "log_level": 0,
                "error_cb": lambda _: None,
            }
        )
        self._topics = topics
        self._recording = recording
        self._number_at = number_at
        self._nameless: list[Row] = []
        self.versions: Counter[str | None] = Counter()
        self.exits: Counter[str] = Counter()
        known = self._consumer.list_topics(timeout=30).topics
        self.partitions = [
            TopicPartition(topic, number, OFFSET_BEGINNING)
            for topic in (topics.predictions, topics.dead_letters)
            for number in known[topic].partitions
        ]
        self._consumer.assign(self.partitions)
        self._at_end: set[tuple[str, int]] = set()

    def read(self, seconds: float) -> dict[int, int]:
        """Takes in what is there; returns, for partitions with new predictions, when the newest was computed (ms)."""
        answers: dict[int, int] = {}
        rows: list[Row] = []
        messages = self._consumer.consume(_BATCH, seconds)
        now = wall_ms()
        for message in messages:
            where = (str(message.topic()), int(message.partition() or 0))
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._at_end.add(where)
                continue  # whatever else it is, the records stay where they are, and the verdict needs them all
            self._at_end.discard(where)
            if where[0] == self._topics.predictions:
                answer = _decoder.decode(message.value() or b"")
                answers[where[1]] = max(answers.get(where[1], 0), answer.times.predicted_ms)
                self.versions[answer.heads_version] += 1
                self.exits[answer.exit] += 1
                rows.append(self._prediction(message, answer, now))
            else:
                rows.append(self._letter(message, now))
        self._recording.take(self._named(rows))
        return answers

    @property
    def at_end(self) -> bool:
        """True while every partition has been read to its end: the last stable offset, for ``read_committed``."""
        return len(self._at_end) == len(self.partitions)

    def close(self) -> None:
        """Takes in what never got a name, too."""
        self._recording.take(self._nameless)
        self._consumer.close()

    def _prediction(self, message: Message, answer: _Answer, now: int) -> Row:
        return (
            _number(answer.id.encode()), PREDICTION, answer.label, self._life(_headers(message)),
            message.partition() or 0, message.offset() or 0, answer.partition, answer.offset,
            answer.times.predicted_ms, now,
        )  # fmt: skip

    def _letter(self, message: Message, now: int) -> Row:
        headers = _headers(message)
        partition, offset = headers[dead_letter.PARTITION], headers[dead_letter.OFFSET]
        assert partition is not None
        assert offset is not None
        return (
            _number(headers.get(CE_ID) or b""), DEAD_LETTER, UNKNOWN, self._life(headers), message.partition() or 0,
            message.offset() or 0, int(partition), int(offset), 0, now,
        )  # fmt: skip

    def _life(self, headers: dict[str, bytes | None]) -> int:
        return self._recording.life((headers.get(LIFE_HEADER) or b"nobody").decode())

    def _named(self, rows: list[Row]) -> list[Row]:
        """Those whose frame is known; an answer may be here before the publisher has heard where its frame stands."""
        rows, self._nameless = self._nameless + rows, []
        named: list[Row] = []
        for row in rows:
            number = row[0] if row[0] != UNKNOWN else self._number_at(row[6], row[7])
            (named if number != UNKNOWN else self._nameless).append((number, *row[1:]))
        return named


class LiveReader(threading.Thread):
    """Reads along while the faults strike, and tells ``recovery`` what it hears."""

    def __init__(
        self,
        servers: str,
        topics: Topics,
        recovery: Recovery,
        recording: Recording,
        number_at: Callable[[int, int], int],
    ) -> None:
        super().__init__(name="reader", daemon=True)
        self.recording = recording
        self._reader = Reader(servers, topics, recording, number_at)
        self._recovery = recovery
        self._stopping = threading.Event()
        self.failure: Exception | None = None

    @property
    def versions(self) -> Counter[str | None]:
        """How many predictions named each version of heads."""
        return self._reader.versions

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._recovery.heard(self._reader.read(0.05).items())
        except Exception as error:
            self.failure = error
        finally:
            self._reader.close()

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)


def read_all(reader: Reader, seconds: float) -> bool:
    """Everything committed, from the beginning to the end; False where that takes longer."""
    deadline = time.monotonic() + seconds
    with closing(reader):
        while not reader.at_end and time.monotonic() < deadline:
            reader.read(1.0)
        return reader.at_end


def _headers(message: Message) -> dict[str, bytes | None]:
    found = cast(Sequence[tuple[str, bytes | None]], message.headers() or ())  # never the dictionary that one may give
    return dict(found)


def _number(frame_id: bytes) -> int:
    return int(frame_id) if frame_id.isdigit() else UNKNOWN
