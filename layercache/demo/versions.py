"""The versions of heads that predictions name, read from the store as they turn up."""

from layercache.early_exit.store.head_store import HeadStore
from layercache.schemas.manifest import Manifest, flops_shares, time_shares


class VersionGone(RuntimeError):
    """A prediction names a version that the store does not have."""


class Versions:
    """Manifests by version; each is read once."""

    def __init__(self, store: HeadStore) -> None:
        self._store = store
        self._known: dict[str, Manifest] = {}

    def flops_share(self, version: str | None, exit_name: str) -> float:
        """FLOPs of a frame that ``version`` answered at ``exit_name``, as a share of the plain model's."""
        return flops_shares(self._named(version))[exit_name]

    def time_share(self, version: str | None, exit_name: str) -> float:
        """The same for time, as it was on the trainer's machine."""
        return time_shares(self._named(version))[exit_name]

    def all(self) -> dict[str, Manifest]:
        """Every version that the store has, and any that it had when a prediction named it."""
        return self._known | {manifest.version: manifest for manifest in self._store.versions()}

    def _named(self, version: str | None) -> Manifest | None:
        if version is None:
            return None
        if version not in self._known:
            self._known = self.all()
        if version not in self._known:
            raise VersionGone(f"a prediction names heads {version}, which are not in the store")
        return self._known[version]
