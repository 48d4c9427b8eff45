"""Streams and heads whose true risk is known, in the form that the trainer's own classes take in.

A simulated frame's pixels are its latent variables: how difficult it is, how lucky the heads are with it, and the scene
that it shows. So frames go through intake, dealing and windows like any other, and whoever scores them finds in them
what decides. The risk of a setting is an integral over the difficulty, taken on a fine grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from layercache.cache_training.learning.kept_frames import Frames
from layercache.early_exit.policy import cascade, mixed
from layercache.schemas.distillation import DistillationBatch, DistillationHeader

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

#: Midpoints of the grid over the difficulty.
_GRID = (np.arange(4000) + 0.5) / 4000


@dataclass(frozen=True)
class Latents:
    """What decides about N frames."""

    difficulty: Floats
    """Uniform in [0, 1)."""
    luck: Floats
    """Uniform in [0, 1): a head is wrong where its chance to be wrong is above this."""
    scene: Ints
    label: Ints
    """The full model's."""


def latents_of(frames: Frames) -> Latents:
    """Reads them off the pixels."""
    words = np.ascontiguousarray(frames.inputs).reshape(len(frames), 24).view(np.float64)
    return Latents(words[:, 0], words[:, 1], words[:, 2].astype(np.int64), frames.labels)


class Stream(Protocol):
    """Gives a stream's audits, in order."""

    class_shares: tuple[float, ...]

    def next(self, n: int) -> DistillationBatch:
        """About n more."""


@dataclass
class Independent:
    """Frames without keys: each is a draw of its own."""

    seed: int
    class_shares: tuple[float, ...] = (0.5, 0.5)
    _offset: int = 0
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def next(self, n: int) -> DistillationBatch:
        """n more."""
        label = self._random.choice(len(self.class_shares), n, p=self.class_shares)
        scene = self._offset + np.arange(n)
        latents = Latents(self._random.random(n), self._random.random(n), scene, label)
        self._offset += n
        nothing = np.zeros(n, np.int64)
        return _batch(latents, len(self.class_shares), self._offset - n, nothing, nothing)


@dataclass
class Cameras:
    """Keyed cameras, a frame a second, some audited; while a scene lasts, all frames of a camera are copies."""

    seed: int
    scene_s: float
    """How long a scene lasts, from a random phase of its own for each camera."""
    aligned: bool = False
    """Scenes change together with blocks of time instead."""
    cameras: int = 40
    audit_rate: float = 0.5
    class_shares: tuple[float, ...] = (0.5, 0.5)
    _second: int = 0
    _offset: int = 0
    _random: np.random.Generator = field(init=False)
    _phase: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._phase = self._random.random(self.cameras) * self.scene_s * (not self.aligned)

    def next(self, n: int) -> DistillationBatch:
        """As many whole seconds as give about n audits."""
        seconds = max(1, round(n / (self.cameras * self.audit_rate)))
        second, camera = np.divmod(np.arange(seconds * self.cameras), self.cameras)
        audited = self._random.random(len(second)) < self.audit_rate
        second, camera = second[audited] + self._second, camera[audited]
        scene = np.floor((second + self._phase[camera]) / self.scene_s).astype(np.int64) * self.cameras + camera
        difficulty, luck, label = (_uniform(scene, self.seed, salt) for salt in range(3))
        latents = Latents(difficulty, luck, scene, (label * 2).astype(np.int64))
        self._second += seconds
        self._offset += len(scene)
        return _batch(latents, 2, self._offset - len(scene), camera + 1, second * 1000)


def _uniform(numbers: Ints, seed: int, salt: int) -> Floats:
    words = mixed(mixed(numbers.astype(np.uint64)) ^ mixed(np.uint64(3 * seed + salt) + np.zeros(1, np.uint64)))
    return (words >> np.uint64(11)).astype(np.float64) / 2.0**53


def _batch(latents: Latents, classes: int, first_offset: int, keys: Ints, timestamp_ms: Ints) -> DistillationBatch:
    n = len(latents.label)
    words = np.stack((latents.difficulty, latents.luck, latents.scene.astype(np.float64)), 1)
    header = DistillationHeader(
        model="", topic="frames", worker="", heads_version=None, audit_rate=1.0, frame_ids=("",) * n
    )
    return DistillationBatch(
        header, words.view(np.uint8).reshape(n, 1, 1, 24), np.eye(classes, dtype=np.float32)[latents.label],
        np.ones(n, np.uint8), np.full(n, -1, np.int32), latents.label.astype(np.int32), np.zeros(n, np.int32),
        np.arange(first_offset, first_offset + n), timestamp_ms, keys,
    )  # fmt: skip


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
