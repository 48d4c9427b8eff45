"""Simulated schedules log nothing; the tests that come after them do."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.simulation.worker_process import quiet_logs


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("layercache.stream")
    level = logger.level
    quiet_logs()
    yield
    logger.setLevel(level)
