"""Calls that hang are left behind, duties go on while others work; messages that repeat are held back."""

import threading
from concurrent.futures import Future

import pytest

from layercache.stream.kafka.throttle import Throttle
from layercache.stream.kafka.waiting import Deadline, SideThread, Stuck, call_with_timeout, wait_with_duties


def test_what_a_call_returns_or_raises_comes_back() -> None:
    assert call_with_timeout(5.0, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        call_with_timeout(5.0, lambda: 1 // 0)
    with pytest.raises(TimeoutError, match="its own"):
        call_with_timeout(5.0, times_out)


def times_out() -> None:
    raise TimeoutError("its own")


def test_a_call_that_hangs_is_left_behind() -> None:
    never = threading.Event()
    with pytest.raises(Stuck, match="no return"):
        call_with_timeout(0.05, never.wait)
    with pytest.raises(Stuck):
        call_with_timeout(60.0, never.wait, give_up=lambda: True)
    never.set()


class JustNow(Future[int]):
    """Comes to its result right after the wait for it has ended."""

    def result(self, timeout: float | None = None) -> int:
        outcome = super().result(60)
        if timeout is None:
            return outcome
        raise TimeoutError


def test_a_result_that_comes_as_its_time_ends_is_no_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercache.stream.kafka.waiting.Future", JustNow)
    assert call_with_timeout(60.0, lambda: 7) == 7


def test_one_deadline_holds_for_a_chain_of_calls() -> None:
    times = iter([100.0, 101.0, 104.5, 105.0, 200.0])
    deadline = Deadline(5.0, clock=lambda: next(times))
    assert [deadline.left() for _ in range(4)] == [4.0, 0.5, 0.0, 0.0]


def test_duties_are_done_until_the_work_is() -> None:
    """The work ends only once the duties were done five times: they cannot have waited for it."""
    begun, done = [], threading.Event()

    def duties() -> float:
        begun.append(threading.current_thread())
        if len(begun) == 5:
            done.set()
        return 0.001

    side_thread = SideThread("work")
    try:
        assert side_thread.run(lambda: done.wait(60) and threading.current_thread().name, duties) == "work_0"
        assert set(begun) == {threading.current_thread()}
        with pytest.raises(TimeoutError, match="its own"):
            side_thread.run(times_out, lambda: 60.0)
    finally:
        side_thread.close()


def test_what_is_done_already_needs_no_duties() -> None:
    future: Future[int] = Future()
    future.set_result(3)
    assert wait_with_duties(future, times_out) == 3  # type: ignore[arg-type]  # raises where it is called


def test_duties_that_fail_end_the_waiting_but_not_the_work() -> None:
    go_on, finished = threading.Event(), threading.Event()

    def work() -> None:
        go_on.wait(60)
        finished.set()

    side_thread = SideThread("work")
    try:
        with pytest.raises(ZeroDivisionError):
            side_thread.run(work, lambda: 1 / 0)
        go_on.set()
        assert side_thread.run(finished.is_set, lambda: 60.0)
    finally:
        side_thread.close()


def test_a_message_passes_once_in_a_while_for_each_key() -> None:
    times = iter([0.0, 1.0, 1.0, 5.0, 6.0])
    throttle = Throttle(every_s=5.0, clock=lambda: next(times))
    assert [throttle.passes(key) for key in ("a", "a", "b", "a", "b")] == [True, False, True, True, True]
    assert throttle.held_back == {"a": 1, "b": 0}
