"""Calls a function repeatedly in a thread of its own."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Periodic:
    """Calls ``look`` every ``every_s`` seconds until :meth:`stop`, then ``close``, in the same thread."""

    def __init__(
        self, name: str, every_s: float, look: Callable[[], object], close: Callable[[], object] = lambda: None
    ) -> None:
        self._every_s = every_s
        self._look = look
        self._close = close
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"dashboard-{name}", daemon=True)

    @property
    def stopping(self) -> bool:
        """Whether the thread must end; a ``look`` that takes long checks this."""
        return self._stop.is_set()

    def pause(self, seconds: float) -> None:
        """Waits within a ``look``, at most until :meth:`stop`."""
        self._stop.wait(seconds)

    def start(self) -> None:
        """Starts the thread, which calls ``look`` at once."""
        self._thread.start()

    def stop(self) -> None:
        """Tells the thread to end; :meth:`join` waits for it."""
        self._stop.set()

    def join(self, seconds: float) -> None:
        """Waits for the thread, and leaves it behind if it hangs."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except Exception:  # the thread must survive unforeseen errors
                log.exception("%s: a look failed", self._thread.name)
            self._stop.wait(self._every_s)
        self._close()
