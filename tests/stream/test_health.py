"""Liveness, readiness and metrics on one port."""

import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from stream.health import Health, serve


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
    health = Health(stalled_after_s=30, clock=clock)
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
