"""The worker's consumer: it brings frames, notices rebalances, and goes back to the last commit.

:mod:`layercache.stream.worker.consuming.positions` decides; here are the calls.
"""

import logging
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from layercache.stream.frames.frame import Frame, frames_of
from layercache.stream.kafka.clients import KafkaUnusable
from layercache.stream.kafka.waiting import SYSTEM_CLOCK, Clock, Stuck
from layercache.stream.worker.consuming.committed import Answer, CommittedOffsets, stamp
from layercache.stream.worker.consuming.errors import ConsumerErrors
from layercache.stream.worker.consuming.membership import MemberOptions, RebalanceListener
from layercache.stream.worker.consuming.positions import Positions, Reason, Start
from layercache.stream.worker.metrics import Metrics

log = logging.getLogger(__name__)

#: How often a worker that waits for something else serves its group: a rebalance waits no longer for this member.
_MEMBERSHIP_S = 1.0
#: So many frames that come meanwhile are kept; more are read again.
_MAX_AHEAD = 16
#: How long after a question the consumer puts the next one, and how often it asks for the topic's id.
_ASK_EVERY_S, _TOPIC_EVERY_S = 0.25, 2.0
#: How long a fetch waits while some partition is unconfirmed, so that the consumer takes the broker's answer in soon.
_UNCONFIRMED_S = 0.02
#: How long one seek may take; the next fetch tries it again.
_SEEK_S = 1.0
#: For so long the client may bring nothing of a new partition; then the consumer sends it on all the same.
_OWN_QUESTION_S = 1.0
#: How long after its session the group has surely forgotten a static member.
_FORGOTTEN_S = 1.0


class FrameConsumer:
    """Frames of one topic, as one member of a consumer group.

    ``connect`` makes its client, configured with
    :data:`layercache.stream.worker.consuming.membership.READER`, and another for each :meth:`rejoin`.
    :class:`Positions` says what callers may rely on. No method waits for a transaction to end, or for a broker that is
    away: :meth:`fetch` brings fewer frames meanwhile.
    """

    def __init__(
        self,
        connect: Callable[[], Consumer],
        topic: str,
        offsets: CommittedOffsets,
        metrics: Metrics,
        options: MemberOptions | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._connect = connect
        self._client = connect()
        self._must_rejoin = self._must_leave = False
        #: when to join the group; None where it was done
        self._join_at: float | None = None
        self._topic = topic
        self._listener: RebalanceListener
        self._offsets = offsets
        self._metrics = metrics
        self._options = options or MemberOptions()
        self._clock = clock
        self._polled = clock.now()
        self._positions = Positions(from_end=self._options.from_end)
        #: partitions whose frames were left out: the client fetches no more of them until they are confirmed
        self._paused: set[int] = set()
        self._next_question = self._next_look = self._assigned_at = clock.now()
        #: read by :meth:`keep_membership`, and not yet fetched
        self._ahead: list[Frame] = []
        self._errors = ConsumerErrors(topic, clock.now)

    @property
    def client(self) -> Consumer:
        """The client that is the group's member; another one after :meth:`RebalanceListener.rejoins`."""
        return self._client

    def subscribe(self, listener: RebalanceListener) -> None:
        """Joins the group; the ``listener`` hears of its rebalances."""
        self._listener = listener
        self._client.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)

    def fetch(self, count: int, timeout_s: float) -> list[Frame]:
        """Up to ``count`` frames; waits up to ``timeout_s`` for all of them. Raises :class:`KafkaUnusable`."""
        if self._ahead:
            frames, self._ahead = self._ahead, []
            return frames
        return self._read(count, timeout_s)

    def keep_membership(self) -> float:
        """Shows the group that this member lives, while its work takes long; returns in how many seconds to call again.

        Serves rebalances like :meth:`fetch`. Without it a batch that takes longer than ``max.poll.interval.ms`` would
        lose its partitions, be read again, and never be done. Raises :class:`KafkaUnusable`.
        """
        every_s = min(_MEMBERSHIP_S, self._options.poll_budget_s / 4)  # which leaves the most of the budget to a commit
        left = self._polled + every_s - self._clock.now()
        if left > 0:
            return left
        frames = self._read(1, 0)  # may serve a rebalance, which drops kept frames of partitions that go
        self._ahead += frames
        if len(self._ahead) > _MAX_AHEAD:
            ahead, self._ahead = self._ahead, []
            self._positions.put_back({frame.partition: frame.offset for frame in reversed(ahead)})
        return every_s

    def time_left(self) -> float:
        """For how many seconds a call may block before the group must see this member again."""
        return max(0.0, self._polled + self._options.poll_budget_s - self._clock.now())

    def rewind(self) -> None:
        """Goes back to the last commit: no frame comes before the broker has told where that is.

        Abort the open transaction before this, or replace its producer: the broker tells no offset that may yet change.
        """
        self._ahead.clear()
        self._positions.doubt()
        self._next_question = self._clock.now()

    def rejoin(self, must_leave: bool = False) -> None:
        """Makes the next fetch leave the group, and join it again by another client.

        With ``must_leave`` a static member, which the group keeps for a while, joins only once the group has forgotten
        it.

        *When the topic was made anew.* librdkafka 2.16 remembers each partition's leader epoch beyond the topic's end,
        and the new topic's epochs begin at zero. Where a leader had changed, or its broker had been away, the client
        takes everything about the new leader for outdated, fetches by the old epoch for ever, and gets nothing. No seek
        and no other assignment helps. A client cannot be asked which epochs it remembers.

        *When the group may have given another member what this one keeps.* The other member may still commit, within
        the rebalance in which it hands the partition over, what this one would read in the meantime. A member that left
        is given partitions only when all others have handed over what they must.
        """
        self._must_rejoin = True
        self._must_leave |= must_leave

    def offset_metadata(self, began: int = 0) -> str:
        """The metadata to commit an offset with: they say of which topic it is. ``began`` is a note."""
        return stamp(self._positions.topic_id, began)

    def lags(self) -> dict[int, int]:
        """By partition, how many frames are still to be read, as far as the last fetch told.

        Transaction markers count as long as records may follow them. Partitions are missing while the broker has
        not told yet where they begin.
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
        self._client.close()

    def _read(self, count: int, timeout_s: float) -> list[Frame]:
        self._settle()
        self._polled = self._clock.now()
        unconfirmed = bool(self._positions.unconfirmed())
        messages = self._client.consume(count, min(timeout_s, _UNCONFIRMED_S) if unconfirmed else timeout_s)
        if any(map(Message.error, messages)):
            for message in messages:
                if (error := message.error()) is None:
                    continue
                if error.code() == KafkaError._PARTITION_EOF:
                    self._positions.reached_end(message.partition() or 0, message.offset() or 0)
                else:
                    self._errors.reading_failed(error)
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

    # Where partitions begin: questions, answers, seeks.

    def _settle(self) -> None:
        """Takes in the broker's answers, sends the client where it must go, and asks for what is not known."""
        for answer in self._offsets.answers():
            self._take(answer)
        if self._must_rejoin:
            self._rejoin()
        if self._join_at is not None and self._clock.now() >= self._join_at:
            self._join_at = None
            self.subscribe(self._listener)
        self._seek()
        now = self._clock.now()
        number, partitions = self._positions.question()
        if not self._offsets.is_busy and (now >= self._next_look or (partitions and now >= self._next_question)):
            self._offsets.ask(number, partitions)
            self._next_question, self._next_look = now + _ASK_EVERY_S, now + _TOPIC_EVERY_S
        self._metrics.unconfirmed_partitions.set(len(self._positions.unconfirmed()))

    def _take(self, answer: Answer) -> None:
        if answer.error is not None:
            self._errors.question_failed(self._positions.question()[1], answer.error)
        if answer.topic_id in self._positions.former_ids:
            return
        if answer.topic_id is not None and self._positions.topic_id not in (None, answer.topic_id):
            log.warning(
                "the topic %s was deleted and made anew: what was read of the old one and not committed is forgotten, "
                "and the new one is read from its beginning", self._topic,
            )  # fmt: skip
            self._positions.made_anew(answer.topic_id)
            self.rejoin()
            self._lose(set(self._positions))
        for partition, report in answer.reports.items():
            if (start := self._positions.take_answer(answer.number, partition, report)) is not None:
                self._begin(start)

    def _rejoin(self) -> None:
        self._must_rejoin = False
        self._client.close()  # revokes what is assigned; takes 5 s at most, where the broker freezes now
        self._positions.taken(set(self._positions))
        self._paused.clear()
        self._ahead.clear()
        self._client = self._connect()
        self._listener.rejoins(self._client)
        self._join_at = self._clock.now()
        if self._must_leave and self._options.static_session_s:
            self._join_at += self._options.static_session_s + _FORGOTTEN_S
            log.warning(
                "joining the group again in %.0f s, once it has forgotten this member",
                self._join_at - self._clock.now(),
            )
        self._must_leave = False

    def _begin(self, start: Start) -> None:
        report = start.report
        if start.reason is Reason.NO_COMMIT and self._options.fails_without_commit:
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
                start.partition, "nothing" if report.committed is None else report.committed, report.low, report.end,
                start.offset, start.reason.value,
            )  # fmt: skip
        self._metrics.frames_deleted.inc(start.deleted)
        began = report.began if start.reason is Reason.COMMITTED else 0
        self._listener.begins(start.partition, start.offset, began, start.takes_over)

    def _seek(self) -> None:
        """Sends the client where it must go, as far as it lets itself be sent; the rest at the next call."""
        is_late = self._clock.now() >= self._assigned_at + _OWN_QUESTION_S
        for partition, offset in self._positions.to_seek(is_late).items():
            place = TopicPartition(self._topic, partition, offset)
            try:
                self._clock.call_with_timeout(_SEEK_S, lambda place=place: self._client.seek(place))  # type: ignore[misc]
                if partition in self._paused:
                    self._client.resume([place])
                    self._paused.discard(partition)
            except KafkaException as error:
                self._errors.seek_failed(partition, offset, error.args[0])
            except Stuck:
                return
            else:
                self._positions.sought(partition)

    def _pause(self, partitions: Iterable[int]) -> None:
        """Makes the client fetch no more of what is left out."""
        places = [
            TopicPartition(self._topic, number)
            for number in partitions
            if number in self._positions and number not in self._paused
        ]
        if places:
            self._client.pause(places)
            self._paused |= _numbers(places)

    def _begin_again(self, partitions: Iterable[int]) -> None:
        numbers = {number for number in partitions if number in self._positions}
        log.warning(
            "the offsets of %s begin again on partitions %s, since the topic was made anew or the brokers have lost "
            "records; asking where to go on", self._topic, sorted(numbers),
        )  # fmt: skip
        self._positions.begin_again(numbers)
        self._lose(numbers)

    def _lose(self, partitions: set[int]) -> None:
        self._ahead = [frame for frame in self._ahead if frame.partition not in partitions]
        self._listener.lost(partitions)

    def _look_for_deleted(self, partition: int, expected: int, offset: int) -> None:
        """Offsets are missing where markers are, and where the broker deleted frames before a worker read them."""
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
        """As the last fetch told them; negative where no fetch has."""
        try:
            return self._client.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        except KafkaException:
            return None

    # Rebalances, as librdkafka calls back.

    def _assigned(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = _numbers(partitions)
        # A client that is assigned an offset does not ask for the committed one itself: its question would hold up all
        # other partitions while a transaction over one of them is open, and the client would give the question up at
        # the next rebalance. The offset is never the log's end: the client must ask where that is, too, and may go
        # there after the seek (see Positions.to_seek), past frames that no worker has read. Where it goes to the
        # beginning instead, the consumer notices, since offsets begin again.
        places = [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in sorted(numbers)]
        if self._options.is_incremental:
            client.incremental_assign(places)
        else:
            client.assign(places)
        self._positions.assigned(numbers)
        self._next_question = self._assigned_at = self._clock.now()
        self._count("assigned", numbers)
        self._listener.assigned(numbers, set(self._positions) - numbers)
        log.info("assigned partitions %s; working on %s", sorted(numbers), list(self._positions))

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = _numbers(partitions)
        self._listener.revoked(numbers, set(self._positions) - numbers)
        self._forget(partitions, "revoked")

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._metrics.lost_partitions.inc(len(partitions))
        self._listener.lost(_numbers(partitions))
        self._forget(partitions, "lost")

    def _forget(self, partitions: list[TopicPartition], how: str) -> None:
        numbers = _numbers(partitions)
        if paused := numbers & self._paused:  # or they would still be when they come back
            self._client.resume([TopicPartition(self._topic, number) for number in paused])
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
