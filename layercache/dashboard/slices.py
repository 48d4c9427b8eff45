"""Counts by slices of time; a window keeps a fixed number of the latest slices."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from layercache.dashboard.state import Now, Point, Series

#: Each bin of latencies is a tenth longer than the one before: a quantile is right to five percent.
_GROWTH = 1.1
_SHORTEST_MS, _LONGEST_MS = 0.1, 1e9
_LOG_GROWTH = math.log(_GROWTH)


class Latencies:
    """Counts latencies in milliseconds, in some 240 bins at most; shorter ones than 0.1 ms count as 0.1 ms.

    >>> latencies = Latencies()
    >>> for ms in range(1, 101):
    ...     latencies.add(ms)
    >>> round(latencies.quantile(0.5)), round(latencies.quantile(0.99))
    (51, 100)
    """

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()

    def add(self, ms: float) -> None:
        """Counts one latency."""
        within = min(max(ms, _SHORTEST_MS), _LONGEST_MS)
        self._bins[math.floor(math.log(within / _SHORTEST_MS) / _LOG_GROWTH)] += 1

    def merge(self, other: "Latencies") -> None:
        """Adds the other's counts."""
        self._bins.update(other._bins)

    def quantile(self, share: float) -> float | None:
        """The latency that ``share`` of all do not exceed, as the middle of its bin; None without latencies."""
        rank, seen = math.ceil(share * self._bins.total()), 0
        for number in sorted(self._bins):
            seen += self._bins[number]
            if seen >= rank:
                return _SHORTEST_MS * math.exp((number + 0.5) * _LOG_GROWTH)
        return None


@dataclass
class Slice:
    """The counts of one slice of time."""

    frames: int = 0
    skipped: int = 0
    """Answers that the dashboard passed over unread."""
    hits: int = 0
    costed: int = 0
    """Frames whose cost is known, since the store has the heads that answered them."""
    flops: float = 0.0
    """FLOPs spent on those frames, in frames of the plain model; the next field: the same of time."""
    time: float = 0.0
    audits: int = 0
    disagreements: int = 0
    latencies: Latencies = field(default_factory=Latencies)

    def answered(self, hit: bool, cost: tuple[float, float] | None, latency_ms: float | None) -> None:
        """Counts a frame; ``cost`` is its FLOPs and time, as shares of the plain model's."""
        self.frames += 1
        self.hits += hit
        if cost is not None:
            self.costed += 1
            self.flops += cost[0]
            self.time += cost[1]
        if latency_ms is not None:
            self.latencies.add(latency_ms)

    def merge(self, other: "Slice") -> None:
        """Adds the other's counts."""
        for name in ("frames", "skipped", "hits", "costed", "flops", "time", "audits", "disagreements"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latencies.merge(other.latencies)

    def now(self, seconds: float) -> Now:
        """The totals and rates of a slice that is ``seconds`` long."""
        return Now(
            frames=self.frames + self.skipped,
            frames_per_s=(self.frames + self.skipped) / seconds,
            hit_rate=self.hits / self.frames if self.frames else None,
            flops_saved=1 - self.flops / self.costed if self.costed else None,
            time_saved=1 - self.time / self.costed if self.costed else None,
            latency_p50_ms=self.latencies.quantile(0.5),
            latency_p99_ms=self.latencies.quantile(0.99),
        )


class Slices:
    """The latest ``count`` slices of ``width_s`` seconds each; older ones are dropped.

    Times are milliseconds since the epoch; a time after ``now_ms``, from a machine whose clock is ahead, counts as now.

    >>> slices = Slices(width_s=5, count=180)
    >>> slices.at(1_002_000, now_ms=1_004_000).answered(hit=True, cost=(0.4, 0.5), latency_ms=20)
    >>> [(point.at_ms, point.frames_per_s, point.hit_rate) for point in slices.series(now_ms=1_011_000).points]
    [(1000000, 0.2, 1.0), (1005000, 0.0, None)]
    """

    def __init__(self, width_s: float, count: int) -> None:
        self.width_s = width_s
        self.count = count
        self._width_ms = round(width_s * 1000)
        self._slices: dict[int, Slice] = {}
        self._newest = 0
        self._late = 0
        self._series: tuple[tuple[int, int], Series] | None = None

    def at(self, at_ms: int, now_ms: int) -> Slice:
        """The slice for an event at ``at_ms``; one that no series shows if the event is older than the window."""
        number = min(at_ms, now_ms) // self._width_ms
        self._late += number != now_ms // self._width_ms
        found = self._slices.get(number)
        if found is None:
            found = Slice()
            if number > self._newest - self.count:
                self._slices[number] = found
                if number > self._newest:
                    self._newest = number
                    self._forget(number - self.count)
        return found

    def series(self, now_ms: int) -> Series:
        """The complete slices of the window, from the first one with counts; the same object until they change."""
        current = now_ms // self._width_ms
        state = current, self._late
        if self._series is None or self._series[0] != state:
            oldest = max(min(self._slices, default=current), current - self.count)
            points = tuple(self._point(number) for number in range(oldest, current))
            self._series = state, Series(width_s=self.width_s, points=points)
        return self._series[1]

    def latest(self, seconds: float, now_ms: int) -> Now:
        """Totals of about the latest ``seconds``, in complete slices and the running one."""
        current = now_ms // self._width_ms
        first = current - max(1, round(seconds / self.width_s))
        seen = [number for number in self._slices if first < number <= current]
        total = Slice()
        for number in seen:
            total.merge(self._slices[number])
        # A stream that has just begun is not slow: divide by the time since its first slice.
        spent_ms = now_ms - min(seen, default=current) * self._width_ms
        return total.now(max(spent_ms, self._width_ms) / 1000)

    def __len__(self) -> int:
        return len(self._slices)

    def _point(self, number: int) -> Point:
        counts = self._slices.get(number, _NOTHING)
        now = counts.now(self.width_s)
        return Point(
            at_ms=number * self._width_ms,
            frames=now.frames,
            frames_per_s=now.frames_per_s,
            hit_rate=now.hit_rate,
            flops_saved=now.flops_saved,
            time_saved=now.time_saved,
            latency_p50_ms=now.latency_p50_ms,
            latency_p99_ms=now.latency_p99_ms,
            audits=counts.audits,
            disagreements=counts.disagreements,
        )

    def _forget(self, until: int) -> None:
        for number in [number for number in self._slices if number <= until]:
            del self._slices[number]


_NOTHING = Slice()


class Windows:
    """Several :class:`Slices` that count the same events: a short window and a long one."""

    def __init__(self, *slices: Slices) -> None:
        self.slices = slices

    def at(self, at_ms: int, now_ms: int) -> Iterator[Slice]:
        """The slice of each window."""
        return (one.at(at_ms, now_ms) for one in self.slices)
