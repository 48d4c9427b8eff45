"""What the demo counts while the stream runs: pure, fed with answers and audits in the order in which they arrive."""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

from layercache.schemas.prediction import FULL


@dataclass(frozen=True, slots=True)
class Answer:
    """One frame's prediction as far as the demo wants to know it."""

    frame: int
    """The frame's place in the stream, from 0."""
    partition: int
    offset: int
    label: int
    exit: str
    audited: bool
    version: str | None
    flops_share: float
    """FLOPs spent on it, as a share of the plain model's."""
    time_share: float
    """The same for time, as the trainer's machine took it."""
    frame_ms: int
    predicted_ms: int
    inference_ms: float
    """Spent by the engine on its whole micro-batch."""

    @property
    def hit(self) -> bool:
        return self.exit != FULL


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit found: whether the exits would have answered otherwise than the full model."""

    partition: int
    offset: int
    exits_open: bool
    """False where the frame's worker had no open exit: nothing was at risk, so it says nothing."""
    disagrees: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the stream at one moment; shares over the last ``window`` answers unless they say otherwise."""

    frames: int
    answered: int
    window: int
    hit_rate: float
    hits_by_exit: dict[str, float]
    flops_saved: float
    time_saved: float
    frames_per_s: float
    audited: float
    """Share of frames that were audits."""
    audits: int
    """Audits of open exits since the stream began."""
    audit_disagreements: int
    version: str | None
    versions: int
    """How many versions have answered frames."""
    history: tuple[float, ...]
    """Hit rates of the stream's consecutive slices, oldest first."""

    @property
    def audited_disagreement(self) -> float | None:
        """Share of the audits of open exits that disagreed; None before the first."""
        return self.audit_disagreements / self.audits if self.audits else None


class Tally:
    """Counts answers and audits.

    >>> tally = Tally(frames=2)
    >>> tally.add(Answer(0, 0, 0, 7, "layer2", False, "v1", 0.4, 0.5, 0, 5, 4.0))
    True
    >>> tally.snapshot().hit_rate
    1.0
    """

    def __init__(self, frames: int, window: int = 500, slices: int = 40) -> None:
        self.frames = frames
        self.duplicates: list[int] = []
        """Frames that were answered again."""
        self._answers: dict[int, Answer] = {}
        self._window: deque[Answer] = deque(maxlen=window)
        self._versions: dict[str, int] = {}
        self._version: str | None = None
        self._audits: dict[tuple[int, int], bool] = {}
        self._slice = max(1, frames // slices)
        self._slice_hits: Counter[int] = Counter()

    def add(self, answer: Answer) -> bool:
        """Counts an answer; False, and nothing but :attr:`duplicates` changes, where its frame had one already."""
        if answer.frame in self._answers:
            self.duplicates.append(answer.frame)
            return False
        self._slice_hits[len(self._answers) // self._slice] += answer.hit
        self._answers[answer.frame] = answer
        self._window.append(answer)
        if answer.version is not None and answer.version not in self._versions:
            self._versions[answer.version] = answer.frame
            self._version = answer.version
        return True

    def add_audits(self, audits: Iterable[Audit]) -> None:
        """Counts audits; each position once, however often its record is read."""
        for audit in audits:
            if audit.exits_open:
                self._audits[audit.partition, audit.offset] = audit.disagrees

    @property
    def complete(self) -> bool:
        """Whether every frame has its answer."""
        return len(self._answers) >= self.frames

    @property
    def answered(self) -> int:
        return len(self._answers)

    def answers(self) -> list[Answer]:
        """All answers in the order of the stream."""
        return [self._answers[frame] for frame in sorted(self._answers)]

    def audits(self) -> dict[tuple[int, int], bool]:
        """Audits of open exits: position (partition, offset) to whether it disagreed."""
        return dict(self._audits)

    def snapshot(self) -> Snapshot:
        """The state now."""
        recent = self._window
        n = len(recent) or 1
        exits = Counter(answer.exit for answer in recent if answer.hit)
        return Snapshot(
            frames=self.frames,
            answered=len(self._answers),
            window=len(recent),
            hit_rate=exits.total() / n,
            hits_by_exit={name: count / n for name, count in exits.items()},
            flops_saved=sum(1 - answer.flops_share for answer in recent) / n,
            time_saved=sum(1 - answer.time_share for answer in recent) / n,
            frames_per_s=_rate([answer.predicted_ms for answer in recent]),
            audited=sum(answer.audited for answer in recent) / n,
            audits=len(self._audits),
            audit_disagreements=sum(self._audits.values()),
            version=self._version,
            versions=len(self._versions),
            history=self._history(),
        )

    def _history(self) -> tuple[float, ...]:
        whole, rest = divmod(len(self._answers), self._slice)
        sizes = [self._slice] * whole + [rest] * (rest > 0)
        return tuple(self._slice_hits[place] / size for place, size in enumerate(sizes))


def _rate(times_ms: list[int]) -> float:
    if len(times_ms) <= 1:
        return 0.0
    spent = max(times_ms) - min(times_ms)
    return (len(times_ms) - 1) * 1000 / spent if spent else 0.0
