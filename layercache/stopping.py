"""Ctrl-C and SIGTERM for commands that run until they are stopped: finish what is begun, then end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopEvent(threading.Event):
    """Set by the first signal; a second Ctrl-C does not wait for anything any more."""

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """As a signal handler."""
        if self.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.set()


@contextmanager
def stop_on_signals() -> Iterator[StopEvent]:
    """An event that SIGINT and SIGTERM set within the block."""
    stop = StopEvent()
    before = {number: signal.signal(number, stop.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
