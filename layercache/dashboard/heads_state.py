"""What the dashboard shows of the heads: their versions, what each changed, which is in force, and alarms of drift.

As in :mod:`layercache.dashboard.state`, these are plain immutable values, with users' text as it came.
"""

from typing import Literal

import msgspec


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """An exit whose threshold differs from its predecessor's."""

    cut: str
    before: float
    after: float


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What a version changed, compared with its predecessor."""

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
    """The expected value, as in the next two fields; None where every exit is closed."""
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
    """The versions in the store, newest first, and which one is in force."""

    store: str = ""
    """The store's URL without secrets; empty while the model is unknown."""
    versions: tuple[Version, ...] = ()
    live: str | None = None
    latest: str | None = None
    closed: bool = False
    """An operator keeps every exit closed."""
    pinned: bool = False
    """An operator holds a version, or keeps every exit closed."""
    pin_reason: str = ""
    attempts: int = 0
    """How often the trainer has tried to certify."""
    sentence: str = ""
    """Says in words what is in force."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """The stream has drifted, or a worker's guard has closed its exits."""

    kind: Literal["unsafe", "overload-unsafe", "exits-closed", "overload-closed"]
    """The first two: the trainer published a version because of it. The others: a worker's own guard, right now."""
    where: str
    """The version, or the worker's address."""
    at_ms: int | None
    """When the trainer published; for a worker, when the dashboard first saw the alarm."""
    active: bool
    """False once a later version has replaced the one with the alarm."""
    message: str
