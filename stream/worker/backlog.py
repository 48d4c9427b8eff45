"""Frames between the broker and their answers: how many may wait, and when a micro-batch is due.

The backlog is bounded by number, and by bytes, as frames differ a thousandfold. Pure: the clock is passed in.
"""

from collections import deque
from collections.abc import Iterable, Sequence, Set
from itertools import repeat
from operator import attrgetter

from layercache.stream.frames.decode_pool import PendingFrame
from layercache.stream.frames.frame import Frame

#: What frames that wait for their answers may take up. All others stay in the consumer's queue, which is as large, and
#: then on the broker.
BACKLOG_BYTES = 64 * 2**20
#: The backlog expects frames as large as the latest fetch's; where they become smaller, it follows a third of the way
#: each time.
_MEAN_WEIGHT = 0.3

_FRAME_OF, _VALUE_OF = attrgetter("frame"), attrgetter("value")


class Backlog:
    """The frames that were fetched and are not yet answered, each in one of three places.

    Frames that *wait* are being decoded; micro-batches of at most ``max_batch`` are taken from them in the order of
    arrival, and none waits longer than ``max_wait_s``. Frames that are *set aside* are to be taken with nothing else at
    work (:mod:`layercache.stream.worker.caution`). Frames *in flight* are the micro-batch that is being answered.

    At most ``max_frames`` wait or are set aside, and all three places hold at most ``max_bytes``. One fetch may exceed
    that, since it may hold larger frames than those before it: by no more than the consumer's own queue holds. Times
    are seconds of any one clock.

    >>> from concurrent.futures import Future
    >>> def pending(*sizes: int) -> list[PendingFrame]:
    ...     return [PendingFrame(Frame("frames", 0, 0, 0, None, bytes(size)), Future(), 0) for size in sizes]
    >>> backlog = Backlog(max_batch=2, max_wait_s=0.1, max_frames=8, max_bytes=1_000)
    >>> backlog.add(pending(100), now=0.0)
    >>> backlog.take(now=0.05), backlog.due_in(now=0.05), backlog.missing
    (None, 0.05, 1)
    >>> backlog.add(pending(100, 300), now=0.05)
    >>> [since for since, frame in backlog.take(now=0.05)]
    [0.0, 0.05]
    >>> backlog.bytes, backlog.room  # of frames like the latest
    (500, 2)
    >>> backlog.finish()
    >>> backlog.bytes, len(backlog)
    (300, 1)
    """

    def __init__(self, max_batch: int, max_wait_s: float, max_frames: int, max_bytes: int = BACKLOG_BYTES) -> None:
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[float, PendingFrame]] = deque()
        self._set_aside: list[Frame] = []
        self._in_flight: Sequence[Frame] = ()
        self._in_flight_bytes = 0
        self._mean_bytes = 1.0
        self.bytes = 0
        """Of all frames, those in flight included."""

    def __len__(self) -> int:
        """How many frames wait."""
        return len(self._waiting)

    @property
    def set_aside(self) -> Sequence[Frame]:
        """The frames to be taken with nothing else at work, in the order of arrival."""
        return self._set_aside

    @property
    def in_flight(self) -> Sequence[Frame]:
        """The micro-batch that is being answered."""
        return self._in_flight

    # How many frames to fetch.

    @property
    def is_full(self) -> bool:
        """True while nothing more may be fetched, since frames take up all bytes."""
        return self.bytes >= self._max_bytes

    @property
    def room(self) -> int:
        """How many frames to fetch at most."""
        return self._fitting(self._max_frames - len(self._waiting) - len(self._set_aside))

    @property
    def missing(self) -> int:
        """How many frames to fetch to fill the next micro-batch."""
        return self._fitting(self._max_batch - len(self._waiting))

    def _fitting(self, most: int) -> int:
        """Up to ``most``: as many as fit if they are like the latest, at least one; 0 while it is full."""
        if most <= 0 or self.is_full:
            return 0
        return min(most, max(1, int((self._max_bytes - self.bytes) / self._mean_bytes)))

    # Frames come.

    def add(self, pending: Sequence[PendingFrame], now: float) -> None:
        """These wait from ``now`` on, behind all others."""
        self._waiting.extend(zip(repeat(now), pending))
        self._count(list(map(_FRAME_OF, pending)))

    def put_aside(self, frames: Sequence[Frame]) -> None:
        """These are to be taken with nothing else at work."""
        self._set_aside += frames
        self._count(frames)

    def _count(self, frames: Sequence[Frame]) -> None:
        if frames:
            size = _size(frames)
            self.bytes += size
            mean = max(1.0, size / len(frames))
            self._mean_bytes = max(mean, self._mean_bytes + _MEAN_WEIGHT * (mean - self._mean_bytes))

    # Frames go.

    @property
    def has_full_batch(self) -> bool:
        """True where the next micro-batch can take no more, be it frames or bytes."""
        return len(self._waiting) >= self._max_batch or self.is_full

    def due_in(self, now: float) -> float | None:
        """Seconds until :meth:`take` gives a micro-batch if nothing more arrives; None where nothing waits."""
        if not self._waiting:
            return None
        if self.has_full_batch:
            return 0.0
        return max(0.0, self._waiting[0][0] + self._max_wait_s - now)

    def take(self, now: float) -> list[tuple[float, PendingFrame]] | None:
        """The next micro-batch, in flight from now on, each frame with the time of its arrival; None if none is due."""
        due = self.due_in(now)
        if due is None or due > 0:
            return None
        taken = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        self._fly([pending.frame for _, pending in taken])
        return taken

    def take_aside(self, frames: Sequence[Frame]) -> None:
        """These, the first of their partition that are set aside, are in flight from now on."""
        partition, last = frames[0].partition, frames[-1].offset
        self._set_aside = [one for one in self._set_aside if one.partition != partition or one.offset > last]
        self._fly(frames)

    def _fly(self, frames: Sequence[Frame]) -> None:
        assert not self._in_flight, "one micro-batch at a time"
        self._in_flight, self._in_flight_bytes = frames, _size(frames)

    def bring_back(self, partition: int) -> list[Frame]:
        """Takes out what is set aside of the partition; :meth:`add` it, since it need not be taken alone any more."""
        frames = [one for one in self._set_aside if one.partition == partition]
        self._set_aside = [one for one in self._set_aside if one.partition != partition]
        self.bytes -= _size(frames)
        return frames

    def finish(self) -> None:
        """The micro-batch in flight is answered, or given up."""
        self.bytes -= self._in_flight_bytes
        self._in_flight, self._in_flight_bytes = (), 0

    def drop(self, partitions: Set[int]) -> None:
        """Forgets the frames of these partitions, apart from those in flight."""
        self._waiting = deque(pair for pair in self._waiting if pair[1].frame.partition not in partitions)
        self._set_aside = [one for one in self._set_aside if one.partition not in partitions]
        self.bytes = self._in_flight_bytes + _size(self._set_aside) + _size(pair[1].frame for pair in self._waiting)

    def clear(self) -> None:
        """Forgets all frames, apart from those in flight."""
        self._waiting.clear()
        self._set_aside = []
        self.bytes = self._in_flight_bytes


def _size(frames: Iterable[Frame]) -> int:
    return sum(map(len, filter(None, map(_VALUE_OF, frames))))
