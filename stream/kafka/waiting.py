"""Time, calls that may never come back, and duties that cannot wait for them."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

Result = TypeVar("Result")

_LOOK_S = 0.2


class Stuck(RuntimeError):
    """A call did not come back in time; it may still be running, in a thread that nothing waits for."""


class Deadline:
    """One span of time for a whole chain of calls, where a time-out for each would add up.

    >>> deadline = Deadline(10.0, clock=iter([0.0, 4.0, 11.0]).__next__)
    >>> deadline.left(), deadline.left()
    (6.0, 0.0)
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    def left(self) -> float:
        """Seconds until the end, 0.0 from then on."""
        return max(0.0, self._end - self._clock())


def start_call(call: Callable[[], Result]) -> Future[Result]:
    """Runs ``call`` in a thread of its own, which the process does not wait for; what it returns or raises."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="kafka-call", daemon=True).start()
    return outcome


def call_with_timeout(
    seconds: float, call: Callable[[], Result], give_up: Callable[[], bool] = lambda: False
) -> Result:
    """What ``call`` returns or raises; :class:`Stuck` once it has taken ``seconds``, or ``give_up`` says so."""
    outcome = start_call(call)
    deadline = Deadline(seconds)
    while True:
        try:
            return outcome.result(min(_LOOK_S, seconds))
        except TimeoutError:
            if outcome.done():  # the call raised a TimeoutError itself, or ended just now
                return outcome.result()
            if not deadline.left() or give_up():
                raise Stuck(f"no return within {seconds:.0f} s") from None


class Clock(Protocol):
    """How time passes, and how callers wait; a simulation has one of its own, in which no time passes by itself."""

    def now(self) -> float:
        """Seconds of a clock that is never set back."""

    def sleep(self, seconds: float) -> None:
        """Lets so much time pass."""

    def call_with_timeout(
        self, seconds: float, call: Callable[[], Result], give_up: Callable[[], bool] = lambda: False
    ) -> Result:
        """See :func:`call_with_timeout`."""

    def start_call(self, call: Callable[[], Result]) -> Future[Result]:
        """See :func:`start_call`."""


class SystemClock:
    """The machine's own time, and threads."""

    now = staticmethod(time.monotonic)
    sleep = staticmethod(time.sleep)
    call_with_timeout = staticmethod(call_with_timeout)
    start_call = staticmethod(start_call)


SYSTEM_CLOCK: Clock = SystemClock()


def wait_with_duties(future: Future[Result], duties: Callable[[], float]) -> Result:
    """Waits for ``future`` and returns or raises its result; calls ``duties`` meanwhile.

    ``duties`` return in how many seconds to call them again. What they raise ends the waiting, not the work.
    """
    while not future.done():
        try:
            return future.result(duties())
        except TimeoutError:
            if future.done():  # the work raised a TimeoutError itself, or ended just now
                break
    return future.result()


class SideThread:
    """One thread for calls that may take long, so that the caller can do its duties meanwhile.

    >>> side_thread = SideThread("sums")
    >>> side_thread.run(lambda: 6 * 7, duties=lambda: 0.1)
    42
    >>> side_thread.close()
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def run(self, call: Callable[[], Result], duties: Callable[[], float]) -> Result:
        """What ``call`` returns or raises; see :func:`wait_with_duties`."""
        return wait_with_duties(self._pool.submit(call), duties)

    def close(self) -> None:
        """Ends the thread, once the running call comes back."""
        self._pool.shutdown(wait=True, cancel_futures=True)
