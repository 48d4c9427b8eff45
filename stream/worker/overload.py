"""Is the worker too far behind? Then exits may open wider, where that was allowed and certified, until it is not."""

import math

from layercache.schemas.settings import Settings

#: Being behind ends once no more than this share of the objective has waited for so long: an overload that began at the
#: objective must not end a moment later, and begin again.
_RELEASED, _CALM_S = 0.25, 1.0
#: The pace is the mean over about the last so many seconds of work, and is unknown before so many micro-batches.
_MEMORY_S, _FEWEST_BATCHES = 5.0, 16


def lag_objective(settings: Settings) -> "LagObjective":
    """The objective that the settings name; one that is never missed where exits must not open wider."""
    may_open_wider = settings.promise.overload_max_disagreement is not None
    return LagObjective(settings.worker.target_lag_s if may_open_wider else math.inf)


class LagObjective:
    """Watches how many seconds of work wait; :attr:`missed` from when they exceed ``target_s`` until they are gone.

    Seconds of work are the frames that wait, times the seconds that a frame takes a busy worker *with its exits as on
    other days*. Timestamps of frames play no part: publishers set them, whose clocks may be wrong and whose records may
    be old, as when a day is replayed. The pace under overload plays none either: it would halve the figure at the
    moment when exits open wider, so that they would close again with the backlog still there. Only micro-batches with
    no room left count, be it for frames or, where frames are large, for bytes: in a micro-batch of a worker that waits
    for frames each frame takes longer, and a worker that is behind has only full ones.

    Pure: clocks are passed in, seconds of any one clock. ``target_s`` may be infinite, which is never missed.

    >>> lag = LagObjective(target_s=10)
    >>> for _ in range(20):
    ...     lag.answered(frames=8, seconds=0.08, full=True, under_overload=False)
    >>> lag.look(waiting=900, now=0.0), round(lag.seconds, 3)
    (False, 9.0)
    >>> lag.look(waiting=1100, now=1.0), lag.look(waiting=500, now=2.0)
    (True, True)
    >>> lag.look(waiting=200, now=3.0), lag.look(waiting=0, now=4.0)
    (True, False)
    """

    def __init__(self, target_s: float) -> None:
        if not target_s > 0:
            raise ValueError(f"an objective is a positive number of seconds, not {target_s}")
        self.target_s = target_s
        self.missed = False
        self.seconds = 0.0
        """Of work that waited at the last look; 0 while the pace is not known."""
        self._busy = self._frames = 0.0
        self._batches = 0
        self._calm_since: float | None = None

    def answered(self, frames: int, seconds: float, full: bool, under_overload: bool) -> None:
        """A micro-batch of ``frames`` took ``seconds``: with its commits, without the wait for frames to arrive.

        ``full`` says that it could have taken no more.
        """
        if under_overload or not full:
            return
        kept = math.exp(-seconds / _MEMORY_S)
        self._busy = kept * self._busy + seconds
        self._frames = kept * self._frames + frames
        self._batches += 1

    def look(self, waiting: int, now: float) -> bool:
        """Judges a backlog of ``waiting`` frames; returns :attr:`missed`."""
        known = self._batches >= _FEWEST_BATCHES and self._frames > 0
        self.seconds = waiting * self._busy / self._frames if known else 0.0
        if self.seconds > _RELEASED * self.target_s:
            self._calm_since = None
            self.missed = self.missed or self.seconds > self.target_s
        elif self.missed:
            self._calm_since = now if self._calm_since is None else self._calm_since
            self.missed = now - self._calm_since < _CALM_S
        return self.missed
