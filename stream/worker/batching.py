"""Micro-batches by size and by wait, in the order of arrival; pure, the clock is passed in."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Generic, TypeVar

Item = TypeVar("Item")


class MicroBatcher(Generic[Item]):
    """Collects items into batches of at most ``max_batch``; none waits longer than ``max_wait_s`` to be taken.

    Times are seconds of any one clock.

    >>> batcher = MicroBatcher[str](max_batch=2, max_wait_s=0.1)
    >>> batcher.add(["a"], now=0.0)
    >>> batcher.take(now=0.05), batcher.due_in(now=0.05)
    (None, 0.05)
    >>> batcher.add(["b", "c"], now=0.05)
    >>> batcher.take(now=0.05)
    [(0.0, 'a'), (0.05, 'b')]
    """

    def __init__(self, max_batch: int, max_wait_s: float) -> None:
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._waiting: deque[tuple[float, Item]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Item]:
        return (item for _, item in self._waiting)

    @property
    def missing(self) -> int:
        """How many items the next batch lacks to be full."""
        return max(0, self._max_batch - len(self._waiting))

    def add(self, items: Iterable[Item], now: float) -> None:
        """Items that arrived ``now``, in order."""
        self._waiting.extend(zip(repeat(now), items))

    def due_in(self, now: float) -> float | None:
        """Seconds until :meth:`take` gives a batch if nothing more arrives; None where nothing waits."""
        if not self._waiting:
            return None
        if not self.missing:
            return 0.0
        return max(0.0, self._waiting[0][0] + self._max_wait_s - now)

    def take(self, now: float, all_due: bool = False) -> list[tuple[float, Item]] | None:
        """The next batch if it is full or its first item has waited long enough, or if ``all_due``; else None.

        Each item comes with the time of its arrival.
        """
        due = self.due_in(now)
        if due is None or (due > 0 and not all_due):
            return None
        return [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]

    def drop(self, unwanted: Callable[[Item], bool]) -> int:
        """Forgets the items that are ``unwanted``; returns how many."""
        before = len(self._waiting)
        self._waiting = deque(pair for pair in self._waiting if not unwanted(pair[1]))
        return before - len(self._waiting)
