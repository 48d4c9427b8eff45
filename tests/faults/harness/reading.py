"""Reading answers: predictions and dead letters of committed transactions, into a ledger."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition

from schemas import dead_letter
from schemas.frame import CE_ID
from schemas.settings import Topics
from tests.faults.harness.clock import Recovery
from tests.faults.harness.ledger import DEAD_LETTER, Ledger

_BATCH = 5_000


class _Times(msgspec.Struct):
    predicted_ms: int


class _Answer(msgspec.Struct):
    """What the harness looks at in a prediction."""

    id: str
    label: int
    offset: int
    exit: str
    heads_version: str | None
    times: _Times


_decoder = msgspec.json.Decoder(_Answer)


class Reader:
    """Reads both topics from their beginning; no group, so that no rebalance makes it begin anew."""

    def __init__(self, servers: str, topics: Topics, ledger: Ledger, isolation: str = "read_committed") -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": servers,
                "group.id": "none",
                "isolation.level": isolation,
                "enable.auto.commit": False,
                "fetch.queue.backoff.ms": 2,
                "fetch.wait.max.ms": 50,
                "enable.partition.eof": True,
                "log_level": 0,
                "error_cb": lambda _: None,
            }
        )
        self._topics = topics
        self._ledger = ledger
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
        predictions: list[tuple[int, int, int, int]] = []
        letters: list[tuple[int, int, int, int]] = []
        for message in self._consumer.consume(_BATCH, seconds):
            where = (str(message.topic()), int(message.partition() or 0))
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    self._at_end.add(where)
                continue  # whatever else it is, the records stay where they are, and the verdict needs them all
            self._at_end.discard(where)
            if where[0] == self._topics.predictions:
                answer = _decoder.decode(message.value() or b"")
                predictions.append((int(answer.id), answer.label, message.offset() or 0, answer.offset))
                answers[where[1]] = max(answers.get(where[1], 0), answer.times.predicted_ms)
                self.versions[answer.heads_version] += 1
                self.exits[answer.exit] += 1
            else:
                letters.append(_letter(message))
        for rows in (predictions, letters):
            if rows:
                self._ledger.take(*_columns(rows))
        return answers

    @property
    def at_end(self) -> bool:
        """True while every partition has been read to its end: the last stable offset, for ``read_committed``."""
        return len(self._at_end) == len(self.partitions)

    def close(self) -> None:
        self._consumer.close()


class LiveReader(threading.Thread):
    """Reads along while the faults strike, and tells ``recovery`` what it hears."""

    def __init__(self, servers: str, topics: Topics, recovery: Recovery) -> None:
        super().__init__(name="reader", daemon=True)
        self.ledger = Ledger()
        self._reader = Reader(servers, topics, self.ledger)
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


def read_all(servers: str, topics: Topics, gave_up: Callable[[], bool]) -> tuple[Ledger, Reader]:
    """Everything committed, read by a new reader from the beginning to the end."""
    ledger = Ledger()
    reader = Reader(servers, topics, ledger)
    with closing(reader):
        while not reader.at_end and not gave_up():
            reader.read(1.0)
    return ledger, reader


def _letter(message: Message) -> tuple[int, int, int, int]:
    headers = dict(message.headers() or [])
    number, offset = headers[CE_ID], headers[dead_letter.OFFSET]
    assert number is not None
    assert offset is not None
    return int(number), DEAD_LETTER, message.offset() or 0, int(offset)


def _columns(rows: Sequence[tuple[int, int, int, int]]) -> tuple[list[int], list[int], list[int], list[int]]:
    numbers, labels, places, sources = (list(column) for column in zip(*rows, strict=True))
    return numbers, labels, places, sources
