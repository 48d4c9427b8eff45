"""Current problems, as the collector's threads report and clear them."""

import threading
import time
from collections.abc import Callable
from typing import Literal

from layercache.dashboard.state import Problem
from layercache.presenting.redaction import redacted

Where = Literal["broker", "topics", "store", "metrics"]


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Board:
    """The current problems: one for each ``(where, what)``, until a thread :meth:`clears <clear>` it.

    >>> board = Board(clock=lambda: 1_000)
    >>> board.put("store", "look", "no heads there")
    >>> [(problem.message, problem.since_ms) for problem in board.problems()]
    [('no heads there', 1000)]
    >>> board.clear("store", "look")
    >>> board.problems()
    ()
    """

    def __init__(self, clock: Callable[[], int] = now_ms) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._problems: dict[tuple[Where, str], Problem] = {}

    def put(self, where: Where, what: str, message: str) -> None:
        """Reports a problem; one on the board keeps its time. The message is stored without the settings' secrets."""
        with self._lock:
            before = self._problems.get((where, what))
            since_ms = before.since_ms if before else self._clock()
            self._problems[where, what] = Problem(where=where, message=redacted(message), since_ms=since_ms)

    def clear(self, where: Where, what: str) -> None:
        """The problem is over."""
        with self._lock:
            self._problems.pop((where, what), None)

    def problems(self) -> tuple[Problem, ...]:
        """All problems, the oldest first; each message once."""
        with self._lock:
            found = sorted(self._problems.values(), key=lambda problem: problem.since_ms)
        shown: dict[tuple[str, str], Problem] = {}
        for problem in found:
            shown.setdefault((problem.where, problem.message), problem)
        return tuple(shown.values())
