"""How much frames may take up between the broker and their answers: by bytes, as frames differ a thousandfold."""

from collections.abc import Iterable, Sequence
from operator import attrgetter

from layercache.stream.frames.frame import Frame

#: What frames that wait for their answers may take up; beyond that they stay in the consumer's queue, which is as
#: large, and then on the broker.
HELD_BYTES = 64 * 2**20
#: Frames are taken to be as large as the latest fetch's; smaller ones are believed a third of the way each time.
_BELIEF = 0.3

_VALUE = attrgetter("value")


class HeldBytes:
    """Counts the bytes of frames that were fetched and are not yet answered, and says how many more to fetch.

    A fetch may hold larger frames than those before it, so ``limit`` can be overshot by one fetch, which is what the
    consumer's own queue holds.

    >>> held = HeldBytes(limit=1_000)
    >>> first = [Frame("frames", 0, offset, 0, None, b"x" * 300) for offset in range(2)]
    >>> held.take_in(first)
    >>> held.room(32), held.is_full
    (1, False)
    >>> held.take_in([Frame("frames", 0, 2, 0, None, b"x" * 500)])
    >>> held.room(32), held.is_full
    (0, True)
    >>> held.let_go(first)
    >>> held.bytes, held.is_full
    (500, False)
    """

    def __init__(self, limit: int = HELD_BYTES) -> None:
        self._limit = limit
        self._mean = 1.0
        self.bytes = 0

    @property
    def is_full(self) -> bool:
        """True while nothing more may be fetched."""
        return self.bytes >= self._limit

    def room(self, most: int) -> int:
        """How many frames to fetch, up to ``most``: as many as fit if they are like the latest, at least one."""
        return 0 if self.is_full else min(most, max(1, int((self._limit - self.bytes) / self._mean)))

    def take_in(self, frames: Sequence[Frame]) -> None:
        """These were fetched."""
        size = _size(frames)
        self.bytes += size
        if frames:
            mean = max(1.0, size / len(frames))
            self._mean = max(mean, self._mean + _BELIEF * (mean - self._mean))

    def let_go(self, frames: Iterable[Frame]) -> None:
        """These have been answered."""
        self.bytes = max(0, self.bytes - _size(frames))

    def hold_only(self, frames: Iterable[Frame]) -> None:
        """All others have been dropped."""
        self.bytes = _size(frames)


def _size(frames: Iterable[Frame]) -> int:
    return sum(map(len, filter(None, map(_VALUE, frames))))
