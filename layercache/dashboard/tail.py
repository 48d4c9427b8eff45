"""Follows the end of a topic for as long as the dashboard runs, within a budget."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Message

from layercache.dashboard.board import Board
from layercache.dashboard.periodic import Periodic
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import Config, KafkaUnusable, consumer_config
from layercache.stream.kafka.following import TopicFollower
from layercache.stream.kafka.reach import NoAnswer

#: librdkafka requires a group's name; the dashboard never joins this group and never commits.
GROUP = "layercache-dashboard"
#: How long a read waits for records, and so how soon the thread notices that it must stop.
_POLL_S = 0.25
#: How long one attempt waits for a broker, and how long after it the next one comes.
_PATIENCE_S, _AGAIN_S = 3.0, 2.0
#: The reader may be behind by what the budget allows in this time; beyond that it passes over records.
_BEHIND_S = 2.0
_MOST_AT_ONCE = 500


@dataclass(frozen=True)
class Budget:
    """How much of a topic the dashboard reads."""

    records_per_s: float
    bytes_per_s: float
    begin_with: int
    """Records from before the dashboard's start, of all partitions together: reading these may take longer."""


class Tail(Periodic):
    """Reads one topic's committed records from near its end on, in a thread, and hands them to ``take``.

    Joins no group. If more arrives than the budget allows, the reader passes over records that are too far behind and
    calls ``skipped`` with their number. It puts trouble on the board, and reads on once the trouble is over.
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
        self.topic = topic
        self._follower = TopicFollower(settings, [topic], budget.begin_with, tail_config(settings))
        self._budget = budget
        self._board = board
        self._take = take
        self._skipped = skipped
        self._bucket = TokenBucket(budget, time.monotonic())
        self._has_caught_up = False

    def _read(self) -> None:
        """Reads until an error, or until the thread must stop."""
        try:
            # After a topic was deleted and created anew, a client that knew the old one may never read the new one.
            self._follower.open(lambda: self.stopping, _PATIENCE_S)
            self._board.clear("topics", self.topic)
            while not self.stopping:
                self._step()
        except NoAnswer:
            pass  # the thread that asks for the lag reports that no broker answers
        except KafkaUnusable as error:
            self._board.put("topics", self.topic, str(error))
        except Exception as error:
            self._board.put("topics", self.topic, f"reading {self.topic} failed: {error}; trying again")
            raise
        finally:
            self._follower.close()

    def _step(self) -> None:
        now = time.monotonic()
        wait = self._bucket.wait_s(now)
        if wait > 0:
            self.pause(min(wait, _POLL_S))
            self._catch_up()
            return
        asked = min(_MOST_AT_ONCE, self._bucket.records(now))
        records = self._follower.read(asked, _POLL_S)
        self._has_caught_up = self._has_caught_up or len(records) < asked
        if records:
            self._bucket.spend(len(records), sum(map(len, records)), now)
            self._take(records)

    def _catch_up(self) -> None:
        """After the budget is used up: passes over records that are too far behind, to near the end."""
        if not self._bucket.is_time_to_look(time.monotonic()):
            return
        allowed = self._bucket.most_behind(_BEHIND_S) + (0 if self._has_caught_up else self._budget.begin_with)
        most = allowed // max(1, len(self._follower.positions))
        passed, skips = 0, {}
        for partition, (low, end) in self._follower.watermarks().items():
            at = max(low, self._follower.positions[partition])
            if end - at > most:
                skips[partition] = end - most // 2
                passed += skips[partition] - at
        if skips:
            self._follower.seek(skips)
            self._skipped(passed)


class TokenBucket:
    """A token bucket: it fills at the budget's rates, holds one second's worth, and each read takes from it.

    >>> bucket = TokenBucket(Budget(records_per_s=100, bytes_per_s=1e6, begin_with=0), now=0.0)
    >>> bucket.records(now=0.0)
    100
    >>> bucket.spend(150, 3_000, now=0.0)
    >>> round(bucket.wait_s(now=0.0), 3), bucket.wait_s(now=0.6)
    (0.51, 0.0)
    """

    def __init__(self, budget: Budget, now: float) -> None:
        self._budget = budget
        self._records, self._bytes = budget.records_per_s, budget.bytes_per_s
        self._at = now
        self._next_look = now
        self._mean_bytes = 0.0

    def records(self, now: float) -> int:
        """How many records may be read, at least 1: a large record may overdraw the bucket, and the next read waits."""
        self._fill(now)
        return max(1, int(self._records))

    def spend(self, records: int, size: int, now: float) -> None:
        """Takes ``records`` records of ``size`` bytes in all from the bucket."""
        self._fill(now)
        self._records -= records
        self._bytes -= size
        self._mean_bytes = size / records if not self._mean_bytes else 0.9 * self._mean_bytes + 0.1 * size / records

    def wait_s(self, now: float) -> float:
        """How long until another record may be read."""
        self._fill(now)
        records = (1 - self._records) / self._budget.records_per_s
        size = -self._bytes / self._budget.bytes_per_s
        return max(0.0, records, size)

    def most_behind(self, seconds: float) -> int:
        """How many records of the recent mean size the budget allows in so many seconds."""
        by_size = self._budget.bytes_per_s / self._mean_bytes if self._mean_bytes else self._budget.records_per_s
        return max(2, int(seconds * min(self._budget.records_per_s, by_size)))

    def is_time_to_look(self, now: float) -> bool:
        """True once a second: then it is time to ask the broker how far behind the reader is."""
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
    """Configuration of a consumer that reads a little, keeps little in memory, and belongs to no group."""
    own = {
        "auto_offset_reset": "latest",
        "queued_max_messages_kbytes": 8_192,
        "queued_min_messages": 1_000,
        "fetch_message_max_bytes": 1_000_000,  # a larger record is fetched all the same (KIP-74)
        "fetch_max_bytes": 8_000_000,
        "fetch_wait_max_ms": 250,
    }
    return consumer_config(settings, GROUP, **own | overrides)
