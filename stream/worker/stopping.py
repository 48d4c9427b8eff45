"""Whether a worker shall stop: signals say so, and all that waits asks."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: How long a worker that shall stop waits for a broker that does not answer, and for its last micro-batch. Docker kills
#: the process after 10 s.
STOP_PATIENCE_S = 8.0


class StopRequest:
    """Whether the worker shall stop, and since when; set by signals."""

    def __init__(self) -> None:
        self._since: float | None = None
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self._since is not None

    def patience_is_over(self) -> bool:
        """True once stopping has taken so long that the worker waits for nothing any more."""
        return self._since is not None and time.monotonic() - self._since > STOP_PATIENCE_S

    def set(self, number: int = 0, _: FrameType | None = None) -> None:
        """As a signal handler."""
        if self._since is None:
            self._since = time.monotonic()
            self.signal = number

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Sets it on SIGTERM and SIGINT within the block; does nothing outside the main thread, where Python cannot."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.set) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
