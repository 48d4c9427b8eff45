"""What a rebalance means to the loop: what may be answered and committed, and what must be read again. No calls.

Rebalances come at any moment at which the loop polls the group: while it fetches, and while a micro-batch is being
answered. What holds, whenever they come:

1. While a micro-batch is being answered, nothing of it was produced and none of its offsets was handed to the delivery.
   So the loop may commit meanwhile: the commit holds what was answered before.
2. The loop answers and commits no frame of a partition that went to another worker while the frame was being answered.
3. Once work since the last commit can no longer be committed, the loop takes no further frame before it has gone back
   to that commit.
4. Once the delivery is closed, nothing is committed any more.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Final

from layercache.stream.frames.frame import Frame


class Phase(Enum):
    """Where the loop stands."""

    READING = auto()
    """No micro-batch is being answered, and what was answered since the last commit can be committed."""
    ANSWERING = auto()
    """A micro-batch is being answered."""
    NEEDS_REWIND = auto()
    """What was read since the last commit must be read again."""
    CLOSED = auto()
    """Nothing can be committed any more."""


class Event(Enum):
    """What happens to the loop."""

    BATCH_BEGAN = auto()
    BATCH_ENDED = auto()
    """The micro-batch was answered, or given up."""
    WORK_LOST = auto()
    """A commit failed, or partitions were lost: what was done since the last commit does not count."""
    REWOUND = auto()
    """The loop went back to the last commit."""
    CLOSED = auto()


_P, _E = Phase, Event

#: Every transition; anything else is a bug in the loop. A micro-batch begins in READING alone (3).
TRANSITIONS: Final[Mapping[tuple[Phase, Event], Phase]] = {
    (_P.READING, _E.BATCH_BEGAN): _P.ANSWERING,
    (_P.ANSWERING, _E.BATCH_ENDED): _P.READING,
    (_P.NEEDS_REWIND, _E.BATCH_ENDED): _P.NEEDS_REWIND,
    (_P.READING, _E.WORK_LOST): _P.NEEDS_REWIND,
    (_P.ANSWERING, _E.WORK_LOST): _P.NEEDS_REWIND,
    (_P.NEEDS_REWIND, _E.WORK_LOST): _P.NEEDS_REWIND,
    (_P.CLOSED, _E.WORK_LOST): _P.CLOSED,
    (_P.NEEDS_REWIND, _E.REWOUND): _P.READING,
    (_P.READING, _E.CLOSED): _P.CLOSED,
    (_P.NEEDS_REWIND, _E.CLOSED): _P.CLOSED,
}


class Misuse(RuntimeError):
    """An event that must not happen in this phase: an error of the caller's."""


class LoopState:
    """One loop's place in :data:`TRANSITIONS`, and the partitions that it lost while it answered.

    >>> state = LoopState()
    >>> frames = [Frame("frames", partition, 7, 0, None, b"") for partition in (0, 1)]
    >>> state.begin_batch()
    >>> state.lose_partitions({1})
    >>> [frame.partition for frame in state.end_batch(frames)]
    [0]
    >>> state.lose_work()
    >>> state.needs_rewind
    True
    """

    def __init__(self) -> None:
        self.phase = Phase.READING
        self.lost_partitions: set[int] = set()
        """Partitions that went to other workers since the latest micro-batch began."""

    @property
    def needs_rewind(self) -> bool:
        """True where the loop must go back to the last commit before it takes another frame."""
        return self.phase is Phase.NEEDS_REWIND

    @property
    def is_closed(self) -> bool:
        """True where nothing can be committed any more."""
        return self.phase is Phase.CLOSED

    def begin_batch(self) -> None:
        """The loop hands frames over to be answered."""
        self._happens(Event.BATCH_BEGAN)
        self.lost_partitions.clear()

    def end_batch(self, frames: Iterable[Frame]) -> Sequence[Frame]:
        """The micro-batch of ``frames`` ended: those of them that are still this worker's to commit.

        Call this after the answering has finished: while it runs, the loop's duties may commit, and that commit must
        not include these frames' offsets.
        """
        self._happens(Event.BATCH_ENDED)
        return [frame for frame in frames if frame.partition not in self.lost_partitions]

    def lose_partitions(self, partitions: Iterable[int]) -> None:
        """These are other workers' from now on."""
        self.lost_partitions |= set(partitions)

    def lose_work(self) -> None:
        """What was done since the last commit can no longer be committed."""
        self._happens(Event.WORK_LOST)

    def rewound(self) -> None:
        """The loop went back to the last commit."""
        self._happens(Event.REWOUND)

    def close(self) -> None:
        """The delivery is closed."""
        self._happens(Event.CLOSED)

    def _happens(self, event: Event) -> None:
        try:
            self.phase = TRANSITIONS[self.phase, event]
        except KeyError:
            raise Misuse(f"{event.name} must not happen while the loop is {self.phase.name}") from None
