"""What the dashboard shows: plain values, immutable, which the collector gathers and the page draws.

Times are milliseconds since the epoch, shares lie between 0 and 1. Text that comes from users (ids, keys, class names,
messages, reasons) stands here unchanged: the page must escape it.
"""

from typing import Literal

import msgspec

from layercache.dashboard.heads_state import Alarm, Heads
from layercache.schemas.manifest import Certificate
from layercache.schemas.prediction import FULL
from layercache.stream.kafka.offsets import PartitionLag

#: The name of the last segment's end: a frame there has run the whole model.
END = FULL


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A small picture in a format that every browser shows."""

    data: bytes
    content_type: Literal["image/png", "image/jpeg"]
    width: int
    height: int


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A frame and its answer."""

    id: str
    key: str | None
    """The stream's id (a camera, say); None where the frame had none."""
    partition: int
    offset: int
    at_ms: int
    """When the worker answered it."""
    class_name: str
    confidence: float
    exit: str
    """The exit that answered, or ``full``."""
    audited: bool
    overload: bool
    """Answered under the budget for overload."""
    version: str | None
    """The version of the heads in force; None where there were none."""
    latency_ms: float
    """From the frame's publishing to its answer, by the clocks of publisher and worker."""
    picture: Picture | None = None
    no_picture: str = ""
    """Why there is no picture."""


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of the model, from the cut before it (or the input) to its own."""

    cut: str
    """Where it ends; ``full`` for the last one."""
    time_share: float
    """Time of a frame that passes it, its head included, as a share of the plain model's."""
    left: int
    """How many of the counted frames left at its end: at its exit, or answered by the full model."""
    open: bool
    """Whether the version in force has an exit there; True for the last one."""


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """The model's segments, in its order, and the latest frames' way through them."""

    segments: tuple[Segment, ...] = ()
    frames: int = 0
    """How many of the latest answers are counted."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What happened within one slice of time. Without frames (or audits) there is no rate: None."""

    at_ms: int
    """When the slice began."""
    frames: int
    frames_per_s: float
    hit_rate: float | None
    """Share of the frames that left early; the whole includes audited frames."""
    flops_saved: float | None
    """Share of the plain model's FLOPs that were not spent, after subtracting the heads' cost; below 0 where more were
    spent, as a model in int8 that some frames pass does."""
    time_saved: float | None
    """The same of time, by the trainer's measurement of each version's segments and heads."""
    latency_p50_ms: float | None
    """From publishing to the answer."""
    latency_p99_ms: float | None
    audits: int
    disagreements: int
    """Audits of open exits, and how many of them the exits would have answered otherwise."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Complete slices of time without gaps, oldest first."""

    width_s: float
    points: tuple[Point, ...] = ()


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """The same numbers over the last minute, or less after a start: the top of the page shows them."""

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
    """The allowed disagreement (``max_disagreement``)."""
    confidence: float
    audits: int = 0
    """Of the version in force, since the dashboard has seen that version."""
    disagreements: int = 0
    tested: int = 0
    """Audits, counting one for each key and block of time: the others are near-copies."""
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
    """Work that waits, by the workers' own estimate; None where the dashboard does not read their metrics."""

    @property
    def total(self) -> int:
        """Records still to be read."""
        return sum(one.lag for one in self.partitions)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that the worker could not answer."""

    id: str
    key: str | None
    partition: int
    offset: int
    """Where the frame was on the frames topic."""
    at_ms: int
    """When the worker wrote the dead letter."""
    reason: str
    """One of :class:`layercache.schemas.dead_letter.Reason`."""
    message: str
    picture: Picture | None = None
    no_picture: str = ""


class DeadLetters(msgspec.Struct, frozen=True, kw_only=True):
    """The latest dead letters, newest first, and how many the dashboard has seen, by reason."""

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
    """The worker's own guard has closed its exits."""
    overload: bool
    overload_closed: bool
    lag_seconds: float
    distillation_share: float
    """Share of the misses that it sends to the trainer."""
    store_errors: int
    heads_refused: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the dashboard cannot reach or read right now. It goes on with the rest."""

    where: Literal["broker", "topics", "store", "metrics"]
    message: str
    """What it is and what to do."""
    since_ms: int


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything at one moment. A part that has not changed is the same object as in the last snapshot."""

    at_ms: int
    model: str | None = None
    """The model's fingerprint; None until a prediction or the store has shown it."""
    model_name: str | None = None
    """The name that its versions of heads give it."""
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
    """The budget for overload; None where neither the settings nor the version in force have one."""
    classes: tuple[ClassDisagreement, ...] = ()
    """Those with the most disagreements first."""
    heads: Heads = Heads()
    alarms: tuple[Alarm, ...] = ()
    """Active ones first, then the newest."""
    lags: tuple[GroupLag, ...] = ()
    dead_letters: DeadLetters = DeadLetters()
    workers: tuple[Worker, ...] = ()
    metrics: bool = False
    """Whether the dashboard reads metrics: without them :attr:`workers` is empty."""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """What the numbers leave out, and why: sampled, another model's, not ours."""
