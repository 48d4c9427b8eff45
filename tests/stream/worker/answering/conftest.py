"""Heads come from a store in memory."""

import pytest

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.schemas.settings import Promise
from layercache.stream.worker.answering.heads_watch import HeadWatch
from tests.stream.worker.answering.stores import StoreInMemory


@pytest.fixture
def store() -> StoreInMemory:
    return StoreInMemory()


@pytest.fixture
def watch(store: StoreInMemory, traced: TracedModel) -> HeadWatch:
    return HeadWatch(store, traced, "serve", 4, Promise())
