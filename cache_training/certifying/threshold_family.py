"""The family of settings that a certificate tests: thresholds for every exit, from the safest setting to the boldest.

All thresholds come from one ladder of doubts, and from one setting to the next bolder one no exit's threshold rises. A
family is made of tuning audits alone and is complete before anyone looks at the frames that certify.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

#: The ladder, from the safest step to the boldest: a frame may leave at an exit where its calibrated doubt, 1 - score,
#: is at most this.
DOUBTS = np.geomspace(2e-4, 0.4, 60)
#: A threshold that no score reaches.
CLOSED = 2.0
#: The longest family.
LONGEST = len(DOUBTS)
#: Thresholds by the number of steps that an exit has climbed; float32 as in
#: :func:`layercache.early_exit.policy.cascade`, so that the engine compares scores with these very numbers.
_THRESHOLDS = np.append(CLOSED, 1 - DOUBTS).astype(np.float32)
#: The calibrated doubt counts as much as this many tuning frames; it is added to the observed errors.
_PRIOR_FRAMES = 200
#: Where exits climb, a frame counts as wrong as often as so many neighbours: frames that the exit doubts a little less
#: or more. Otherwise, with few frames, each exit would stop just short of the wrong answers that happen to be among
#: them, and on the stream the frames around these would be wrong.
_NEIGHBOURS = 80
#: Where a family is thinned, risks below this are as good as none.
_NEGLIGIBLE = 1e-4
#: Sums of the same numbers in another order differ by less.
_ROUNDING = 1e-9

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.intp]
#: Time ``[...]``, 1 being the plain model's, by the shares of frames that leave at each exit and, last, at none:
#: ``[..., exits + 1]``. A frame must never take longer where it leaves earlier.
Spending = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Leaving:
    """For one exit alone: from which step of the ladder on each of N tuning audits may leave, and at what risk."""

    opens: Steps
    """``[N]``: the first of :data:`DOUBTS` at which the frame may leave; ``len(DOUBTS)``: it never may."""
    risk: Floats
    """``[N]``: 1 for a wrong answer, plus a share of the frame's doubt."""
    even_risk: Floats
    """``[N]``: the same, wrong answers being spread over frames that the exit doubts nearly as much."""

    @classmethod
    def of(cls, scores: npt.NDArray[np.float32], wrong: npt.NDArray[np.bool_]) -> Self:
        """For N calibrated scores, and whether the exit's labels are others than the full model's.

        >>> leaving = Leaving.of(np.array([1.0, 0.7, 0.2], np.float32), np.array([False, True, False]))
        >>> leaving.opens.tolist(), leaving.risk.round(2).tolist(), leaving.even_risk.round(2).tolist()
        ([0, 57, 60], [0.0, 21.0, 53.33], [0.33, 20.33, 53.67])
        """
        # Thresholds fall as doubts rise: both sides are negated. They are float32 as in the engine.
        opens = np.searchsorted(-_THRESHOLDS[1:], -scores)
        doubts = (1 - scores).astype(np.float64)
        prior = _PRIOR_FRAMES / len(doubts) * doubts
        return cls(opens, wrong + prior, _mean_of_neighbours(wrong, doubts) + prior)


def _mean_of_neighbours(values: npt.NDArray[np.bool_], doubts: Floats) -> Floats:
    order, place = np.argsort(doubts, kind="stable"), np.arange(len(doubts))
    first = np.maximum(place - _NEIGHBOURS // 2, 0)
    end = np.minimum(place + _NEIGHBOURS // 2 + 1, len(doubts))
    until = np.append(0.0, values[order].cumsum())
    means = np.empty(len(doubts))
    means[order] = (until[end] - until[first]) / (end - first)
    return means


@dataclass(frozen=True)
class ThresholdFamily:
    """Settings from the safest to the boldest, and what tuning expects of each."""

    thresholds: npt.NDArray[np.float32]
    """``[settings, exits]``: down a column they never rise. :data:`CLOSED` where the exit is closed."""
    risks: Floats
    """``[settings]``: the share of frames on which the exits differ, smoothed by their calibrated doubt."""
    times: Floats
    """``[settings]``: they never rise; 1 is the plain model's."""

    def target(self, risk: float) -> int:
        """The boldest setting that has, like all safer ones, at most this risk; -1 where the safest has more.

        Of settings that tuning cannot tell from that one, because no frame's doubt lies between their thresholds, it is
        the safest.
        """
        boldest = int(np.append(self.risks > risk, True).argmax()) - 1
        return int((self.times <= self.times[boldest] + _ROUNDING).argmax()) if boldest >= 0 else -1

    def time_saved(self, setting: int) -> float:
        """A share of the plain model's time; minus infinity for -1, where no setting will do."""
        return 1 - float(self.times[setting]) if setting >= 0 else -np.inf


def with_one_doubt(exits: Sequence[Leaving], spending: Spending) -> ThresholdFamily:
    """All exits, in the model's order, climb the ladder side by side."""
    size, frames = len(DOUBTS), len(exits[0].opens)
    left, risks = np.empty((size, len(exits) + 1)), np.zeros(size)
    taken = np.full(frames, size)  # by an earlier exit, from this setting on
    for number, one in enumerate(exits):
        here = one.opens < taken
        opens, closes = one.opens[here], taken[here]
        left[:, number] = _by_setting(opens, closes) / frames
        risks += _by_setting(opens, closes, one.risk[here])
        taken = np.minimum(taken, one.opens)
    left[:, -1] = 1 - left[:, :-1].sum(1)
    thresholds = np.repeat(_THRESHOLDS[1:, None], len(exits), 1)
    return ThresholdFamily(thresholds, risks / (frames + _PRIOR_FRAMES), spending(left))


def _by_setting(opens: Steps, closes: Steps, weights: Floats | None = None) -> npt.NDArray[np.float64 | np.intp]:
    """``[settings]``: how many frames, or how much of ``weights``, lie within [opens, closes) at every setting."""
    size = len(DOUBTS) + 1
    changes = np.bincount(opens, weights, size) - np.bincount(closes, weights, size)
    within: npt.NDArray[np.float64 | np.intp] = changes.cumsum()[:-1]
    return within


def with_own_doubts(exits: Sequence[Leaving], spending: Spending, risk: float) -> ThresholdFamily:
    """Each exit, in the model's order, climbs when that saves the most time for the even risk that it adds.

    All are closed at first. Again and again one exit climbs, as many steps as are best, until no climb saves time. So
    heads before a much better last exit open late, and an exit that is never sure stays closed. (Greedy: on few exits,
    where all settings can be tried, the best one or close to it.) Settings that have more risk than a bolder one are
    left out, and of more than :data:`LONGEST` some others, but not the boldest within ``risk``. A single exit climbs
    just as by :func:`with_one_doubt`.
    """
    steps, risks, times = _Climb(exits, spending).run()
    bolder = np.append(np.minimum.accumulate(risks[::-1])[-2::-1], np.inf)  # the least risk of any bolder setting
    kept = np.flatnonzero(risks <= bolder + _ROUNDING)
    kept = kept[_spread(risks[kept], risk)]
    return ThresholdFamily(_THRESHOLDS[steps[kept]], risks[kept], times[kept])


def _spread(risks: Floats, keep: float) -> Steps:
    """At most :data:`LONGEST` of these rising risks, about evenly by logarithm; the last within ``keep`` stays."""
    kept, logs = np.arange(len(risks)), np.log(risks + _NEGLIGIBLE)
    target = np.flatnonzero(risks <= keep)[-1:]
    while len(kept) > LONGEST:
        gaps = np.where(np.isin(kept[1:-1], target), np.inf, logs[kept[2:]] - logs[kept[:-2]])
        kept = np.delete(kept, 1 + gaps.argmin())
    return kept


class _Climb:
    """The way of E exits up the ladder, by N tuning audits."""

    def __init__(self, exits: Sequence[Leaving], spending: Spending) -> None:
        self._opens = np.stack([one.opens for one in exits])
        self._risks = np.array([[one.even_risk for one in exits], [one.risk for one in exits]])  # both [E, N]
        self._spending = spending
        count, frames = self._opens.shape
        self._at = np.zeros(count, np.intp)  # steps that each exit has climbed
        self._leaves = np.full(frames, count)  # where each frame leaves: at an exit or, as number E, at none
        self._risks_now = np.zeros((2, frames))

    def run(self) -> tuple[Steps, Floats, Floats]:
        """Every step of any exit is a setting: steps ``[settings, exits]``, risks and times ``[settings]``."""
        count, frames = self._opens.shape
        steps: list[Steps] = []
        risks, times = [np.zeros(0)], [np.zeros(0)]
        time_now = float(self._spending(np.append(np.zeros(count), 1.0)))
        while True:
            even, risk, time = self._moves()
            best = _best(even - self._risks_now[0].sum(), time_now - time)
            if best is None:
                break
            number, target = best
            passed = slice(self._at[number], target + 1)
            for step in range(passed.start, passed.stop):
                self._at[number] = step + 1
                steps.append(self._at.copy())
            risks.append(risk[number, passed])
            times.append(time[number, passed])
            time_now = float(time[number, target])
            here = (self._leaves > number) & (self._opens[number] <= target)
            self._leaves[here], self._risks_now[:, here] = number, self._risks[:, number, here]
        tuned = np.concatenate(risks) / (frames + _PRIOR_FRAMES)
        return np.array(steps, np.intp).reshape(-1, count), tuned, np.concatenate(times)

    def _moves(self) -> tuple[Floats, Floats, Floats]:
        """Even risk and risk of all frames, and time: ``[exits, steps]``, were one exit alone to climb to a step."""
        (count, frames), size = self._opens.shape, len(DOUBTS) + 1
        number = np.arange(count)
        free = self._leaves > number[:, None]  # no exit up to this one takes the frame
        step = (number[:, None] * size + self._opens)[free]
        even, risk = (
            now.sum() + np.bincount(step, (there - now)[free], count * size).reshape(count, size)[:, :-1].cumsum(1)
            for there, now in zip(self._risks, self._risks_now, strict=True)
        )
        come_from = np.broadcast_to(self._leaves, free.shape)[free]
        moved = np.bincount(step * (count + 1) + come_from, minlength=count * size * (count + 1))
        moved = moved.reshape(count, size, count + 1)[:, :-1].cumsum(1)
        left = np.bincount(self._leaves, minlength=count + 1) - moved
        left[number, :, number] += moved.sum(2)
        return even, risk, self._spending(left / frames)


def _best(added: Floats, saved: Floats) -> tuple[int, int] | None:
    """The exit that climbs, and to which step: what saves the most for the risk it adds; None where nothing saves."""
    worth = saved > _ROUNDING
    if not worth.any():
        return None
    free = worth & (added <= _ROUNDING)
    gain = np.where(free, saved, 0.0) if free.any() else np.where(worth, saved / np.where(worth, added, 1.0), 0.0)
    number, step = divmod(int(gain.argmax()), len(DOUBTS))
    return number, step
