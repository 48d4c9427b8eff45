"""The collector of cycles leaves records in flight alone, and still frees what nothing else frees."""

import gc
from collections.abc import Iterator

import pytest

from layercache.stream.worker.garbage import collect_seldom


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)
    gc.freeze()  # as conftest.py at the root has it


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """One entry for every collection."""
    found: list[str] = []

    def note(phase: str, _: object) -> None:
        if phase == "start":
            found.append(phase)

    gc.callbacks.append(note)
    yield found
    gc.callbacks.remove(note)


def test_records_in_flight_start_no_collection(collections: list[str]) -> None:
    collect_seldom()
    collections.clear()
    in_flight = [[(name, b"value")] for name in range(12_000)]  # headers, as the client makes them
    assert len(in_flight) == 12_000
    assert not collections


def test_cycles_are_freed_all_the_same(collections: list[str]) -> None:
    collect_seldom()
    collections.clear()
    for _ in range(250_000):
        cycle: list[object] = []
        cycle.append(cycle)
    assert collections
    assert gc.get_count()[0] <= 100_001
