"""Calls that hang are left behind; messages that repeat are held back."""

import threading

import pytest

from stream.patience import Stuck, within
from stream.throttle import Throttle


def test_what_a_call_returns_or_raises_comes_back() -> None:
    assert within(5.0, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(5.0, lambda: 1 // 0)
    with pytest.raises(TimeoutError, match="its own"):
        within(5.0, times_out)


def times_out() -> None:
    raise TimeoutError("its own")


def test_a_call_that_hangs_is_left_behind() -> None:
    never = threading.Event()
    with pytest.raises(Stuck, match="no return"):
        within(0.05, never.wait)
    with pytest.raises(Stuck):
        within(60.0, never.wait, give_up=lambda: True)
    never.set()


def test_a_message_passes_once_in_a_while_for_each_key() -> None:
    times = iter([0.0, 1.0, 1.0, 5.0, 6.0])
    throttle = Throttle(every_s=5.0, clock=lambda: next(times))
    assert [throttle.passes(key) for key in ("a", "a", "b", "a", "b")] == [True, False, True, True, True]
    assert throttle.held_back == {"a": 1, "b": 0}
