"""The worker's consumer: frames in, rebalances noticed, and back to where the last commit was.

What is decided stands in :mod:`layercache.stream.worker.consuming.positions`; here are the calls.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from layercache.stream.frames.frame import Frame, frames_of
from layercache.stream.kafka.clients import (
    REPLACED,
    Config,
    KafkaUnusable,
    describe_error,
    is_hopeless,
    is_kip848,
    is_replaced,
    missing_topics,
    poll_budget_s,
    session_ms,
)
from layercache.stream.kafka.throttle import Throttle
from layercache.stream.kafka.waiting import SYSTEM_CLOCK, Clock, Stuck
from layercache.stream.worker.consuming.committed import Answer, CommittedOffsets, stamp
from layercache.stream.worker.consuming.positions import Positions, Reason, Start
from layercache.stream.worker.metrics import Metrics

log = logging.getLogger(__name__)

#: What an intake needs of its consumer, whatever the user's options say. An offset that is out of range, since the log
#: was cut short or begins again, goes to the log's beginning, where the intake notices it; the end would hide frames.
#: The end of a log is told, since only so much is known of markers that nobody reads.
READER: Config = {"auto.offset.reset": "earliest", "enable.partition.eof": True}

#: The user's choice for partitions without a commit, as librdkafka spells it.
_FROM_END, _FAILS = frozenset({"latest", "largest", "end"}), frozenset({"error", "none"})

#: How often a worker that waits for something else looks what its group wants: rebalances wait no longer for it.
_MEMBERSHIP_S = 1.0
#: Frames that come by such looks and are kept; more are read again.
_MAX_AHEAD = 16
#: How long after a question the next one is put, and after how long the topic's id is asked for.
_ASK_EVERY_S, _TOPIC_EVERY_S = 0.25, 2.0
#: How long a fetch waits while some partition is unconfirmed, so that its answer is taken in soon.
_UNCONFIRMED_S = 0.02
#: How long one seek may take; it is tried again at the next fetch.
_SEEK_S = 1.0
#: The client may bring nothing of a new partition for so long; then it is sent where it must go all the same.
_OWN_QUESTION_S = 1.0


#: How long after its session a static member is surely forgotten.
_FORGOTTEN_S = 1.0


class Owner(Protocol):
    """Who works on the frames, and must know when some are no longer its own. Called within :meth:`Intake.fetch`."""

    def assigned(self, partitions: set[int], kept: set[int]) -> None:
        """These, perhaps none, come to this worker, at the end of a rebalance; the others, ``kept``, it had before."""

    def begins(self, partition: int, offset: int, began: int, takes_over: bool) -> None:
        """Its frames come now, from ``offset`` on; ``began`` as
        :class:`layercache.stream.worker.consuming.positions.Told` has it.

        ``takes_over`` is False where this member has it already, and only went back to the last commit.
        """

    def revoked(self, partitions: set[int], kept: set[int]) -> None:
        """These go to another worker, ``kept`` stay: commit what was done, forget the rest."""

    def lost(self, partitions: set[int]) -> None:
        """Nothing done on these since the last commit may be committed; go back to it by :meth:`Intake.rewind`."""

    def rejoins(self, consumer: Consumer) -> None:
        """This client is the group's member from now on; what the one before had was revoked, and it is closed."""


@dataclass(frozen=True)
class Habits:
    """What the user's options mean to an intake."""

    poll_budget_s: float = float("inf")
    from_end: bool = False
    """Where the group has committed nothing, read what comes from now on."""
    fails_without_commit: bool = False
    static_session_s: float = 0.0
    """After so long without a heartbeat the group has forgotten a static member, which cannot leave (KIP-345)."""
    is_incremental: bool = True
    """Partitions come and go one by one (KIP-429, KIP-848), not all at once."""

    @classmethod
    def of(cls, config: Config) -> "Habits":
        """From a consumer's configuration.

        >>> habits = Habits.of({"auto.offset.reset": "latest", "partition.assignment.strategy": "range"})
        >>> habits.poll_budget_s, habits.from_end, habits.fails_without_commit, habits.is_incremental
        (150.0, True, False, False)
        """
        reset = config.get("auto.offset.reset", "latest")
        return cls(
            poll_budget_s=poll_budget_s(config),
            from_end=reset in _FROM_END,
            fails_without_commit=reset in _FAILS,
            static_session_s=session_ms(config) / 1000 if "group.instance.id" in config else 0.0,
            is_incremental=is_kip848(config) or "cooperative" in str(config.get("partition.assignment.strategy")),
        )


class Intake:
    """Frames of one topic, as one member of a consumer group.

    ``connect`` makes its client, configured with :data:`READER`, and another for each :meth:`rejoin`. What may be
    relied on is told by :class:`Positions`. No method waits for a transaction to end, or for a broker that is away:
    :meth:`fetch` brings fewer frames meanwhile.
    """

    def __init__(
        self,
        connect: Callable[[], Consumer],
        topic: str,
        owner: Owner,
        offsets: CommittedOffsets,
        metrics: Metrics,
        habits: Habits | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._connect = connect
        self._consumer = connect()
        self._must_rejoin = self._must_leave = False
        #: when to join the group; None where it was done
        self._join_at: float | None = None
        self._topic = topic
        self._owner = owner
        self._offsets = offsets
        self._metrics = metrics
        self._habits = habits or Habits()
        self._clock = clock
        self._polled = clock.now()
        self._positions = Positions(from_end=self._habits.from_end)
        #: partitions whose frames were left out: the client fetches no more of them until they are confirmed
        self._paused: set[int] = set()
        self._next_question = self._next_look = self._assigned_at = clock.now()
        #: read while something else was waited for, and not yet fetched
        self._ahead: list[Frame] = []
        self._throttle = Throttle(clock=clock.now)

    @property
    def consumer(self) -> Consumer:
        """The client that is the group's member; another one after :meth:`Owner.rejoins`."""
        return self._consumer

    def subscribe(self) -> None:
        """Joins the group."""
        self._consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def fetch(self, count: int, timeout_s: float) -> list[Frame]:
        """Up to ``count`` frames; waits up to ``timeout_s`` for all of them. Raises :class:`KafkaUnusable`."""
        if self._ahead:
            frames, self._ahead = self._ahead, []
            return frames
        return self._read(count, timeout_s)

    def keep_membership(self) -> float:
        """Shows the group that this member lives, while its work takes long; returns in how many seconds to come again.

        Serves rebalances like :meth:`fetch`. Without it a batch that takes longer than ``max.poll.interval.ms`` would
        lose its partitions, be read again, and never be done. Raises :class:`KafkaUnusable`.
        """
        every_s = min(_MEMBERSHIP_S, self._habits.poll_budget_s / 4)  # which leaves the most of the budget to a commit
        left = self._polled + every_s - self._clock.now()
        if left > 0:
            return left
        frames = self._read(1, 0)  # may serve a rebalance, which forgets frames that are kept
        self._ahead += frames
        if len(self._ahead) > _MAX_AHEAD:
            ahead, self._ahead = self._ahead, []
            self._positions.put_back({frame.partition: frame.offset for frame in reversed(ahead)})
        return every_s

    def time_left(self) -> float:
        """For how many seconds a call may block before the group must see this member again."""
        return max(0.0, self._polled + self._habits.poll_budget_s - self._clock.now())

    def rewind(self) -> None:
        """Goes back to the last commit: no frame comes before the broker has told where that is.

        What was open must have been aborted, or its producer replaced: the broker tells no offset that may yet change.
        """
        self._ahead.clear()
        self._positions.doubt()
        self._next_question = self._clock.now()

    def rejoin(self, must_leave: bool = False) -> None:
        """Has the next fetch leave the group, and join it again by another client.

        With ``must_leave`` a static member, which the group keeps for a while, joins only once it is forgotten.

        *Once the topic was made anew.* librdkafka 2.16 remembers each partition's leader epoch beyond the topic's end,
        and that of the new topic begins at zero. Where a leader had changed, or its broker had been away, the client
        takes all that it is told of the new leader for outdated, fetches by the old epoch for ever, and gets nothing.
        No seek and no other assignment helps. Which epochs a client remembers it cannot be asked.

        *Where another member may have been given what this one keeps.* That one may still commit, within the rebalance
        in which it hands the partition over, what this one would read in the meantime. Who left is given partitions
        only when all others have handed over what they must.
        """
        self._must_rejoin = True
        self._must_leave |= must_leave

    def offset_metadata(self, began: int = 0) -> str:
        """What an offset should be committed with, so that it is never taken for another topic's; ``began``: a note."""
        return stamp(self._positions.topic_id, began)

    def lags(self) -> dict[int, int]:
        """Partition to how many frames are still to be read there, as far as the last fetch told.

        Transaction markers count as long as records may follow them. Partitions whose beginning is not known yet are
        left out.
        """
        ends = {}
        for partition in self._positions:
            low_end = self._watermarks(partition)
            if low_end is not None and low_end[1] >= 0:
                ends[partition] = low_end[1]
        return self._positions.lags(ends)

    def close(self) -> None:
        """Leaves the group."""
        self._offsets.close()
        self._consumer.close()

    def _read(self, count: int, timeout_s: float) -> list[Frame]:
        self._settle()
        self._polled = self._clock.now()
        unconfirmed = bool(self._positions.unconfirmed())
        messages = self._consumer.consume(count, min(timeout_s, _UNCONFIRMED_S) if unconfirmed else timeout_s)
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is not None:
                    self._notice(message, error)
            messages = [message for message in messages if message.error() is None]
        sieved = self._positions.sieve(frames_of(self._topic, messages, self._positions.topic_id or ""))
        for partition, expected, offset in sieved.gaps:
            self._look_for_deleted(partition, expected, offset)
        if sieved.left_out:
            self._pause(sieved.left_out)
        if sieved.begun_again:
            self._begin_again(sieved.begun_again)
        self._polled = self._clock.now()
        if self._positions.unconfirmed():  # perhaps as of now
            self._settle()
        return list(sieved.passed)

    # From doubt to certainty.

    def _settle(self) -> None:
        """Takes in what was told, sends the client where it must go, and asks for what is not known."""
        for answer in self._offsets.answers():
            self._take(answer)
        if self._must_rejoin:
            self._rejoin()
        if self._join_at is not None and self._clock.now() >= self._join_at:
            self._join_at = None
            self.subscribe()
        self._seek()
        now = self._clock.now()
        number, partitions = self._positions.question()
        if not self._offsets.is_busy and (now >= self._next_look or (partitions and now >= self._next_question)):
            self._offsets.ask(number, partitions)
            self._next_question, self._next_look = now + _ASK_EVERY_S, now + _TOPIC_EVERY_S
        self._metrics.unconfirmed_partitions.set(len(self._positions.unconfirmed()))

    def _take(self, answer: Answer) -> None:
        if answer.error is not None:
            self._complain_of_silence(answer.error)
        if answer.topic_id in self._positions.former_ids:
            return
        if answer.topic_id is not None and self._positions.topic_id not in (None, answer.topic_id):
            log.warning(
                "the topic %s was deleted and made anew: what was read of the old one and not committed is forgotten, "
                "and the new one is read from its beginning", self._topic,
            )  # fmt: skip
            self._positions.made_anew(answer.topic_id)
            self.rejoin()
            self._forget_open(set(self._positions))
        for partition, told in answer.told.items():
            if (start := self._positions.told(answer.number, partition, told)) is not None:
                self._begin(start)

    def _rejoin(self) -> None:
        self._must_rejoin = False
        self._consumer.close()  # what is assigned is revoked within; 5 s where the broker freezes now, at most
        self._positions.taken(set(self._positions))
        self._paused.clear()
        self._ahead.clear()
        self._consumer = self._connect()
        self._owner.rejoins(self._consumer)
        self._join_at = self._clock.now()
        if self._must_leave and self._habits.static_session_s:
            self._join_at += self._habits.static_session_s + _FORGOTTEN_S
            log.warning(
                "joining the group again in %.0f s, once it has forgotten this member",
                self._join_at - self._clock.now(),
            )
        self._must_leave = False

    def _begin(self, start: Start) -> None:
        told = start.told
        if start.reason is Reason.NO_COMMIT and self._habits.fails_without_commit:
            raise KafkaUnusable(
                f"the group has committed no offset for partition {start.partition} of {self._topic}, and "
                "auto.offset.reset is not to choose one: commit one (kafka-consumer-groups --reset-offsets), or set it "
                "to earliest or latest"
            )
        is_usual = start.reason in (Reason.COMMITTED, Reason.NO_COMMIT)
        if start.takes_over or not is_usual:
            log.log(
                logging.INFO if is_usual else logging.WARNING,
                "partition %d: committed %s, the log has %d to %d; begins at %s: %s",
                start.partition, "nothing" if told.committed is None else told.committed, told.low, told.end,
                start.offset, start.reason.value,
            )  # fmt: skip
        self._metrics.frames_deleted.inc(start.deleted)
        began = told.began if start.reason is Reason.COMMITTED else 0
        self._owner.begins(start.partition, start.offset, began, start.takes_over)

    def _seek(self) -> None:
        """Sends the client where it must go, as far as it lets itself be sent; the rest at the next call."""
        is_late = self._clock.now() >= self._assigned_at + _OWN_QUESTION_S
        for partition, offset in self._positions.to_seek(is_late).items():
            place = TopicPartition(self._topic, partition, offset)
            try:
                self._clock.call_with_timeout(_SEEK_S, lambda place=place: self._consumer.seek(place))  # type: ignore[misc]
                if partition in self._paused:
                    self._consumer.resume([place])
                    self._paused.discard(partition)
            except KafkaException as error:  # _STATE, most often: it has not begun there yet
                if is_hopeless(error.args[0]):
                    raise KafkaUnusable(f"cannot read {self._topic}: {describe_error(error.args[0])}") from error
                if self._throttle.passes(("seek", error.args[0].code())):
                    log.info("partition %d cannot go to offset %d yet: %s", partition, offset, error.args[0].str())
            except Stuck:
                return
            else:
                self._positions.sought(partition)

    def _pause(self, partitions: Iterable[int]) -> None:
        """Has the client fetch no more of what is left out."""
        places = [
            TopicPartition(self._topic, number)
            for number in partitions
            if number in self._positions and number not in self._paused
        ]
        if places:
            self._consumer.pause(places)
            self._paused |= _numbers(places)

    def _begin_again(self, partitions: Iterable[int]) -> None:
        numbers = {number for number in partitions if number in self._positions}
        log.warning(
            "the offsets of %s begin again on partitions %s, since the topic was made anew or the brokers have lost "
            "records; asking where to go on", self._topic, sorted(numbers),
        )  # fmt: skip
        self._positions.begin_again(numbers)
        self._forget_open(numbers)

    def _forget_open(self, partitions: set[int]) -> None:
        self._ahead = [frame for frame in self._ahead if frame.partition not in partitions]
        self._owner.lost(partitions)

    def _look_for_deleted(self, partition: int, expected: int, offset: int) -> None:
        """Offsets are missing where markers are, and where frames were deleted before they were read."""
        low_end = self._watermarks(partition)
        deleted = min(offset, low_end[0]) - expected if low_end is not None else 0
        if deleted > 0:
            self._metrics.frames_deleted.inc(deleted)
            log.warning(
                "partition %d: offsets %d to %d were deleted before a worker came to them; reading goes on at %d. Let "
                "the topic keep frames for longer (retention.ms, retention.bytes), or add workers",
                partition, expected, expected + deleted - 1, offset,
            )  # fmt: skip

    def _watermarks(self, partition: int) -> tuple[int, int] | None:
        """As the last fetch told them; negative where none has."""
        try:
            return self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        except KafkaException:
            return None

    # What the client says beside frames.

    def _notice(self, message: Message, error: KafkaError) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            self._positions.reached_end(message.partition() or 0, message.offset() or 0)
        else:
            self._complain(error)

    def _complain(self, error: KafkaError) -> None:
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            raise KafkaUnusable(missing_topics([self._topic], "the broker"))
        if is_replaced(error):
            raise KafkaUnusable(f"{REPLACED} ({error.str()})")
        if is_hopeless(error):
            raise KafkaUnusable(f"cannot read {self._topic}: {describe_error(error)}")
        if self._throttle.passes(error.code()):
            log.warning("reading %s: %s; waiting", self._topic, error.str())

    def _complain_of_silence(self, error: KafkaError) -> None:
        """The broker did not tell what it was asked."""
        _, partitions = self._positions.question()
        # A topic that is being made anew is unknown for a moment; one that stays away the client itself complains of.
        if is_hopeless(error) and error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART and partitions:
            raise KafkaUnusable(f"cannot ask where partitions {partitions} begin: {describe_error(error)}")
        if partitions and self._throttle.passes("silence"):
            log.warning(
                "the broker does not tell yet where partitions %s begin (%s); a transaction over their offsets may "
                "still be open, of a worker that was killed; waiting", partitions, error.str(),
            )  # fmt: skip

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = _numbers(partitions)
        # Told where to begin, the client does not ask for the committed offset itself: its question would hold up all
        # other partitions while one's transaction is open, and be given up at the next rebalance. Never at the end:
        # where that is it must ask, too, and may go there after the seek (see Positions.to_seek), past frames that
        # nobody has read. One that goes to the beginning is found out, since offsets begin again.
        places = [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in sorted(numbers)]
        if self._habits.is_incremental:
            consumer.incremental_assign(places)
        else:
            consumer.assign(places)
        self._positions.assigned(numbers)
        self._next_question = self._assigned_at = self._clock.now()
        self._count("assigned", numbers)
        self._owner.assigned(numbers, set(self._positions) - numbers)
        log.info("assigned partitions %s; working on %s", sorted(numbers), list(self._positions))

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = _numbers(partitions)
        self._owner.revoked(numbers, set(self._positions) - numbers)
        self._forget(partitions, "revoked")

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._metrics.lost_partitions.inc(len(partitions))
        self._owner.lost(_numbers(partitions))
        self._forget(partitions, "lost")

    def _forget(self, partitions: list[TopicPartition], how: str) -> None:
        numbers = _numbers(partitions)
        if paused := numbers & self._paused:  # or they would still be when they come back
            self._consumer.resume([TopicPartition(self._topic, number) for number in paused])
            self._paused -= paused
        self._positions.taken(numbers)
        self._ahead = [frame for frame in self._ahead if frame.partition in self._positions]
        self._count(how, numbers)
        if partitions:
            log.info("%s partitions %s; working on %s", how, sorted(numbers), list(self._positions))

    def _count(self, how: str, partitions: set[int]) -> None:
        if partitions:
            self._metrics.rebalances.labels(how).inc()
        self._metrics.partitions.set(len(self._positions))


def _numbers(partitions: Sequence[TopicPartition]) -> set[int]:
    return {partition.partition for partition in partitions}
