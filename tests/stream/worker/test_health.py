"""Liveness, readiness and metrics on one port."""

import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from layercache.stream.worker.health import Health, serve
from layercache.stream.worker.metrics import Metrics


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as page:
            return page.status, page.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_probes_tell_a_worker_that_starts_from_one_that_works_and_one_that_stalls() -> None:
    registry, clock = CollectorRegistry(), Clock()
    Counter("layercache_frames", "Frames.", registry=registry).inc(3)
    health = Health(stalled_after_s=30, clock=clock, partitions=lambda: (2, 0))
    port = serve(registry, health, 0)

    def probes() -> tuple[int, int]:
        return get(port, "/healthz")[0], get(port, "/readyz")[0]

    clock.now = 1_000
    assert probes() == (200, 503)  # however long a start takes: the startup probe's matter
    health.beat()
    clock.now += 30
    assert probes() == (200, 200)
    clock.now += 1
    assert probes() == (503, 503)
    assert get(port, "/healthz")[1] == "the loop has stood still for 31 s\n"
    health.beat()
    assert probes() == (200, 200)
    assert "layercache_frames_total 3.0" in get(port, "/metrics")[1]


def test_a_port_that_is_taken_is_an_error() -> None:
    port = serve(CollectorRegistry(), Health(), 0)
    with pytest.raises(OSError, match="in use"):
        serve(CollectorRegistry(), Health(), port)


class Partitions:
    """How many are assigned, and how many of them unconfirmed."""

    now = (0, 0)

    def __call__(self) -> tuple[int, int]:
        return self.now


def test_a_worker_is_ready_once_the_starts_of_its_partitions_are_confirmed() -> None:
    clock, partitions = Clock(), Partitions()
    health = Health(settle_s=30, clock=clock, partitions=partitions)
    port = serve(CollectorRegistry(), health, 0)

    def beat(assigned: int, unconfirmed: int) -> tuple[int, str]:
        partitions.now = assigned, unconfirmed
        health.beat()
        return get(port, "/readyz")

    beat(0, 0)
    clock.now = 5
    # A cooperative group gives a newcomer none at first, and some once others have given them up.
    assert beat(0, 0) == (503, "waiting for partitions for 5 s\n")
    assert get(port, "/healthz") == (200, "working\n")
    assert beat(2, 2) == (503, "waiting for committed offsets for 0 s\n")
    clock.now = 8
    assert beat(2, 1) == (503, "waiting for committed offsets for 3 s\n")
    assert beat(2, 0) == (200, "working\n")
    assert beat(0, 0) == (200, "working\n")  # they have moved to others: nothing is missing
    # Another worker is gone: a rollout must wait until its partitions are answered again.
    assert beat(1, 1) == (503, "waiting for committed offsets for 0 s\n")


@pytest.mark.parametrize("partitions", [(0, 0), (1, 1)])  # more workers than partitions; one that never settles
def test_what_is_waited_for_does_not_hold_up_a_rollout_for_ever(partitions: tuple[int, int]) -> None:
    clock = Clock()
    health = Health(settle_s=30, clock=clock, partitions=lambda: partitions)
    clock.now = 1_000
    assert not health.settled  # it has not begun
    health.beat()
    clock.now += 30
    health.beat()
    assert not health.settled
    clock.now += 1
    assert health.settled


def test_a_workers_metrics_say_whether_it_is_settled() -> None:
    metrics = Metrics(max_batch=1)
    metrics.partitions.set(2)
    metrics.unconfirmed_partitions.set(1)
    metrics.health.beat()
    assert not metrics.health.settled
    metrics.unconfirmed_partitions.set(0)
    metrics.health.beat()
    assert metrics.health.settled
