"""How long a worker that was told to stop still waits."""

import pytest

from layercache.stream.worker.stopping import STOP_PATIENCE_S, StopRequest


def test_patience_begins_with_the_first_signal_and_is_over_before_docker_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    stop = StopRequest()
    now += 1_000.0
    assert not stop.patience_is_over()
    stop.set()
    now += STOP_PATIENCE_S - 0.5
    stop.set()
    assert (stop(), stop.patience_is_over()) == (True, False)
    now += 1.0
    assert stop.patience_is_over()
    assert STOP_PATIENCE_S < 10
