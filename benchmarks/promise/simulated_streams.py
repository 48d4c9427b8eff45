"""Streams of frames whose latent variables decide what heads answer, as the trainer's own classes take them in.

A simulated frame's pixels are its latent variables: how difficult it is, how lucky the heads are with it, and the scene
that it shows. So frames go through intake, dealing and windows like any other, and whoever scores them finds in them
what decides.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from layercache.cache_training.learning.kept_frames import Frames
from layercache.early_exit.policy import draw_audits, mixed
from layercache.schemas.distillation import DistillationBatch, DistillationHeader

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


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
    words = np.ascontiguousarray(frames.inputs).reshape(len(frames), 32).view(np.float64)
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


@dataclass
class Videos:
    """Keyed cameras of many frames a second, audited at the rate of the live version; a scene lasts a block of 10 s."""

    seed: int
    frames: int = 60
    """Of a camera's block."""
    cameras: int = 40
    class_shares: tuple[float, ...] = (0.5, 0.5)
    audit_rate: float = 1.0
    _block: int = 0

    def next(self, n: int) -> DistillationBatch:
        """The audits of as many whole blocks of time as give about n."""
        together = self.cameras * self.frames
        blocks = max(1, round(n / (together * self.audit_rate)))
        offsets = self._block * together + np.arange(blocks * together)
        self._block += blocks
        offsets = offsets[draw_audits("frames", np.zeros(len(offsets), np.int32), offsets, self.audit_rate)]
        block, within = np.divmod(offsets, together)
        number, camera = np.divmod(within, self.cameras)
        scene = block * self.cameras + camera
        difficulty, luck, label = (_uniform(scene, self.seed, salt) for salt in range(3))
        latents = Latents(difficulty, luck, scene, (label * 2).astype(np.int64))
        timestamp_ms = block * 10_000 + number * (10_000 // self.frames)
        batch = _batch(latents, 2, 0, camera + 1, timestamp_ms, noise=offsets)
        return replace(batch, header=msgspec.structs.replace(batch.header, audit_rate=self.audit_rate), offset=offsets)


@dataclass
class Bursts:
    """Keys that come once: a ``share`` of them with ``size`` frames of one scene, the rest with a single frame.

    The full model gives frames of bursts class 1 and others class 0.
    """

    seed: int
    share: float
    size: int = 20
    class_shares: tuple[float, ...] = field(init=False)
    _offset: int = 0
    _keys: int = 0
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        bursts = self.share * self.size / (self.share * self.size + 1 - self.share)
        self.class_shares = (1 - bursts, bursts)

    def next(self, n: int) -> DistillationBatch:
        """About n more."""
        keys = max(1, round(n * self.class_shares[0] / (1 - self.share)))
        label = (self._random.random(keys) < self.share).astype(np.int64)
        sizes = np.where(label, self.size, 1)
        key = self._keys + 1 + np.repeat(np.arange(len(label)), sizes)
        drawn = [np.repeat(self._random.random(len(label)), sizes) for _ in range(2)]
        latents = Latents(drawn[0], drawn[1], key, np.repeat(label, sizes))
        self._keys += len(label)
        self._offset += len(key)
        return _batch(latents, 2, self._offset - len(key), key, key * 10_000)


@dataclass
class BusyHours:
    """Frames without keys, in hours that are quiet and busy in turn: in a busy one fewer of as many frames are audited.

    The full model gives the frames of busy hours class 1 and others class 0.
    """

    seed: int
    rates: tuple[float, float] = (0.5, 0.1)
    hour: int = 20
    """Frames of an hour."""
    class_shares: tuple[float, ...] = (0.5, 0.5)
    _offset: int = 0
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def next(self, n: int) -> DistillationBatch:
        """The audits of the next hour: a record has one rate."""
        label = self._offset // self.hour % 2
        offsets = self._offset + np.arange(self.hour)
        offsets = offsets[draw_audits("frames", np.zeros(self.hour, np.int32), offsets, self.rates[label])]
        self._offset += self.hour
        n, nothing = len(offsets), np.zeros(len(offsets), np.int64)
        latents = Latents(self._random.random(n), self._random.random(n), offsets, np.full(n, label))
        batch = _batch(latents, 2, 0, nothing, nothing, noise=offsets)
        header = msgspec.structs.replace(batch.header, audit_rate=self.rates[label])
        return replace(batch, header=header, offset=offsets)


@dataclass
class Loop:
    """So many ``pictures`` without keys, published in a loop: the same to the last bit each time."""

    seed: int
    pictures: int = 300
    class_shares: tuple[float, ...] = (0.5, 0.5)
    _offset: int = 0

    def next(self, n: int) -> DistillationBatch:
        """n more."""
        scene = (self._offset + np.arange(n)) % self.pictures
        difficulty, luck, label = (_uniform(scene, self.seed, salt) for salt in range(3))
        self._offset += n
        nothing = np.zeros(n, np.int64)
        latents = Latents(difficulty, luck, scene, (label * 2).astype(np.int64))
        return _batch(latents, 2, self._offset - n, nothing, nothing, noise=scene)


def _uniform(numbers: Ints, seed: int, salt: int) -> Floats:
    words = mixed(mixed(numbers.astype(np.uint64)) ^ mixed(np.uint64(3 * seed + salt) + np.zeros(1, np.uint64)))
    return (words >> np.uint64(11)).astype(np.float64) / 2.0**53


def _batch(
    latents: Latents, classes: int, first_offset: int, keys: Ints, timestamp_ms: Ints, noise: Ints | None = None
) -> DistillationBatch:
    """``noise`` tells pictures apart: near-copies are hardly ever the same to the last bit."""
    n = len(latents.label)
    noise = np.arange(first_offset, first_offset + n) if noise is None else noise
    words = np.stack((latents.difficulty, latents.luck, latents.scene.astype(np.float64), noise), 1)
    header = DistillationHeader(
        model="", topic="frames", worker="", heads_version=None, audit_rate=1.0, frame_ids=("",) * n
    )
    return DistillationBatch(
        header, words.view(np.uint8).reshape(n, 1, 1, 32), np.eye(classes, dtype=np.float32)[latents.label],
        np.ones(n, np.uint8), np.full(n, -1, np.int32), latents.label.astype(np.int32), np.zeros(n, np.int32),
        np.arange(first_offset, first_offset + n), timestamp_ms, keys,
    )  # fmt: skip
