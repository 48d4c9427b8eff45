"""The end of a topic, followed for as long as the dashboard runs, within a budget."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from layercache.dashboard.board import Board
from layercache.dashboard.periodic import Periodic
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import (
    Config,
    KafkaUnusable,
    Troubles,
    consumer_config,
    describe_error,
    is_hopeless,
)
from layercache.stream.kafka.reach import connect, no_answer, partitions_of

#: librdkafka asks for a group's name; this one is never joined, and nothing is ever committed.
GROUP = "layercache-dashboard"
#: How long a look waits for records, and so how soon it notices that it shall stop.
_POLL_S = 0.25
_REQUEST_S = 3.0
#: What could not be read is tried again so often; partitions may have been added meanwhile, so that is looked at, too.
_AGAIN_S, _PARTITIONS_EVERY_S = 2.0, 30.0
#: How much of what a budget allows for this time may be behind: beyond that, records are passed over.
_BEHIND_S = 2.0
_MOST_AT_ONCE = 500


@dataclass(frozen=True)
class Budget:
    """How much of a topic is read."""

    records_per_s: float
    bytes_per_s: float
    begin_with: int
    """Records from before the dashboard was started, of all partitions together: these may take their time."""


class Tail(Periodic):
    """Reads one topic's committed records from near its end on, in a thread, and hands them to ``take``.

    Joins no group. Where more comes than the budget allows, what is too far behind is passed over: ``skipped`` hears
    how many records that were. Trouble is put on the board; reading goes on once it is over.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        budget: Budget,
        board: Board,
        take: Callable[[Sequence[Message]], None],
        skipped: Callable[[int], None] = lambda count: None,
    ) -> None:
        super().__init__(topic, _AGAIN_S, self._read)
        self._settings = settings
        self.topic = topic
        self._budget = budget
        self._board = board
        self._take = take
        self._skipped = skipped
        self._troubles = Troubles()
        self._next: dict[int, int] = {}
        """By partition: what comes next."""
        self._allowance = Allowance(budget, time.monotonic())
        self._look_again = 0.0
        self._has_caught_up = False

    def _read(self) -> None:
        """For as long as it goes well."""
        try:
            self._follow()
        except KafkaUnusable as error:
            self._board.put("topics", self.topic, str(error))
        except KafkaException:
            pass  # no broker answers: who asks for the lag says so
        except Exception as error:
            self._board.put("topics", self.topic, f"reading {self.topic} failed: {error}; trying again")
            raise

    def _follow(self) -> None:
        consumer = connect(Consumer, tail_config(self._settings), self._troubles)
        try:
            self._assign(consumer, fresh=True)
            while not self.stopping:
                if time.monotonic() >= self._look_again:
                    self._assign(consumer, fresh=False)
                self._step(consumer)
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer, fresh: bool) -> None:
        """All partitions; those that were read before go on where they were."""
        self._look_again = time.monotonic() + _PARTITIONS_EVERY_S
        try:
            metadata = consumer.list_topics(self.topic, timeout=_REQUEST_S)
            numbers = partitions_of(metadata, self.topic, self._settings)
        except KafkaException as error:
            consumer.poll(0)  # lets error_cb speak
            if self._troubles.latest is not None and is_hopeless(self._troubles.latest):
                raise KafkaUnusable(no_answer(self._settings, self._troubles)) from error
            if fresh:
                raise
            return
        if not fresh and set(numbers) == set(self._next):
            return
        each = -(-self._budget.begin_with // len(numbers))
        for number in numbers:
            if fresh or number not in self._next:
                low, high = watermarks(consumer, self.topic, number)
                goes_on = self._next.get(number, -1)
                # A topic that was made anew ends before the place where the old one was left.
                self._next[number] = goes_on if low <= goes_on <= high else max(low, high - each)
        self._assign_all(consumer)
        self._board.clear("topics", self.topic)

    def _assign_all(self, consumer: Consumer) -> None:
        consumer.assign([TopicPartition(self.topic, number, offset) for number, offset in self._next.items()])

    def _step(self, consumer: Consumer) -> None:
        now = time.monotonic()
        wait = self._allowance.wait_s(now)
        if wait > 0:
            self.pause(min(wait, _POLL_S))
            self._catch_up(consumer)
            return
        asked = min(_MOST_AT_ONCE, self._allowance.records(now))
        messages = consumer.consume(asked, _POLL_S)
        self._has_caught_up = self._has_caught_up or len(messages) < asked
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._complain(error)
            messages = [message for message in messages if message.error() is None]
        if not messages:
            return
        for message in messages:
            self._next[message.partition() or 0] = (message.offset() or 0) + 1
        self._allowance.spend(len(messages), sum(map(len, messages)), now)
        self._take(messages)

    def _catch_up(self, consumer: Consumer) -> None:
        """The budget is used up: what is too far behind is passed over, to near the end."""
        if not self._allowance.may_look(time.monotonic()):
            return
        allowed = self._allowance.most_behind(_BEHIND_S) + (0 if self._has_caught_up else self._budget.begin_with)
        most = allowed // max(1, len(self._next))
        passed = 0
        for partition, at in list(self._next.items()):
            _, high = watermarks(consumer, self.topic, partition)
            if high - at > most:
                self._next[partition] = high - most // 2
                passed += self._next[partition] - at
        if passed:
            self._assign_all(consumer)
            self._skipped(passed)

    def _complain(self, error: KafkaError) -> None:
        # No group is joined, and yet the client asks for its coordinator; who may not is still shown records.
        if is_hopeless(error) and error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise KafkaUnusable(f"{self.topic} cannot be read: {describe_error(error)}")


class Allowance:
    """What may be read now: as much as the budget lets come together in a second, less what was read.

    >>> allowance = Allowance(Budget(records_per_s=100, bytes_per_s=1e6, begin_with=0), now=0.0)
    >>> allowance.records(now=0.0)
    100
    >>> allowance.spend(150, 3_000, now=0.0)
    >>> round(allowance.wait_s(now=0.0), 3), allowance.wait_s(now=0.6)
    (0.51, 0.0)
    """

    def __init__(self, budget: Budget, now: float) -> None:
        self._budget = budget
        self._records, self._bytes = budget.records_per_s, budget.bytes_per_s
        self._at = now
        self._next_look = now
        self._mean_bytes = 0.0

    def records(self, now: float) -> int:
        """How many may be read, 1 at least: a large one may overdraw, and is waited for afterwards."""
        self._fill(now)
        return max(1, int(self._records))

    def spend(self, records: int, size: int, now: float) -> None:
        """So many were read, of ``size`` bytes."""
        self._fill(now)
        self._records -= records
        self._bytes -= size
        self._mean_bytes = size / records if not self._mean_bytes else 0.9 * self._mean_bytes + 0.1 * size / records

    def wait_s(self, now: float) -> float:
        """How long until another may be read."""
        self._fill(now)
        records = (1 - self._records) / self._budget.records_per_s
        size = -self._bytes / self._budget.bytes_per_s
        return max(0.0, records, size)

    def most_behind(self, seconds: float) -> int:
        """How many records the budget allows for in so many seconds, of the size of late."""
        by_size = self._budget.bytes_per_s / self._mean_bytes if self._mean_bytes else self._budget.records_per_s
        return max(2, int(seconds * min(self._budget.records_per_s, by_size)))

    def may_look(self, now: float) -> bool:
        """Whether it is time to ask how far behind one is: once a second."""
        if now < self._next_look:
            return False
        self._next_look = now + 1.0
        return True

    def _fill(self, now: float) -> None:
        passed, self._at = max(0.0, now - self._at), max(now, self._at)
        budget = self._budget
        self._records = min(budget.records_per_s, self._records + passed * budget.records_per_s)
        self._bytes = min(budget.bytes_per_s, self._bytes + passed * budget.bytes_per_s)


def tail_config(settings: Settings, **overrides: Any) -> Config:
    """Of a consumer that reads a little, holds little in memory, and belongs to no group."""
    own = {
        "auto_offset_reset": "latest",
        "queued_max_messages_kbytes": 8_192,
        "queued_min_messages": 1_000,
        "fetch_message_max_bytes": 1_000_000,  # a larger record is fetched all the same (KIP-74)
        "fetch_max_bytes": 8_000_000,
        "fetch_wait_max_ms": 250,
    }
    return consumer_config(settings, GROUP, **own | overrides)


def watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    """The first offset that is there, and the one after the last. Raises ``KafkaException``."""
    found = consumer.get_watermark_offsets(TopicPartition(topic, partition), _REQUEST_S)
    if found is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
    return found
