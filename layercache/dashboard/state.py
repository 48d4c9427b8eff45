"""What the dashboard shows: plain values, immutable, gathered by the collector and drawn by the page.

Times are milliseconds since the epoch, shares lie between 0 and 1. Text that comes from users (ids, keys, class names,
messages, reasons) stands here as it came: the page that shows it must escape it.
"""

from typing import Literal

import msgspec

from layercache.dashboard.heads_state import Alarm, Heads
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
    left: int
    """How many of the counted frames left at its end: at its exit, or answered by the full model."""
    open: bool
    """Whether the version in force has an exit there; True for the last one."""


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """The model's segments, in its order, and the latest frames' way through them."""

    segments: tuple[Segment, ...] = ()
    frames: int = 0
    """How many frames are counted: the latest answers."""


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

    name: str
    audits: int
    disagreements: int
    upper_bound: float
    """Clopper-Pearson, for this class alone."""


class GroupLag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a group is behind in its topic."""

    who: Literal["workers", "trainer"]
    group: str
    topic: str
    partitions: tuple[PartitionLag, ...] = ()
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
