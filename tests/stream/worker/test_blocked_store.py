"""A store that hangs holds up neither the frames nor the end."""

import threading

from torch import Tensor

from layercache.early_exit.cutting.cuts import TracedModel
from layercache.early_exit.store.head_store import Live
from layercache.schemas.manifest import Manifest
from layercache.schemas.settings import Promise
from layercache.stream.worker.answering.heads_watch import HeadWatch


class Hanging:
    """Lets everybody wait until it is let go."""

    def __init__(self) -> None:
        self.asked, self.let_go = threading.Event(), threading.Event()

    def live(self) -> Live:
        self.asked.set()
        self.let_go.wait(120)
        return Live(None, closed=False, pinned=False)

    def latest(self) -> str | None:
        raise AssertionError("nothing is live")

    def load(self, version: str) -> tuple[Manifest, dict[str, Tensor]]:
        raise AssertionError("nothing is live")


def test_a_store_that_hangs_holds_up_nobody(traced: TracedModel) -> None:
    store = Hanging()
    watch = HeadWatch(store, traced, "serve", 4, Promise())
    try:
        watch.start(poll_s=0.01)
        assert store.asked.wait(60)
        assert watch.serving.engine.version is None
        watch.stop()
        assert not store.let_go.is_set()  # and yet it is over
    finally:
        store.let_go.set()
