"""Heads whose true risk is known: an integral over the difficulty of frames, taken on a fine grid."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.promise.simulated_streams import Floats, Ints, Latents, latents_of
from layercache.cache_training.learning.kept_frames import Frames
from layercache.early_exit.policy import cascade

#: Midpoints of the grid over the difficulty.
_GRID = (np.arange(4000) + 0.5) / 4000


class SimulatedHeads(Protocol):
    """Heads at ``exits`` cuts: what they think of frames, and how often they are wrong about them."""

    exits: int
    honest: bool
    """Whether tuning sees how often they are wrong; else it sees heads that are always right: a flattered choice."""

    def learn(self, frames: int, random: np.random.Generator, learnt: Sequence[Frames]) -> None:
        """The heads after so many audits, of which some were ``learnt`` from."""

    def doubts(self, latents: Latents) -> Floats:
        """``[N, exits]``: what the heads take for their chance to be wrong."""

    def chances(self, latents: Latents) -> Floats:
        """``[N, exits]``: their true chance to be wrong."""


def risks(heads: SimulatedHeads, open_exits: Sequence[int], thresholds: Sequence[float], classes: int) -> Floats:
    """``[classes]``: how often the open exits answer otherwise, for frames of new scenes to which a class was given."""
    found = np.empty(classes)
    for label in range(classes):
        nothing = np.zeros(len(_GRID))
        grid = Latents(_GRID, nothing, np.full(len(_GRID), -1), np.full(len(_GRID), label))
        scores = (1 - heads.doubts(grid)[:, open_exits]).astype(np.float32)
        exits = cascade(scores, np.array(thresholds, np.float32))
        chances = heads.chances(grid)[:, open_exits]
        found[label] = np.where(exits >= 0, chances[np.arange(len(exits)), exits], 0).mean()
    return found


@dataclass
class _NeverLearning:
    """Heads of one exit, at risk ``risk``, that never improve."""

    risk: float
    honest: bool = False
    exits: int = 1

    def learn(self, frames: int, random: np.random.Generator, learnt: Sequence[Frames]) -> None:
        """Nothing ever helps."""


@dataclass
class Flat(_NeverLearning):
    """The worst case: the same risk at every setting, also the safest, while bolder settings save more."""

    def doubts(self, latents: Latents) -> Floats:
        """Half of the frames leave at once; of the others more the bolder the setting."""
        u = latents.difficulty
        return np.where(u < 0.5, 1e-4, 3e-4 * 1000 ** (2 * u - 1))[:, None]

    def chances(self, latents: Latents) -> Floats:
        """All of the risk is in the half that leaves at once."""
        return np.where(latents.difficulty < 0.5, 2 * self.risk, 0.0)[:, None]


@dataclass
class OneClass(Flat):
    """The same, all of it in one class: ``risk`` is that class's."""

    label: int = 0

    def chances(self, latents: Latents) -> Floats:
        """Other classes are always right."""
        result: Floats = super().chances(latents) * (latents.label == self.label)[:, None]
        return result


@dataclass
class Memorising(Flat):
    """The same, but never wrong about scenes that were learnt from."""

    _known: Ints = field(default_factory=lambda: np.empty(0, np.int64))

    def learn(self, frames: int, random: np.random.Generator, learnt: Sequence[Frames]) -> None:
        """Remembers the scenes."""
        self._known = np.unique(np.concatenate([latents_of(frames).scene for frames in learnt]))

    def chances(self, latents: Latents) -> Floats:
        """What is not known is as bad as ever."""
        result: Floats = super().chances(latents) * ~np.isin(latents.scene, self._known)[:, None]
        return result


@dataclass
class Cliff(_NeverLearning):
    """Settings that save a little are safe; those that save much have a risk of ``risk``, just over the budget, say."""

    def doubts(self, latents: Latents) -> Floats:
        """A third leaves at the safest setting, another third from a bolder one on."""
        u = latents.difficulty
        return np.where(u < 1 / 3, 1e-4, np.where(u < 2 / 3, 1e-2, 0.9))[:, None]

    def chances(self, latents: Latents) -> Floats:
        """A tenth of the risk is in the first third, the rest in the second."""
        u = latents.difficulty
        result: Floats = 3 * self.risk * np.where(u < 1 / 3, 0.1, np.where(u < 2 / 3, 0.9, 0.0))[:, None]
        return result


@dataclass
class TwoCliffs:
    """Saving little is safe; more has a risk of ``risk``, just over one budget, say; still more one of ``bolder``."""

    risk: float
    bolder: float
    honest: bool = False
    exits: int = 1

    def learn(self, frames: int, random: np.random.Generator, learnt: Sequence[Frames]) -> None:
        """Nothing ever helps."""

    def doubts(self, latents: Latents) -> Floats:
        """A quarter leaves at the safest setting, a second from a bolder one on, a third from a still bolder one."""
        return self._by_quarter(latents, 1e-4, 3e-3, 5e-2, 0.9)

    def chances(self, latents: Latents) -> Floats:
        """A tenth of the smaller risk is in the first quarter."""
        steps = np.diff([0.0, 0.1 * self.risk, self.risk, self.bolder, self.bolder])
        return self._by_quarter(latents, *(4 * steps).tolist())

    def _by_quarter(self, latents: Latents, *values: float) -> Floats:
        result: Floats = np.array(values)[(4 * latents.difficulty).astype(np.int64)][:, None]
        return result


@dataclass
class Erratic(Flat):
    """Flattered heads that are now good and now bad: risks around ``risk``, a factor of two either way."""

    def __post_init__(self) -> None:
        self._middle = self.risk

    def learn(self, frames: int, random: np.random.Generator, learnt: Sequence[Frames]) -> None:
        """Another draw."""
        self.risk = float(self._middle * 2 ** random.uniform(-1, 1))


@dataclass
class Turning(_NeverLearning):
    """Never wrong until ``turns_after`` audits, ever after at ``risk`` at every setting; they save more and more.

    So the first attempts meet their targets, and what they pass on is there when a mistake can be made.
    """

    turns_after: int = 8000
    step: int = 1500
    """After so many audits a tenth more of the frames leaves."""
    _seen: int = 0

    def learn(self, frames: int, random: np.random.Generator, learnt: Sequence[Frames]) -> None:
        """Takes note of the time."""
        self._seen = frames

    @property
    def _leaving(self) -> float:
        return min(0.9, 0.2 + self._seen // self.step / 10)

    def doubts(self, latents: Latents) -> Floats:
        """A frame leaves at the safest setting or at none."""
        return np.where(latents.difficulty < self._leaving, 1e-4, 0.9)[:, None]

    def chances(self, latents: Latents) -> Floats:
        """Spread over the frames that leave."""
        turned = self._seen >= self.turns_after
        return np.where(latents.difficulty < self._leaving, turned * self.risk / self._leaving, 0.0)[:, None]


@dataclass
class Stairs(Turning):
    """The same, but always safe up to a setting, and at ``risk`` from a bolder one on, at which more leave."""

    bolder: float = 0.3
    """The share of frames that leave there alone."""
    doubt: float = 0.25

    def doubts(self, latents: Latents) -> Floats:
        """That setting lies a little beyond what tuning takes for safe."""
        found = super().doubts(latents)[:, 0]
        return np.where(self._within(latents), self.doubt, found)[:, None]

    def chances(self, latents: Latents) -> Floats:
        """Only frames that leave by the bolder setting are ever wrong."""
        return np.where(self._within(latents), self.risk / self.bolder, 0.0)[:, None]

    @property
    def _leaving(self) -> float:
        return min(0.65, 0.1 + self._seen // self.step * 0.08)

    def _within(self, latents: Latents) -> npt.NDArray[np.bool_]:
        u = latents.difficulty
        return (u >= self._leaving) & (u < self._leaving + self.bolder)


@dataclass
class Improving:
    """Two exits that get better with the frames they learn from, and are wrong ``lie`` times as often as they doubt."""

    lie: float = 1.0
    honest: bool = True
    exits: int = 2
    _powers: Floats = field(default_factory=lambda: np.array([1.0, 2.0]))

    def learn(self, frames: int, random: np.random.Generator, learnt: Sequence[Frames]) -> None:
        """The share of frames about which a head is sure grows with the logarithm of what it has seen."""
        self._powers = np.array([3.0, 6.0]) * (0.3 + np.log1p(frames / 1000))

    def doubts(self, latents: Latents) -> Floats:
        """Difficult frames are doubted."""
        result: Floats = 0.9 * latents.difficulty[:, None] ** self._powers
        return result

    def chances(self, latents: Latents) -> Floats:
        """Honest scores at ``lie = 1``."""
        return np.minimum(1.0, self.lie * self.doubts(latents))


@dataclass
class OnCompiledPath:
    """Heads that improve, and behind them the model itself in int8: ``risk`` is that end's, the same for ever.

    It doubts little of what it gets wrong, so that thresholds hardly help.
    """

    risk: float
    honest: bool = True
    lie: float = 1.0
    exits: int = 3
    _heads: Improving = field(init=False)

    def __post_init__(self) -> None:
        self._heads = Improving(lie=self.lie)

    def learn(self, frames: int, random: np.random.Generator, learnt: Sequence[Frames]) -> None:
        """The heads alone learn."""
        self._heads.learn(frames, random, learnt)

    def doubts(self, latents: Latents) -> Floats:
        """The end is sure of all but the most difficult frames."""
        end = np.where(latents.difficulty < 0.95, 1e-4, 0.5)
        return np.concatenate([self._heads.doubts(latents), end[:, None]], 1)

    def chances(self, latents: Latents) -> Floats:
        """The end's risk is spread over the frames that it is sure of, whatever their difficulty."""
        end = np.where(latents.difficulty < 0.95, self.risk / 0.95, 0.5)
        return np.concatenate([self._heads.chances(latents), end[:, None]], 1)
