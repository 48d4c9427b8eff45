"""Where each partition is read: a pure core that says what to ask, where to seek, and which frames to pass on.

The worker reads an assigned partition only once it knows the group's *stable* committed offset and has sent the client
there. librdkafka asks for that offset, too; but where a transaction is open over it, librdkafka gives the question up
at the next change of the assignment, and begins where ``auto.offset.reset`` says. The worker never takes that guess
(docs/exactly-once.md). To go back to the last commit, it asks the same question again. No I/O, no clock, no thread.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from layercache.stream.frames.frame import Frame

#: So many answers in a row must say that a log ends before its committed offset before the worker believes it: just
#: after a change of leaders a broker may know less than it did.
BELIEVED_AFTER = 40


class State(Enum):
    """The state of an assigned partition; all others are *unassigned*."""

    ASKING = auto()
    """Unconfirmed: the broker has not told yet where it begins. Its frames are left out."""
    SEEKING = auto()
    """Where it begins is known, and the client is not there yet. Its frames are left out."""
    READING = auto()
    """Confirmed. Its frames are passed on."""


class Event(Enum):
    """What can happen to an assigned partition, apart from its being taken away."""

    DOUBTED = auto()
    """It was just assigned, or its frames since the last commit must be read again, or its log began again."""
    ANSWERED = auto()
    """The broker answered a question that was asked after the last doubt."""
    PUT_BACK = auto()
    """Frames that were passed on shall come again."""
    SOUGHT = auto()
    """The client stands where it was sent."""


#: Every transition. Frames pass in READING alone; into READING leads only SOUGHT, which only SEEKING knows; into
#: SEEKING lead only an answer to a question that is younger than the doubt, and READING itself.
TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.ASKING, Event.DOUBTED): State.ASKING,
    (State.SEEKING, Event.DOUBTED): State.ASKING,
    (State.READING, Event.DOUBTED): State.ASKING,
    (State.ASKING, Event.ANSWERED): State.SEEKING,
    (State.READING, Event.PUT_BACK): State.SEEKING,
    (State.SEEKING, Event.SOUGHT): State.READING,
}


@dataclass(frozen=True)
class PartitionReport:
    """What the broker tells of a partition at one moment."""

    committed: int | None
    """The group's stable committed offset; None where it has committed none."""
    low: int
    """The first offset that is still there."""
    end: int
    """The offset after the last one that committed readers may see."""
    topic_id: str | None = None
    """Of the topic as it is now (KIP-516); None where the broker gives topics none."""
    stamp: str | None = None
    """Of the topic for which the offset was committed; None where the commit does not say."""
    began: int = 0
    """How many workers in a row have begun there and committed nothing since
    (:mod:`layercache.stream.worker.caution`)."""


class Reason(Enum):
    """Why a partition begins where it does."""

    COMMITTED = "where the group has committed"
    NO_COMMIT = "the group has committed nothing there"
    DELETED = "the frames before it were deleted unanswered"
    ANEW = "the topic was made anew, and what was committed was for the old one"
    CUT_OFF = "the log ends before what was committed: the brokers have lost records"


@dataclass(frozen=True)
class Start:
    """Where a partition begins, and why."""

    partition: int
    reason: Reason
    offset: int
    report: PartitionReport
    takes_over: bool
    """True at the first start since it was assigned."""

    @property
    def deleted(self) -> int:
        """How many offsets the broker deleted before a worker answered their frames."""
        return self.report.low - (self.report.committed or 0) if self.reason is Reason.DELETED else 0


@dataclass(frozen=True)
class Sieved:
    """What became of fetched frames."""

    passed: Sequence[Frame]
    left_out: frozenset[int]
    """Partitions of which frames were left out, since they are not confirmed (or not assigned)."""
    begun_again: frozenset[int]
    """Partitions whose offsets begin again. No frame of theirs was passed on; see :meth:`Positions.begin_again`."""
    gaps: Sequence[tuple[int, int, int]]
    """Partition, expected offset and offset that came, where offsets are missing: markers, or deleted frames."""


@dataclass
class _Partition:
    state: State = State.ASKING
    asked_from: int = 0
    """The number of the first question whose answer counts."""
    has_come: bool = False
    """The client has brought something of it since it was assigned, even if only the news of the log's end."""
    end_at_first: int | None = None
    """The log's end in the first report since the partition was assigned, or since its log began again."""
    next: int = -1
    """READING: the least offset that may come. SEEKING: where the client must go."""
    behind: int = 0
    """How far it is read as far as lag goes: behind markers at the log's end, too."""
    end: int = 0
    cut_off: int = 0
    """How many answers in a row said that the log ends before the committed offset."""
    is_new: bool = True


@dataclass
class Positions:
    """The partitions that are assigned, and where each is read.

    Promises: a frame passes only while its partition is confirmed, in rising order of offsets, each offset once since
    the last doubt; what is passed first after a doubt is the frame at the offset that the group had committed at a
    moment after that doubt (else at the :class:`Start` that says why not). One partition never waits for another.

    Where the group has committed nothing, a partition begins at the log's first frame or, with ``from_end``, at the
    log's end in the first report since its assignment. Assign the client at the log's beginning, wherever reading is to
    begin, and send it there as :meth:`to_seek` says.

    >>> positions = Positions()
    >>> positions.assigned([0])
    >>> number, asked = positions.question()
    >>> asked
    [0]
    >>> positions.take_answer(number, 0, PartitionReport(committed=5, low=0, end=9)).offset
    5
    >>> positions.sieve([Frame("frames", 0, 0, 0, None, b"")]).left_out
    frozenset({0})
    >>> positions.to_seek()
    {0: 5}
    >>> positions.sought(0)
    >>> positions.question()[1], positions.lags({0: 9})
    ([], {0: 4})
    """

    from_end: bool = False
    topic_id: str | None = None
    """Of the topic that is read, once it is known."""
    _partitions: dict[int, _Partition] = field(default_factory=dict)
    _number: int = 0
    former_ids: set[str] = field(default_factory=set)
    """Ids of topics of the same name that were deleted. Brokers that lag behind may still name them for a while."""

    def __contains__(self, partition: int) -> bool:
        return partition in self._partitions

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self._partitions))

    def __len__(self) -> int:
        return len(self._partitions)

    # What happens.

    def assigned(self, partitions: Iterable[int]) -> None:
        """These are ours from now on."""
        new = {number: _Partition() for number in partitions}
        self._partitions |= new
        self.doubt(new)

    def taken(self, partitions: Iterable[int]) -> None:
        """These were revoked, or lost."""
        for number in partitions:
            self._partitions.pop(number, None)

    def doubt(self, partitions: Iterable[int] | None = None) -> None:
        """The committed offsets of these, by default of all, must be asked for (again)."""
        self._number += 1
        for number in self._partitions if partitions is None else partitions:
            one = self._happens(number, Event.DOUBTED)
            one.asked_from, one.cut_off = self._number, 0

    def begin_again(self, partitions: Iterable[int]) -> None:
        """The logs of these begin again: what was read of them says nothing about where to begin."""
        partitions = list(partitions)
        self.doubt(partitions)
        for number in partitions:
            self._partitions[number].end_at_first = None

    def made_anew(self, topic_id: str) -> None:
        """The topic is another one of the same name: only what is committed for it counts from now on."""
        if self.topic_id is not None:
            self.former_ids.add(self.topic_id)
        self.topic_id = topic_id
        self.begin_again(self)

    def take_answer(self, number: int, partition: int, report: PartitionReport) -> Start | None:
        """Takes the answer to the question of that number; None where it does not count, or is not believed yet."""
        one = self._partitions.get(partition)
        if one is None or one.state is not State.ASKING or number < one.asked_from:
            return None
        found = self._start(one, report)
        if found is None:
            return None
        reason, offset = found
        self.topic_id = report.topic_id or self.topic_id
        self._happens(partition, Event.ANSWERED)
        one.next = one.behind = offset
        one.end = report.end
        start = Start(partition, reason, offset, report, one.is_new)
        one.is_new = False
        return start

    def put_back(self, offsets: Mapping[int, int]) -> None:
        """By partition: frames that were passed on, from this offset on, shall come again."""
        for number, offset in offsets.items():
            self._happens(number, Event.PUT_BACK).next = offset

    def sought(self, partition: int) -> None:
        """The client stands where :meth:`to_seek` has sent it."""
        self._happens(partition, Event.SOUGHT)

    def reached_end(self, partition: int, offset: int) -> None:
        """The client came to the log's end, ``offset``; what is missing before it are markers, which no reader gets."""
        one = self._partitions.get(partition)
        if one is not None:
            one.has_come = True
            if one.state is State.READING:
                one.behind = offset

    def sieve(self, frames: Sequence[Frame]) -> Sieved:
        """Takes in what the client brought."""
        passed: list[Frame] = []
        left_out: set[int] = set()
        again: set[int] = set()
        gaps: list[tuple[int, int, int]] = []
        reading = {number: one.next for number, one in self._partitions.items() if one.state is State.READING}
        for frame in frames:
            number, offset = frame.partition, frame.offset
            expected = reading.get(number)
            if expected is None:
                if number not in again:
                    left_out.add(number)
            elif offset < expected:
                again.add(number)
                del reading[number]
            else:
                if offset > expected:
                    gaps.append((number, expected, offset))
                reading[number] = offset + 1
                passed.append(frame)
        if again:
            passed = [frame for frame in passed if frame.partition not in again]
        for number in {frame.partition for frame in frames} & self._partitions.keys():
            one = self._partitions[number]
            one.has_come = True
            one.next = reading.get(number, one.next)
        return Sieved(passed, frozenset(left_out), frozenset(again), gaps)

    # What to do, and what there is.

    def question(self) -> tuple[int, list[int]]:
        """A number for the question, and the partitions whose committed offsets must be asked for."""
        return self._number, [number for number in self if self._partitions[number].state is State.ASKING]

    def to_seek(self, is_late: bool = False) -> dict[int, int]:
        """By partition, the offset at which the client must go on.

        Partitions of which the client has brought nothing yet are left out unless it ``is_late``: it is still asking
        where their logs begin, and librdkafka, sent elsewhere meanwhile, asks again half a second later and goes there
        nevertheless (its issue 2256). Offsets then begin again: no frame is lost, but a second is.
        """
        return {
            number: one.next
            for number, one in self._partitions.items()
            if one.state is State.SEEKING and (one.has_come or is_late)
        }

    def unconfirmed(self) -> list[int]:
        """Partitions that are assigned and not read."""
        return [number for number in self if self._partitions[number].state is not State.READING]

    def lags(self, ends: Mapping[int, int]) -> dict[int, int]:
        """By partition, how many offsets are still to be read; ``ends`` are the latest ends of logs that are known.

        Partitions are missing while the broker has not told yet where they begin.
        """
        lags = {}
        for number in self:
            one = self._partitions[number]
            if one.state is not State.ASKING:
                lags[number] = max(0, ends.get(number, one.end) - max(one.next, one.behind))
        return lags

    def _happens(self, partition: int, event: Event) -> _Partition:
        one = self._partitions[partition]
        one.state = TRANSITIONS[one.state, event]
        return one

    def _start(self, one: _Partition, report: PartitionReport) -> tuple[Reason, int] | None:
        committed = report.committed
        is_anew = bool(self.former_ids)
        if one.end_at_first is None:
            one.end_at_first = report.end
        if committed is None:
            return Reason.NO_COMMIT, max(report.low, one.end_at_first) if self.from_end and not is_anew else report.low
        is_of_this_topic = report.stamp == report.topic_id if report.stamp and report.topic_id else not is_anew
        if not is_of_this_topic or (committed > report.end and report.topic_id is None):
            return Reason.ANEW, report.low
        if committed < report.low:
            return Reason.DELETED, report.low
        if committed <= report.end:
            return Reason.COMMITTED, committed
        one.cut_off += 1
        return (Reason.CUT_OFF, report.end) if one.cut_off >= BELIEVED_AFTER else None
