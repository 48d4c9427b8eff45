"""Frames that end a worker's process: notes that survive the process find them, and they become dead letters.

A decoder that crashes, or a kernel that kills for memory, leaves no exception to catch, and the worker that takes over
reads the same frame first. So a worker commits a note before it works on the first frames of a partition that it took
over: the offset where the group stands already and, as its metadata, the number of workers that began there in a row.
The next ordinary commit takes the note back. A worker commits a note like any progress, in a transaction of its
member's generation (KIP-447), and the note moves no offset: it can neither repeat nor lose a frame.

A worker that finds a note knows that its writer ended before it committed anything else. Most workers end for other
reasons than a frame, so the finder takes the partition's frames with care first, which costs little: a micro-batch at a
time, each a transaction of its own, with nothing else at work. If a worker ends at one of these, the next one takes
that micro-batch's frames one at a time; where two workers in a row have ended at one and the same frame, that frame
becomes a dead letter. No I/O here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from layercache.stream.frames.frame import Frame

#: Once so many workers began at an offset and committed nothing, the next one takes its frames with care,
CAREFUL_FROM = 1
#: once so many did, one at a time: the last of them had one micro-batch at work, and nothing else,
ALONE_FROM = 2
#: and once so many did, it gives the frame up: the last two of them had it alone.
GIVEN_UP_FROM = 4
#: The note of an offset whose micro-batch, or whose frame, is next: as if one worker had begun with it.
_BATCH_IN_LINE, _FRAME_IN_LINE = ALONE_FROM, ALONE_FROM + 1


@dataclass
class _Partition:
    began: int
    """How many workers in a row began here before, and ended without a commit."""
    is_noted: bool = False
    """Whether this worker has noted that it begins."""
    careful: int = 0
    """How many more frames to take with care."""
    alone: int = 0
    """How many of them, the next ones, to take one at a time."""
    note: int = 0
    """What its next commit says."""


@dataclass(frozen=True)
class _OwnNote:
    """A note that this worker committed."""

    offset: int
    note: int
    before: int
    """What the note said that this worker found."""


class Caution:
    """Says what notes to commit and which frames to take with care, at most ``batch`` at a time.

    ``span`` is how many frames of a partition a worker may have had at work when it ended.

    >>> caution = Caution(span=4, batch=2)
    >>> caution.begins(0, offset=7, began=2)
    True
    >>> together, careful = caution.split([Frame("frames", 0, offset, 0, None, b"") for offset in range(7, 11)])
    >>> while careful:
    ...     frames = caution.next_of(careful)
    ...     print([frame.offset for frame in frames], caution.begin(frames), caution.note(0))
    ...     caution.passed(frames)
    ...     careful = careful[len(frames) :]
    [7] {0: 7} 3
    [8] {} 3
    [9, 10] {} 2
    >>> caution.note(0)
    0
    """

    def __init__(self, span: int, batch: int) -> None:
        self._span = span
        self._batch = batch
        self._partitions: dict[int, _Partition] = {}
        #: partition -> the offset with which this worker committed a note, and nothing since
        self._committed_notes: dict[int, int] = {}
        #: partition -> this worker's last note there, also where the partition went to another worker
        self._own_notes: dict[int, _OwnNote] = {}

    def begins(self, partition: int, offset: int, began: int, takes_over: bool = True) -> bool:
        """The worker reads the partition from ``offset`` on, where ``began`` workers began and committed nothing.

        True where it must take the frames with care. A worker's own notes never count against frames: it lives.
        """
        one = self._partitions.get(partition)
        if one is None or takes_over:
            mine = self._own_notes.get(partition)
            began = mine.before if mine is not None and (mine.offset, mine.note) == (offset, began) else began
            one = self._partitions[partition] = _Partition(
                began,
                careful=self._span if began >= CAREFUL_FROM else 0,
                alone=self._batch if began >= ALONE_FROM else 0,
            )
        else:
            one.is_noted, one.note = began > one.began, 0
            if one.is_noted:
                self._committed_notes[partition] = offset
        return one.careful > 0

    def forget(self, partitions: Iterable[int]) -> None:
        """These partitions are other workers' now."""
        for partition in partitions:
            self._partitions.pop(partition, None)
            self._committed_notes.pop(partition, None)

    def split(self, frames: Sequence[Frame]) -> tuple[list[Frame], list[Frame]]:
        """The frames to work on together, and those to take with care, which nothing may touch before."""
        careful = {number for number in self._partitions if self.is_careful(number)}
        if not careful:
            return list(frames), []
        return (
            [one for one in frames if one.partition not in careful],
            [one for one in frames if one.partition in careful],
        )

    def next_of(self, careful: Iterable[Frame]) -> list[Frame]:
        """Which of these to take next, with nothing else at work: one frame, or some of one partition."""
        frames: list[Frame] = []
        most = 1
        for frame in careful:
            if not frames:
                most = 1 if self.is_alone(frame.partition) else self._batch
            if not frames or frame.partition == frames[0].partition:
                frames.append(frame)
            if len(frames) == most:
                break
        return frames

    def begin(self, frames: Sequence[Frame]) -> dict[int, int]:
        """By partition, the offsets whose notes must be committed before these frames are worked on."""
        offsets = {}
        for frame in reversed(frames):
            one = self._partitions.get(frame.partition)
            if one is not None and not one.is_noted:
                offsets[frame.partition] = frame.offset
        for partition in offsets:
            one = self._partitions[partition]
            one.is_noted, one.note = True, one.began + 1
        return offsets

    def is_careful(self, partition: int) -> bool:
        """True while the worker must have nothing else at work when it takes the partition's frames."""
        one = self._partitions.get(partition)
        return one is not None and one.careful > 0

    def is_alone(self, partition: int) -> bool:
        """True while it must take them one at a time."""
        one = self._partitions.get(partition)
        return one is not None and one.alone > 0

    def gives_up(self, frame: Frame) -> bool:
        """True where no worker may work again on the frame, the next of its partition."""
        one = self._partitions.get(frame.partition)
        return one is not None and one.began >= GIVEN_UP_FROM

    def passed(self, frames: Sequence[Frame]) -> None:
        """The worker answered frames of one partition that it took with care, or gave them up."""
        one = self._partitions.get(frames[0].partition) if frames else None
        if one is None:
            return
        one.began = min(one.began, CAREFUL_FROM)
        one.careful = max(0, one.careful - len(frames))
        one.alone = min(one.careful, max(0, one.alone - len(frames)))
        one.note = _FRAME_IN_LINE if one.alone else _BATCH_IN_LINE if one.careful else 0

    def note(self, partition: int) -> int:
        """The note to commit with the partition's offset."""
        one = self._partitions.get(partition)
        return one.note if one is not None else 0

    def committed(self, offsets: dict[int, int]) -> None:
        """The worker committed these offsets, by partition, each with its note."""
        for partition, offset in offsets.items():
            self._committed_notes.pop(partition, None)
            self._own_notes.pop(partition, None)
            one = self._partitions.get(partition)
            if one is not None and one.note:
                self._committed_notes[partition] = offset
                self._own_notes[partition] = _OwnNote(offset, one.note, one.began)
                one.note = one.note if one.careful else 0

    def uncertain(self) -> None:
        """A commit may have come through or not: the worker may not take back any of its notes now."""
        self._committed_notes.clear()

    def take_back(self, partitions: Iterable[int] | None = None) -> dict[int, int]:
        """By partition, of these or of all, the offsets whose notes to take back.

        This worker ends, or leaves the partitions to others, and its process did not die of their frames.
        """
        chosen = set(self._committed_notes if partitions is None else partitions)
        for partition in chosen & self._partitions.keys():
            self._partitions[partition].note = 0
        return {partition: offset for partition, offset in self._committed_notes.items() if partition in chosen}
