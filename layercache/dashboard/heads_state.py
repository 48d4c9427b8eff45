"""What the dashboard shows of the heads: their versions, what each changed, which is in force, and alarms of drift.

As in :mod:`layercache.dashboard.state`, these are plain immutable values, with users' text as it came.
"""

from typing import Literal

import msgspec


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """An exit whose threshold is another than the predecessor's."""

    cut: str
    before: float
    after: float


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a version changed against its predecessor."""

    opened: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    moved: tuple[Moved, ...] = ()
    replaced: tuple[str, ...] = ()
    """Exits whose head is of another kind or shape."""
    overload: Literal["added", "dropped", ""] = ""
    """Whether thresholds for overload came or went."""
    summary: str = ""
    """The same as a sentence: ``opens layer2; layer3 from 0.91 to 0.88``."""


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version of the heads."""

    version: str
    created_ms: int | None
    reason: Literal["first", "better", "unsafe", "overload-unsafe", "operator"]
    predecessor: str | None
    exits: tuple[str, ...]
    """The cuts with an exit, in the model's order; none where every exit is closed."""
    hit_rate: float | None
    """Expected, as the next two; None where every exit is closed."""
    flops_saved: float | None
    time_saved: float | None
    upper_bound: float | None
    """Certified bound on the disagreement."""
    changes: Changes
    live: bool
    """Workers use it."""
    latest: bool
    pinned: bool


class Heads(msgspec.Struct, frozen=True, kw_only=True):
    """The versions that the store has, newest first, and what is in force."""

    store: str = ""
    """Where they lie, without secrets; empty where the model is not known yet."""
    versions: tuple[Version, ...] = ()
    live: str | None = None
    latest: str | None = None
    closed: bool = False
    """An operator keeps every exit closed."""
    pinned: bool = False
    """An operator holds a version, or keeps every exit closed."""
    pin_reason: str = ""
    attempts: int = 0
    """To certify."""
    sentence: str = ""
    """What is in force, for people."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """The stream has drifted, or a worker trusts its exits no longer."""

    kind: Literal["unsafe", "overload-unsafe", "exits-closed", "overload-closed"]
    """The first two: a version that the trainer published for it; the others: a worker's own guard, at this moment."""
    where: str
    """The version, or the worker's address."""
    at_ms: int | None
    """When; for a worker since when it has been seen."""
    active: bool
    """False for what has been healed since by a later version."""
    message: str
