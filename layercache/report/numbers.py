"""What a report says, as data: the page is made of it, and ``--json`` writes it."""

from typing import Literal

import msgspec

from layercache.early_exit.cutting.costs import CutCost
from layercache.schemas.manifest import Certificate


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where it was measured."""

    processor: str
    cores: int
    torch_threads: int
    torch: str
    device: str
    dtype: str


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """The model and what it costs."""

    name: str
    fingerprint: str
    classes: int
    has_weights: bool
    """False for a torchvision or timm model without weights: it answers at random."""
    flops: int
    frame_ms: float
    cuts: tuple[CutCost, ...]
    """All places where it can be cut, in order."""


class Frames(msgspec.Struct, frozen=True, kw_only=True):
    """What was read."""

    source: str
    available: int | None
    """None where the source does not say."""
    streamed: int
    exam: int
    skipped: int
    skipped_notes: tuple[str, ...]
    shuffled: bool
    labelled: int
    """Frames of stream and exam whose true class is known."""
    keyed: bool
    """One camera's frames: near-copies within ``promise.block_s`` count together."""
    blocks: int
    """Independent frames of the stream: all of them, or one for each block of time."""
    copies: int
    """Frames of the stream that are exact copies of an earlier one, as the model sees them."""
    near_copies: int
    """Frames of the stream that are nearly the same as the one before."""
    likeness: float | None
    """Of a camera's neighbouring blocks, see :class:`layercache.cache_training.certifying.scenes.SceneWatch`."""
    scenes_outlast: bool
    """Whether these are so alike that nothing is certified on them."""
    exam_copies: int
    """Frames of the exam that are copies of a frame of the stream; they are left out of its numbers, see ``fresh``."""
    fresh: bool
    """Whether the exam's numbers are of frames that were not in the stream."""
    classes_seen: int
    top_class: str
    top_class_share: float
    mean_confidence: float
    """The full model's in its own answers."""


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """The rehearsal: shares over frames as served, audits included."""

    budget: float
    at: tuple[int, ...]
    """Frames of the stream at which the following are given, each over the latest ``window`` frames."""
    window: int
    hit_rate: tuple[float, ...]
    time_saved: tuple[float, ...]
    flops_saved: tuple[float, ...]
    audited: tuple[float, ...]
    disagreement: tuple[float, ...]
    """Of the exits, had no frame been audited."""
    versions: tuple["Version", ...]
    served_disagreements: int
    """In the whole stream, counted against the full model on every frame."""
    accuracy: float | None
    full_accuracy: float | None


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version of heads that the stream's trainer has published."""

    at_frame: int
    reason: str
    exits: tuple[str, ...]
    audit_rate: float


class Exam(msgspec.Struct, frozen=True, kw_only=True):
    """Heads on frames that they have never learnt from, none of them audited."""

    frames: int
    hit_rate: float
    time_saved: float
    """Of the plain model's, by the times of pieces and heads that were measured here."""
    flops_saved: float
    """Below 0 where more were spent than the plain model spends, as by a model in int8 that frames pass."""
    disagreements: int
    lowest: float
    """Clopper-Pearson interval of the disagreement, 95 %."""
    highest: float
    exits: dict[str, float]
    """Share of frames by where they were answered, ``full`` included."""
    accuracy: float | None
    full_accuracy: float | None
    speedup: float | None = None
    """Frames per second with the exits over frames per second of PyTorch, the worker's whole path, on this machine."""
    speedup_plain: float | None = None
    """The same over the best plain runtime."""
    with_exits_fps: float | None = None
    closed_fps: float | None = None
    plain_fps: float | None = None

    @property
    def disagreement(self) -> float:
        """Share of frames answered otherwise than by the full model."""
        return self.disagreements / self.frames


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """What may be saved at one budget."""

    max_disagreement: float
    state: Literal["certified", "estimated", "nothing"]
    """``estimated``: thresholds that tuning expects to keep the budget, not certified."""
    certificate: Certificate | None
    attempts: int
    audits: int
    """The most independent audits that ever waited to certify, or that have certified."""
    audits_needed: int
    """That the first attempt waits for."""
    frames_needed: int
    """Frames to read until there are that many, about: the part kept for the exam included."""
    room: int
    """Certification audits that fit into the trainer's memory."""
    exam: Exam | None


class Plain(msgspec.Struct, frozen=True, kw_only=True):
    """The best plain runtime: the quickest way to run the whole model here, without exits and without a certificate."""

    name: str
    """``PyTorch``, or OpenVINO's with its precision."""
    note: str
    """Why a runtime could not be tried; empty where all were."""
    heats_fps: dict[str, float]
    """Frames per second by runtime, from which it was chosen; empty where PyTorch had no rival."""
    frames: int
    """Of the exam, those that are in its numbers."""
    disagreements: int
    """Frames to which it gives another label than the model."""
    lowest: float
    """Clopper-Pearson interval of the disagreement, 95 %."""
    highest: float


class OfClass(msgspec.Struct, frozen=True, kw_only=True):
    """The exam's frames to which the full model gives one class."""

    name: str
    frames: int
    hit_rate: float
    disagreements: int


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of the exits' thresholds on the exam's frames."""

    disagreement: float
    hit_rate: float
    flops_saved: float
    time_saved: float
    """Expected of a micro-batch, by the pieces' times measured here."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the reader must know about the numbers."""

    level: Literal["warning", "note"]
    title: str
    text: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything."""

    layercache: str
    created: str
    command: str = ""
    seconds: float = 0.0
    interrupted: bool = False
    confidence: float
    max_disagreement: float
    least_audit_rate: float
    """What the trainer lowers the share of audited frames to."""
    machine: Machine
    model: Model
    frames: Frames
    stream: Stream
    budgets: tuple[Budget, ...]
    plain: Plain
    classes: tuple[OfClass, ...]
    """At the promised budget, the most disagreements first."""
    curve: tuple[Point, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def promised(self) -> Budget:
        """The budget that the settings promise."""
        return next(one for one in self.budgets if one.max_disagreement == self.max_disagreement)
