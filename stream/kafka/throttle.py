"""Saying the same thing once every few seconds instead of every time."""

import time
from collections.abc import Callable, Hashable


class Throttle:
    """Lets a message through once every ``every_s`` seconds for each key.

    >>> throttle = Throttle(every_s=5, clock=iter([0.0, 1.0, 2.0, 6.0]).__next__)
    >>> [throttle.passes("away") for _ in range(4)]
    [True, False, False, True]
    >>> throttle.held_back
    {'away': 2}
    """

    def __init__(self, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._last: dict[Hashable, float] = {}
        self._held: dict[Hashable, int] = {}
        self.held_back: dict[Hashable, int] = {}
        """By key, how many were held back before the last one that passed."""

    def passes(self, key: Hashable = None) -> bool:
        """True where it is time to say it again."""
        now = self._clock()
        if now - self._last.get(key, float("-inf")) < self._every_s:
            self._held[key] = self._held.get(key, 0) + 1
            return False
        self._last[key] = now
        self.held_back[key] = self._held.pop(key, 0)
        return True
