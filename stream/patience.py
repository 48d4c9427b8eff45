"""Waiting for calls that may never come back."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")

_LOOK_S = 0.2


class Stuck(RuntimeError):
    """A call did not come back in time; it may still be running, in a thread that nobody waits for."""


def within(seconds: float, call: Callable[[], Result], give_up: Callable[[], bool] = lambda: False) -> Result:
    """What ``call`` returns or raises; :class:`Stuck` once it has taken ``seconds``, or ``give_up`` says so."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="kafka-call", daemon=True).start()
    deadline = time.monotonic() + seconds
    while True:
        try:
            return outcome.result(min(_LOOK_S, seconds))
        except TimeoutError:
            if outcome.done():
                raise
            if time.monotonic() >= deadline or give_up():
                raise Stuck(f"no return within {seconds:.0f} s") from None
