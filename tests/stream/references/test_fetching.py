"""Fetching goes on whatever the store does: what is slow, fails, hangs or lies takes its own attempts, not others'."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from layercache.schemas.dead_letter import Reason
from layercache.schemas.settings import References
from layercache.stream.frames.decoding import DecodeError
from layercache.stream.references.fetching import MAX_LEFT_BEHIND, Fetcher
from testbed.waiting import wait_until
from tests.support.fickle_store import Fickle, fickle_store

PREFIXES: dict[str, dict[str, Any]] = {"fickle://bucket/": {"password": "hunter2"}}


@pytest.fixture
def store() -> Iterator[type[Fickle]]:
    with fickle_store(**{f"f{number}": b"%d" % number for number in range(100)}) as made:
        yield made


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


Fetch = Callable[..., "Future[bytes | DecodeError]"]


@pytest.fixture
def fetching(executor: ThreadPoolExecutor) -> Iterator[Callable[..., Fetch]]:
    """Makes fetchers; what they fetch is what comes out."""
    fetchers = []

    def make(**options: Any) -> Fetch:
        settings = References(**{"prefixes": PREFIXES, "timeout_s": 5, "attempts": 3} | options)
        fetcher = Fetcher(settings, max_bytes=1_000)
        fetchers.append(fetcher)
        return lambda name: fetcher.fetch(f"fickle://bucket/{name}", bytes, executor)

    yield make
    for fetcher in fetchers:
        fetcher.close()


def reason(future: "Future[bytes | DecodeError]") -> tuple[Reason, str]:
    error = future.result(30)
    assert isinstance(error, DecodeError)
    return error.reason, str(error)


def test_pictures_come_in_parallel_and_no_more_than_allowed(
    store: type[Fickle], fetching: Callable[..., Fetch]
) -> None:
    fetch = fetching(parallel=4)
    store.hanging = {f"bucket/f{number}" for number in range(8)}
    futures = [fetch(f"f{number}") for number in range(100)]
    wait_until(lambda: store.under_way == 4, "four reads under way")
    assert not any(future.done() for future in futures)
    store.released.set()
    assert [future.result(30) for future in futures] == [b"%d" % number for number in range(100)]
    assert store.most_under_way == 4


def test_a_failed_fetch_is_tried_again(store: type[Fickle], fetching: Callable[..., Fetch]) -> None:
    store.failures["bucket/f1"] = 2
    assert fetching(attempts=3)("f1").result(30) == b"1"
    assert store.opened["bucket/f1"] == 3


def test_then_it_is_given_up_and_no_option_is_told(store: type[Fickle], fetching: Callable[..., Fetch]) -> None:
    store.failures["bucket/f1"] = 3
    found, said = reason(fetching(attempts=3)("f1"))
    assert found is Reason.REFERENCE_FAILED
    assert "fickle://bucket/f1 could not be fetched: 3 attempts, the last: ConnectionError: no connection as" in said
    assert "hunter2" not in said
    assert store.opened["bucket/f1"] == 3


def test_what_is_not_there_is_tried_again_and_named(store: type[Fickle], fetching: Callable[..., Fetch]) -> None:
    found, said = reason(fetching(attempts=2)("absent"))
    assert (found, store.opened["bucket/absent"]) == (Reason.REFERENCE_FAILED, 2)
    assert "FileNotFoundError" in said


def test_too_many_bytes_are_not_asked_for_twice(store: type[Fickle], fetching: Callable[..., Fetch]) -> None:
    store.files["bucket/f2"] = bytes(1_001)
    store.sizes |= {"bucket/f1": 1_001, "bucket/f2": None}  # known before and while it is read
    fetch = fetching(attempts=3)
    for name in ("f1", "f2"):
        assert reason(fetch(name))[0] is Reason.TOO_MANY_BYTES
        assert store.opened[f"bucket/{name}"] == 1


def test_what_is_not_allowed_is_not_asked_for(
    store: type[Fickle], fetching: Callable[..., Fetch], executor: ThreadPoolExecutor
) -> None:
    future = fetching()("../other/f1")
    assert future.done()
    assert reason(future)[0] is Reason.REFERENCE_REFUSED
    nothing = Fetcher(References(), max_bytes=1_000)
    assert reason(nothing.fetch("fickle://bucket/f1", bytes, executor))[0] is Reason.REFERENCE_REFUSED
    nothing.close()
    assert not store.opened


@pytest.mark.patient
def test_a_read_that_hangs_is_left_behind_and_others_go_on(store: type[Fickle], fetching: Callable[..., Fetch]) -> None:
    store.hanging = {"bucket/f0"}
    fetch = fetching(timeout_s=1, attempts=2, parallel=1)
    hangs, others = fetch("f0"), [fetch(f"f{number}") for number in range(1, 10)]
    assert [future.result(30) for future in others] == [b"%d" % number for number in range(1, 10)]
    found, said = reason(hangs)
    assert (found, store.opened["bucket/f0"]) == (Reason.REFERENCE_FAILED, 2)
    assert "2 attempts, the last: no answer within 1 s" in said


@pytest.mark.patient
def test_waiting_for_others_takes_nobodys_attempts(store: type[Fickle], fetching: Callable[..., Fetch]) -> None:
    """A store that answers well within an attempt, and many frames at once: their turns come late, and none fails."""
    store.failures["bucket/f0"] = 2
    store.delay_s = 0.15
    fetch = fetching(timeout_s=0.6, attempts=3, parallel=2)  # alone, a frame may take 2.1 s; the last comes after 3
    futures = [fetch(f"f{number}") for number in range(40)]
    assert [future.result(30) for future in futures] == [b"%d" % number for number in range(40)]


def test_what_nobody_waits_for_is_not_fetched(store: type[Fickle], executor: ThreadPoolExecutor) -> None:
    store.hanging = {"bucket/f0"}
    fetcher = Fetcher(References(prefixes=PREFIXES, parallel=1), max_bytes=1_000)
    unwanted: set[str] = set()

    def fetch(name: str) -> "Future[bytes | DecodeError]":
        return fetcher.fetch(f"fickle://bucket/{name}", bytes, executor, lambda: name not in unwanted)

    futures = {name: fetch(name) for name in ("f0", "f1", "f2")}
    wait_until(lambda: store.under_way == 1, "the first is under way")
    unwanted |= {"f0", "f1"}
    store.released.set()
    assert [futures[name].result(30) for name in ("f0", "f2")] == [b"0", b"2"]
    assert "no worker waits" in reason(futures["f1"])[1]
    assert store.opened["bucket/f1"] == 0
    fetcher.close()


@pytest.mark.patient
def test_a_dead_store_does_not_exhaust_the_process(store: type[Fickle], fetching: Callable[..., Fetch]) -> None:
    store.hanging = {f"bucket/f{number}" for number in range(100)}
    fetch = fetching(timeout_s=0.05, attempts=1, parallel=8)
    said = [reason(fetch(f"f{number}"))[1] for number in range(MAX_LEFT_BEHIND + 5)]
    wait_until(lambda: store.under_way == MAX_LEFT_BEHIND, "as many reads hang as may")
    assert all("no answer within" in one for one in said[:MAX_LEFT_BEHIND])
    assert all("64 earlier reads of fickle://bucket/ have not come back" in one for one in said[MAX_LEFT_BEHIND:])
    store.hanging = set()
    store.released.set()
    wait_until(lambda: store.under_way == 0, "the reads have come back")

    def works_again() -> bool:
        return fetch("f1").result(30) == b"1"

    wait_until(works_again, "the store is used again")


def test_other_prefixes_do_not_suffer(store: type[Fickle], executor: ThreadPoolExecutor) -> None:
    class Dead:
        def read(self, location: object, max_bytes: int) -> bytes:
            store.released.wait(60)
            raise OSError

    settings = References(prefixes={**PREFIXES, "memory://dead/": {}}, timeout_s=1, attempts=1, parallel=100)
    fetcher = Fetcher(settings, max_bytes=1_000, places={"memory://dead/": Dead()})
    dead = [fetcher.fetch(f"memory://dead/{number}", bytes, executor) for number in range(MAX_LEFT_BEHIND + 10)]
    assert {reason(future)[0] for future in dead} == {Reason.REFERENCE_FAILED}
    assert fetcher.fetch("fickle://bucket/f1", bytes, executor).result(30) == b"1"
    fetcher.close()


def test_closing_waits_for_nobody(store: type[Fickle], executor: ThreadPoolExecutor) -> None:
    store.hanging = {"bucket/f1"}
    fetcher = Fetcher(References(prefixes=PREFIXES, timeout_s=60), max_bytes=1_000)
    future = fetcher.fetch("fickle://bucket/f1", bytes, executor)
    wait_until(lambda: store.under_way == 1, "the read hangs")
    began = time.monotonic()
    fetcher.close()
    assert time.monotonic() - began < 5
    assert future.cancelled()
