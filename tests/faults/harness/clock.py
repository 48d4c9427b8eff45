"""What the live reader learns about time: gaps between answers, and when the service was back after a fault."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field


def wall_ms() -> int:
    """The clock that predictions are stamped by."""
    return time.time_ns() // 1_000_000


@dataclass
class Fault:
    """One fault as it was done, and what came of it. Times in seconds since the phase began."""

    number: int
    kind: str
    detail: str
    at_s: float
    recovery_s: float | None = None
    """Until each partition that it held up had a new answer that was computed after the fault; None before."""
    hit: bool = True
    """False where it came beside the moment that it is about, such as a join after the window had closed."""
    gap_s: float = 0.0
    """The longest time without an answer on one partition that ended between this fault and the next."""


#: How long what was heard is remembered: longer than any fault strikes.
_REMEMBERED = 20_000


@dataclass
class _Watch:
    fault: Fault
    since_ms: int
    began: float
    waiting: set[int]
    done: threading.Event = field(default_factory=threading.Event)

    def hear(self, at: float, heard: Mapping[int, int]) -> bool:
        """True once nothing is left to wait for."""
        self.waiting -= {one for one in self.waiting if heard.get(one, -1) > self.since_ms}
        if self.waiting:
            return False
        self.fault.recovery_s = at - self.began
        self.done.set()
        return True


class Recovery:
    """Gaps and recoveries, told by the live reader of committed predictions. Safe to use from several threads.

    >>> clock = iter([0.0, 0.0, 2.0, 2.5, 6.0])
    >>> recovery = Recovery(partitions=2, now=lambda: next(clock))
    >>> fault = Fault(1, "worker_kill", "", at_s=0.0)
    >>> recovery.begins(fault)
    >>> recovery.heard({0: 100, 1: 100}.items())
    >>> recovery.heard({0: 300}.items())
    >>> done = recovery.watch(fault, frozenset({0, 1}), since_ms=200, began=1.0)
    >>> recovery.heard({1: 400}.items())
    >>> fault.recovery_s, fault.gap_s, recovery.longest_gap_s, recovery.standstill_s
    (5.0, 4.0, 3.5, {0: 2.0, 1: 4.0})
    """

    def __init__(self, partitions: int, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._last = dict.fromkeys(range(partitions), now())
        self._last_any = now()
        self._history: deque[tuple[float, dict[int, int]]] = deque(maxlen=_REMEMBERED)
        self._watches: list[_Watch] = []
        self._current: Fault | None = None
        self.longest_gap_s = 0.0
        """Without a new answer on any partition."""
        self.standstill_s = dict.fromkeys(range(partitions), 0.0)
        """The longest without a new answer, of each partition."""

    def begins(self, fault: Fault) -> None:
        """From now on gaps are put down to ``fault``."""
        with self._lock:
            self._current = fault

    def watch(self, fault: Fault, partitions: frozenset[int], since_ms: int, began: float) -> threading.Event:
        """Set once each of ``partitions`` has had an answer computed after ``since_ms``; ``began``: the fault's start.

        What was heard before counts, too: a fault that lasts may be over for its partitions before it ends.
        """
        watch = _Watch(fault, since_ms, began, set(partitions))
        with self._lock:
            if not any(watch.hear(at, heard) for at, heard in self._history if at >= began):
                self._watches.append(watch)
        return watch.done

    def heard(self, partition_and_ms: Iterable[tuple[int, int]]) -> None:
        """Answers that could be read just now: the partition, and the newest time at which one was computed."""
        heard = dict(partition_and_ms)
        if not heard:
            return
        now = self._now()
        with self._lock:
            self._history.append((now, heard))
            self.longest_gap_s = max(self.longest_gap_s, now - self._last_any)
            self._last_any = now
            for partition in heard:
                gap = now - self._last[partition]
                self._last[partition] = now
                self.standstill_s[partition] = max(self.standstill_s[partition], gap)
                if self._current is not None:
                    self._current.gap_s = max(self._current.gap_s, gap)
            self._watches = [watch for watch in self._watches if not watch.hear(now, heard)]

    def restart(self) -> None:
        """Gaps begin anew: the stream has just come to flow."""
        with self._lock:
            self._last = dict.fromkeys(self._last, self._now())
            self._last_any = self._now()
            self.longest_gap_s = 0.0
            self.standstill_s = dict.fromkeys(self._last, 0.0)

    def silence_s(self) -> float:
        """How long there has been no answer at all."""
        return self._now() - self._last_any
