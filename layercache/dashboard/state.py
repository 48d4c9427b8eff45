"""What the dashboard shows: plain values, immutable, gathered by the collector and drawn by the page.

Times are milliseconds since the epoch, shares lie between 0 and 1. Text that comes from users (ids, keys, class names,
messages, reasons) stands here as it came: the page that shows it must escape it.
"""

from typing import Literal, Protocol

import msgspec

from layercache.schemas.manifest import Certificate
from layercache.schemas.prediction import FULL
from layercache.stream.kafka.offsets import PartitionLag

#: The name of the last segment's end, where a frame has run the whole model.
END = FULL


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A small picture that every browser shows."""

    data: bytes
    content_type: Literal["image/png", "image/jpeg"]
    width: int
    height: int


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that was answered."""

    id: str
    key: str | None
    """The stream's id (a camera, say); None where the frame had none."""
    partition: int
    offset: int
    at_ms: int
    """When it was answered."""
    label: int
    class_name: str
    confidence: float
    exit: str
    """The exit that answered, or ``full``."""
    audited: bool
    overload: bool
    """Answered under the budget for overload."""
    version: str | None
    """Of the heads that were in force; None where none were."""
    latency_ms: float
    """From the frame's publishing to its answer, by the clocks of publisher and worker."""
    picture: Picture | None = None
    no_picture: str = ""
    """Why there is no picture."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of the model, from the cut before it (or the input) to its own."""

    cut: str
    """Where it ends; ``full`` for the last one."""
    flops_share: float
    """FLOPs of a frame that passes it, its head included, as a share of the plain model's."""
    entered: int
    """Frames of the window that came in."""
    left: int
    """Of these, how many were answered at its end: at its exit, or by the full model."""
    open: bool
    """Whether the version in force has an exit there; True for the last one."""

    @property
    def passed(self) -> int:
        """Frames that went on from here."""
        return self.entered - self.left


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """The model's segments, in its order, and the latest frames' way through them."""

    segments: tuple[Segment, ...] = ()
    frames: int = 0
    """How many frames are counted: the latest answers."""
    since_ms: int | None = None
    """When the first of them was answered."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What happened within one slice of time. Without frames (or audits) there is no rate: None."""

    at_ms: int
    """When the slice began."""
    frames: int
    frames_per_s: float
    hit_rate: float | None
    """Frames that left early, audited ones included in the whole."""
    flops_saved: float | None
    """FLOPs not spent, heads counted, of what the plain model would have spent."""
    time_saved: float | None
    """The same of time, as the trainer measured the pieces of each version."""
    latency_p50_ms: float | None
    """From publishing to the answer."""
    latency_p99_ms: float | None
    audits: int
    disagreements: int
    """Audits of open exits, and how many of them the exits would have answered otherwise."""

    @property
    def disagreement(self) -> float | None:
        """Share of the audits that disagreed; None where there were none."""
        return self.disagreements / self.audits if self.audits else None


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Slices of time without gaps, oldest first, none after the last whole one."""

    width_s: float
    points: tuple[Point, ...] = ()


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """The same numbers over the last minute (or since less): what stands on top of the page."""

    frames: int = 0
    frames_per_s: float = 0.0
    hit_rate: float | None = None
    flops_saved: float | None = None
    time_saved: float | None = None
    latency_p50_ms: float | None = None
    latency_p99_ms: float | None = None


class Disagreement(msgspec.Struct, frozen=True, kw_only=True):
    """What audits say of one budget: the everyday one, or overload's."""

    budget: float
    """What is allowed (``max_disagreement``)."""
    confidence: float
    audits: int = 0
    """Of the version in force, since the dashboard sees it."""
    disagreements: int = 0
    tested: int = 0
    """Audits of which at most one is from one key and block of time: the others are near-copies."""
    tested_disagreements: int = 0
    upper_bound: float | None = None
    """Clopper-Pearson bound at ``confidence`` on the disagreement, from ``tested``; None without audits."""
    certificate: Certificate | None = None
    """The live version's for this budget; None where no exit is open."""
    source: Literal["topic", "metrics", "none"] = "none"
    """Who counted the audits: the dashboard on the distillation topic, or the workers, since they started."""

    @property
    def rate(self) -> float | None:
        """Share of the audits that disagreed; None without audits."""
        return self.disagreements / self.audits if self.audits else None


class ClassDisagreement(msgspec.Struct, frozen=True, kw_only=True):
    """Audits of one class of the full model, under the version in force."""

    label: int | None
    """None where only the name is known."""
    name: str
    audits: int
    disagreements: int
    upper_bound: float
    """Clopper-Pearson, for this class alone."""


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
    audit_rate: float
    hit_rate: float | None
    """Expected, as the next two; None where every exit is closed."""
    flops_saved: float | None
    time_saved: float | None
    upper_bound: float | None
    """Certified bound on the disagreement."""
    max_disagreement: float | None
    """What it was certified for."""
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


class GroupLag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a group is behind in its topic."""

    who: Literal["workers", "trainer"]
    group: str
    topic: str
    partitions: tuple[PartitionLag, ...] = ()
    at_ms: int = 0
    """When the broker was asked."""
    seconds: float | None = None
    """Of work that waits, as the workers reckon it; None where their metrics are not read."""

    @property
    def total(self) -> int:
        """Records still to be read."""
        return sum(one.lag for one in self.partitions)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that could not be answered."""

    id: str
    key: str | None
    partition: int
    offset: int
    """Where the frame was on the frames topic."""
    at_ms: int
    """When it was put aside."""
    reason: str
    """One of :class:`layercache.schemas.dead_letter.Reason`."""
    message: str
    picture: Picture | None = None
    no_picture: str = ""


class DeadLetters(msgspec.Struct, frozen=True, kw_only=True):
    """The latest, newest first, and how many the dashboard has seen, by reason."""

    latest: tuple[DeadLetter, ...] = ()
    by_reason: dict[str, int] = {}


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker, as its metrics show it."""

    target: str
    """Host and port."""
    version: str | None
    """Of the heads in force there."""
    frames: int
    """Answered since it started."""
    exits_closed: bool
    """By its own guard."""
    overload: bool
    overload_closed: bool
    lag_seconds: float
    distillation_share: float
    """Share of the misses that it sends to the trainer."""
    store_errors: int
    heads_refused: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that cannot be reached or read right now. The dashboard goes on with the rest."""

    where: Literal["broker", "topics", "store", "metrics"]
    message: str
    """What it is and what to do."""
    since_ms: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment. A part that has not changed since the last snapshot is the same object again."""

    at_ms: int
    started_ms: int
    """Since when the dashboard has been reading."""
    model: str | None = None
    """The model's fingerprint; None until a prediction or the store has shown it."""
    model_name: str | None = None
    """As its versions of heads name it."""
    brokers: str = ""
    frames_topic: str = ""
    now: Now = Now()
    frames: tuple[Frame, ...] = ()
    """The latest answers, newest first."""
    flow: Flow = Flow()
    recent: Series = Series(width_s=5.0)
    """A quarter of an hour."""
    day: Series = Series(width_s=300.0)
    """A day."""
    disagreement: Disagreement = Disagreement(budget=0.01, confidence=0.95)
    overload: Disagreement | None = None
    """The budget for overload; None where the settings and the version in force know none."""
    classes: tuple[ClassDisagreement, ...] = ()
    """Those with the most disagreements first."""
    heads: Heads = Heads()
    alarms: tuple[Alarm, ...] = ()
    """Active ones first, then the newest."""
    lags: tuple[GroupLag, ...] = ()
    dead_letters: DeadLetters = DeadLetters()
    workers: tuple[Worker, ...] = ()
    metrics: bool = False
    """Whether there are metrics to read: without them there are no workers here."""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """What the numbers leave out, and why: sampled, another model's, not ours."""


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
