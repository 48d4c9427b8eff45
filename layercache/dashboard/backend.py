"""What the page needs from the collector behind it: the state, and an operator's actions."""

from typing import Protocol

from layercache.dashboard.state import Snapshot


class Backend(Protocol):
    """Gives the page its state and carries out actions. A cloud store may take seconds: no event loop may call them.

    Each action returns a sentence that says what is now in force, and raises
    :class:`layercache.early_exit.store.head_store.StoreError`, whose message says why and what to do. ``reason`` is
    the operator's, and may be empty.
    """

    def snapshot(self) -> Snapshot:
        """The current state; quick, from any thread."""

    def roll_back(self, version: str | None = None, reason: str = "") -> str:
        """Sends workers back to a version, by default the latest one's predecessor, until the trainer publishes."""

    def pin(self, version: str | None = None, reason: str = "") -> str:
        """Holds workers at a version, by default the one that they use, until :meth:`unpin`."""

    def unpin(self, reason: str = "") -> str:
        """Lets workers follow the latest version again, after :meth:`pin` or :meth:`close_exits`."""

    def close_exits(self, reason: str = "") -> str:
        """Keeps every exit closed until :meth:`unpin`: all frames run the full model."""
