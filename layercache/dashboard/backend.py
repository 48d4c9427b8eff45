"""What the page needs of whatever stands behind it: the state, and the actions of an operator."""

from typing import Protocol

from layercache.dashboard.state import Snapshot


class Backend(Protocol):
    """What the page asks for and does. The actions may take seconds (a store in the cloud): not in an event loop.

    Each returns a sentence that says what holds from then on, and raises
    :class:`layercache.early_exit.store.head_store.StoreError`, whose message says why and what to do. ``reason`` is
    the operator's, and may be empty.
    """

    def snapshot(self) -> Snapshot:
        """The state now: quick, from any thread."""

    def roll_back(self, version: str | None = None, reason: str = "") -> str:
        """Sends workers back to a version, by default the latest one's predecessor, until the trainer publishes."""

    def pin(self, version: str | None = None, reason: str = "") -> str:
        """Holds workers at a version, by default the one that they use, until :meth:`unpin`."""

    def unpin(self, reason: str = "") -> str:
        """Lets workers follow the latest version again, after :meth:`pin` or :meth:`close_exits`."""

    def close_exits(self, reason: str = "") -> str:
        """Keeps every exit closed until :meth:`unpin`: all frames run the full model."""
