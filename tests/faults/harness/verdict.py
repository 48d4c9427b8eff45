"""The outcome of a phase: what its history shows, what holds readers up, and where the group's offsets stand."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import TypeVar

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from layercache.schemas.settings import Settings, Topics
from tests.faults.harness.checks import AT_LEAST_ONCE, EXACTLY_ONCE, IN_WORDS, Finding
from tests.faults.harness.clock import Fault
from tests.faults.harness.fleet import Ended
from tests.faults.harness.history import History
from tests.faults.harness.plan import ENDS_DELAYED, IN_WINDOW, Phase

#: The transaction of a worker that was killed last may be open for its time-out, and a little.
_SETTLES_S = 30.0
_ASK_S = 20.0
_NAMED = 5

Result = TypeVar("Result")


@dataclass(frozen=True)
class Outcome:
    """A phase as it ended."""

    phase: Phase
    made: str
    """The day."""
    seconds: float
    read_to_the_end: bool
    settled: bool
    """Every frame had an answer before the workers were told to stop."""
    frames: int
    predictions: int
    dead_letters: int
    findings: dict[str, Finding]
    """What each of :mod:`.checks` found."""
    faults: list[Fault]
    longest_gap_s: float
    standstill_s: dict[int, float]
    """The longest time without a new answer, of each partition."""
    blocked_partitions: int
    """Partitions whose committed end lies before their end: an open transaction holds readers up."""
    offsets_behind: int
    """Frames that the group has not committed."""
    exit_codes: dict[int, int]
    stubborn: int
    ended: list[Ended]
    versions: int
    exits: dict[str, int]
    commits_seen: int
    """How often the group's committed offsets were asked for and told."""
    publisher_failure: str | None = None
    errors: list[str] = field(default_factory=list)
    """Faults that the harness could not strike."""
    reader_failure: str | None = None
    left_out: list[str] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        return self.phase.delivery == "exactly_once"

    @property
    def must_hold(self) -> tuple[Callable[[History], Finding], ...]:
        """The checks that the phase's kind of delivery promises to pass."""
        return EXACTLY_ONCE if self.is_exact else AT_LEAST_ONCE

    def count(self, check: str) -> int:
        """How often that check found something."""
        return self.findings[check].count

    @property
    def in_window(self) -> int:
        """Workers killed while committing whose heir saw another one join or leave while it waited."""
        return sum(fault.kind in IN_WINDOW and fault.hit for fault in self.faults)

    @property
    def ends_delayed(self) -> int:
        """Commits and aborts held on one connection while others flowed."""
        return sum(fault.kind in ENDS_DELAYED and fault.hit for fault in self.faults)

    @property
    def longest_standstill_s(self) -> float:
        """Of any partition."""
        return max(self.standstill_s.values(), default=0.0)

    def failures(self) -> list[str]:
        """What should not have been, in words; nothing where all is well."""
        limit = self.phase.standstill_s
        found: dict[str, object] = {
            f"a partition stood still for {self.longest_standstill_s:.1f} s, {limit} s at most were wanted": limit
            is not None
            and self.longest_standstill_s > limit,
            f"open transactions hold up readers of {self.blocked_partitions} partitions": self.blocked_partitions,
            f"the group's offsets are {self.offsets_behind} frames behind": self.offsets_behind,
            f"{self.stubborn} workers did not end on SIGTERM": self.stubborn,
            f"workers crashed: {self.crashes()}": self.crashes(),
            f"not recovered from: {self.unrecovered()}": self.unrecovered(),
            f"faults could not be struck: {self.errors}": self.errors,
            "the answers could not be read to the end": not self.read_to_the_end,
            "answers stopped coming before the last frame": not self.settled,
            f"the publisher failed: {self.publisher_failure}": self.publisher_failure,
            f"the live reader failed: {self.reader_failure}": self.reader_failure,
        }
        shown = {check.__name__: self.findings[check.__name__] for check in self.must_hold}
        return [
            *(_in_words(name, finding) for name, finding in shown.items() if finding.count),
            *(text for text, is_so in found.items() if is_so),
        ]

    def crashes(self) -> list[str]:
        """Workers that ended by themselves otherwise than by saying why and exit code 1."""
        return [f"{one.worker}: {one.code}: {one.said}" for one in self.ended if not one.is_clean]

    def unrecovered(self) -> list[str]:
        """Faults after which a partition never had an answer again."""
        return [f"{fault.number} {fault.kind}" for fault in self.faults if fault.recovery_s is None]


def _in_words(check: str, finding: Finding) -> str:
    """``3 frames were lost: frame 7 (1@3); …``."""
    more = "; …" if finding.count > _NAMED else ""
    return f"{finding.count} {IN_WORDS[check]}: {'; '.join(finding.shown[:_NAMED])}{more}"


def open_transactions(servers: str, topics: Topics) -> int:
    """Partitions of what workers write whose last stable offset is behind their end, once that no longer changes."""
    deadline = time.monotonic() + _SETTLES_S
    while True:
        blocked = sum(
            committed < end
            for topic in (topics.predictions, topics.dead_letters, topics.distillation)
            for committed, end in zip(
                _ends(servers, topic, IsolationLevel.READ_COMMITTED),
                _ends(servers, topic, IsolationLevel.READ_UNCOMMITTED),
                strict=True,
            )
        )
        if not blocked or time.monotonic() > deadline:
            return blocked
        time.sleep(0.2)


def offsets_behind(servers: str, settings: Settings) -> int:
    """How many frames the group has not committed."""
    topic = settings.topics.frames
    ends = _ends(servers, topic, IsolationLevel.READ_UNCOMMITTED)
    config = {"bootstrap.servers": servers, "group.id": settings.worker.group_id, "log_level": 0}
    with closing(Consumer(config)) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(len(ends))]
        committed = _insisting(lambda: consumer.committed(partitions, _ASK_S))
    return sum(end - max(0, one.offset) for end, one in zip(ends, committed, strict=True))


def _ends(servers: str, topic: str, isolation: IsolationLevel) -> list[int]:
    client = AdminClient({"bootstrap.servers": servers, "log_level": 0})

    def ask() -> list[int]:
        numbers = sorted(client.list_topics(topic, timeout=_ASK_S).topics[topic].partitions)
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in numbers}  # type: ignore[no-untyped-call]
        found = client.list_offsets(asked, isolation_level=isolation, request_timeout=_ASK_S)
        return [found[partition].result().offset for partition in asked]

    return _insisting(ask)


def _insisting(ask: Callable[[], Result]) -> Result:
    """Asks again where a coordinator or a leader is just moving."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return ask()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
        time.sleep(0.2)
