"""A store of heads that says what a test tells it to."""

from torch import Tensor

from layercache.early_exit.store.head_store import Live, StoreError
from layercache.schemas.manifest import Manifest


class StoreInMemory:
    """Says what it is told to."""

    def __init__(self) -> None:
        self.versions: dict[str, tuple[Manifest, dict[str, Tensor]]] = {}
        self.state = Live(None, closed=False, pinned=False)
        self.error: StoreError | None = None
        self.looks = 0

    def publish(self, version: tuple[Manifest, dict[str, Tensor]]) -> None:
        self.versions[version[0].version] = version
        self.state = Live(version[0].version, closed=False, pinned=False)

    def live(self) -> Live:
        self.looks += 1
        if self.error:
            raise self.error
        return self.state

    def latest(self) -> str | None:
        return max(self.versions, default=None)

    def load(self, version: str) -> tuple[Manifest, dict[str, Tensor]]:
        return self.versions[version]
