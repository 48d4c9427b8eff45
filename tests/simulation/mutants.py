"""The project with one cure taken out: the simulation must find each of them, or it proves nothing.

Each mutant is a patch for as long as its block lasts, and has a name that says what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from confluent_kafka import OFFSET_END, Consumer, TopicPartition

from layercache.stream.worker.consuming.consumer import FrameConsumer
from layercache.stream.worker.consuming.positions import PartitionReport, Positions, Start, State
from layercache.stream.worker.delivery.group_membership import GroupMembership
from layercache.stream.worker.delivery.request_watch import RequestWatch
from layercache.stream.worker.delivery.states import Event
from layercache.stream.worker.delivery.transactions import ExactlyOnce
from layercache.stream.worker.delivery.watched_producer import WatchedProducer
from layercache.stream.worker.loop import Worker
from tests.simulation.membership import group_metadata
from tests.simulation.offsets import Offsets
from tests.simulation.schedule import (
    Play,
    anything,
    away,
    carousel,
    late_ends,
    late_joins,
    late_offsets,
    lost_replies,
    rejoin,
    takeover,
)


def no_confirmation() -> AbstractContextManager[Any]:
    """A newly assigned partition is read from where librdkafka lets it begin."""
    assigned = Positions.assigned

    def trusting(self: Positions, partitions: Any) -> None:
        numbers = list(partitions)
        assigned(self, numbers)
        for number in numbers:
            self._partitions[number].state = State.READING

    def as_librdkafka_likes(self: FrameConsumer, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._positions.assigned({one.partition for one in partitions})

    return _both(
        patch.object(Positions, "assigned", trusting), patch.object(FrameConsumer, "_assigned", as_librdkafka_likes)
    )


def assigned_at_the_end() -> AbstractContextManager[Any]:
    """A partition is assigned at its log's end, and left from there before the client knows where that is."""
    return _both(patch("layercache.stream.worker.consuming.consumer.OFFSET_BEGINNING", OFFSET_END), _sent_at_once())


def moves_back_go_unnoticed() -> AbstractContextManager[Any]:
    """A client that goes back to the log's beginning by itself is believed to have been sent there."""
    sieve = Positions.sieve

    def trusting(self: Positions, frames: Any) -> Any:
        for one in frames:
            partition = self._partitions.get(one.partition)
            if partition is not None and partition.state is State.READING:
                partition.next = min(partition.next, one.offset)
        return sieve(self, frames)

    return _both(patch.object(Positions, "sieve", trusting), _sent_at_once())


def _sent_at_once() -> AbstractContextManager[Any]:
    to_seek = Positions.to_seek
    return patch.object(Positions, "to_seek", lambda self, is_late: to_seek(self, is_late=True))


def old_answers_count() -> AbstractContextManager[Any]:
    """An answer to a question from before the last rebalance, or the last rewind, counts."""
    take_answer = Positions.take_answer

    def gullible(self: Positions, number: int, partition: int, report: PartitionReport) -> Start | None:
        return take_answer(self, number + 1_000_000, partition, report)

    return patch.object(Positions, "take_answer", gullible)


def unstable_offsets_are_asked_for() -> AbstractContextManager[Any]:
    """The committed offset is asked for without waiting for the transaction that is open over it."""
    fetch = Offsets.fetch
    return patch.object(Offsets, "fetch", lambda self, positions, stable: fetch(self, positions, False))


def no_rewind() -> AbstractContextManager[Any]:
    """After an abort reading goes on where it was."""

    return patch.object(FrameConsumer, "rewind", lambda self: None)


def producers_are_used_again() -> AbstractContextManager[Any]:
    """A producer is used again although a request of its transaction got no answer."""
    return patch.object(WatchedProducer, "unclean", lambda self: None)


def only_ends_are_watched() -> AbstractContextManager[Any]:
    """Only EndTxn without an answer counts, not what else of a transaction may come late."""
    unanswered = RequestWatch.unanswered

    def ends(self: RequestWatch) -> tuple[str, ...]:
        return tuple(name for name in unanswered(self) if name == "EndTxn")

    return patch.object(RequestWatch, "unanswered", ends)


def undelivered_records_are_forgotten() -> AbstractContextManager[Any]:
    """A producer is used again although an abort has purged a record whose acknowledgement was lost."""

    return patch.object(WatchedProducer, "all_delivered", lambda self: True)


def fenced_workers_come_back() -> AbstractContextManager[Any]:
    """A named worker whose name another has takes it back, whoever that is."""
    return patch.object(ExactlyOnce, "_check_sense", lambda self, failure: None)


def no_member_is_named() -> AbstractContextManager[Any]:
    """Offsets are sent by who is no member any more: brokers take them from anybody who names none (KIP-447)."""

    def hand_in(self: ExactlyOnce) -> tuple[Event, None]:
        send, offsets = self._watched.producer.send_offsets_to_transaction, self._offsets_to_commit()
        self._persist(lambda s: send(offsets, group_metadata("", -1, None), s), "sending offsets", self._time_to_end())
        return Event.DONE, None

    return patch.object(ExactlyOnce, "_hand_in", hand_in)


def joining_again_goes_unnoticed() -> AbstractContextManager[Any]:
    """Frames that were read as a member that was thrown out meanwhile are committed as the member of now."""
    return patch.object(GroupMembership, "may_commit", lambda self, partitions: True)


def skipped_generations_go_unnoticed() -> AbstractContextManager[Any]:
    """A member whose late JoinGroup had its partitions given away in a generation that it never saw commits them."""
    return patch.object(GroupMembership, "_generation_now", lambda self: None)


def static_members_join_anew_at_once() -> AbstractContextManager[Any]:
    """One whose partitions may be another's joins before it is forgotten, and is given the same ones at once."""
    rejoin = FrameConsumer.rejoin
    return patch.object(FrameConsumer, "rejoin", lambda self, must_leave=False: rejoin(self))


def offsets_before_answers() -> AbstractContextManager[Any]:
    """Offsets are committed for frames that were fetched, answered or not."""
    take_in = Worker._take_in

    def hasty(self: Worker, frames: Any) -> None:
        take_in(self, frames)
        for frame in frames:
            self._delivery.answered(frame.topic, frame.partition, frame.offset)

    return patch.object(Worker, "_take_in", hasty)


def lost_partitions_are_committed() -> AbstractContextManager[Any]:
    """What was done before the group threw the worker out is committed by the member that it is now."""

    def keep(self: Worker, partitions: set[int]) -> None:
        self._forget(partitions)

    return _both(
        patch.object(Worker, "lost", keep),
        patch.object(GroupMembership, "may_commit", lambda self, partitions: True),
    )


def revoked_without_commit() -> AbstractContextManager[Any]:
    """Partitions are handed over while what was answered of them is not committed, and committed later."""
    return patch.object(Worker, "revoked", lambda self, partitions, kept: self._forget(partitions))


def frames_in_flight_stay() -> AbstractContextManager[Any]:
    """Frames of partitions that went to another worker are answered here as well."""
    return patch.object(Worker, "_forget", lambda self, partitions: None)


def seeks_are_believed() -> AbstractContextManager[Any]:
    """A seek that failed counts as done."""
    seek = FrameConsumer._seek

    def believing(self: FrameConsumer) -> None:
        wanted = list(self._positions.to_seek())
        seek(self)
        for number in set(wanted) & set(self._positions.to_seek()):
            self._positions.sought(number)

    return patch.object(FrameConsumer, "_seek", believing)


@contextmanager
def _both(one: AbstractContextManager[Any], other: AbstractContextManager[Any]) -> Iterator[None]:
    with one, other:
        yield


@dataclass(frozen=True)
class Mutant:
    """A cure taken out, the theme whose schedules find it, and within how many seeds they must."""

    patch: Callable[[], AbstractContextManager[Any]]
    theme: Play
    within: int
    is_quick: bool = False
    """Found within a second or two."""
    is_rare: bool = False
    """Found after thousands of schedules, half a minute or more; unit tests find it at once."""


MUTANTS = (
    Mutant(no_confirmation, takeover, 1_000, is_quick=True),
    Mutant(unstable_offsets_are_asked_for, takeover, 2_000),
    Mutant(assigned_at_the_end, takeover, 1_000, is_quick=True),
    Mutant(moves_back_go_unnoticed, takeover, 1_000, is_quick=True),
    Mutant(old_answers_count, carousel, 5_000, is_rare=True),
    Mutant(seeks_are_believed, takeover, 300, is_quick=True),
    Mutant(no_rewind, lost_replies, 300, is_quick=True),
    Mutant(producers_are_used_again, late_ends, 600, is_quick=True),
    Mutant(only_ends_are_watched, late_offsets, 2_000),
    Mutant(undelivered_records_are_forgotten, lost_replies, 1_500, is_quick=True),
    Mutant(fenced_workers_come_back, away, 3_000),
    Mutant(no_member_is_named, away, 600, is_quick=True),
    Mutant(joining_again_goes_unnoticed, rejoin, 5_000),
    Mutant(skipped_generations_go_unnoticed, late_joins, 10_000, is_rare=True),
    Mutant(static_members_join_anew_at_once, rejoin, 5_000),
    Mutant(lost_partitions_are_committed, away, 600, is_quick=True),
    Mutant(offsets_before_answers, anything, 300, is_quick=True),
    Mutant(revoked_without_commit, away, 2_000),
    Mutant(frames_in_flight_stay, away, 1_000, is_quick=True),
)
