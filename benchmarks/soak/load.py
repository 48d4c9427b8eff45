"""The soak test's frames: ordinary pictures, large, odd and broken ones, under few keys, many keys and none."""

import io
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Settings
from layercache.stream.publishing.producer import FrameProducer

#: Shares of what is not an ordinary picture; large ones are common enough that memory has met their worst soon.
LARGE, MIDDLING, STRIPS, BROKEN = 0.006, 0.03, 0.006, 0.02
#: Of the ordinary ones, shares by key: of one of the cameras, of a stream that nobody has seen before, of none.
_CAMERAS, _FROM_CAMERAS, _FROM_NEW = 64, 0.5, 0.25

_LARGE_SIZE, _MIDDLING_SIZE, _STRIP_SIZE = (2_000, 2_000), (480, 640), (24, 40_000)
_TICK_S = 0.05
#: Frames drawn at a time.
_DRAWN = 64


@dataclass(frozen=True)
class Kinds:
    """What there is to publish."""

    ordinary: tuple[bytes, ...]
    large: tuple[bytes, ...]
    middling: tuple[bytes, ...]
    strips: tuple[bytes, ...]
    broken: tuple[bytes | None, ...]

    @classmethod
    def of(cls, pictures: Path, seed: int) -> "Kinds":
        """``pictures`` is a zip of small pictures; the others are made of noise."""
        random = np.random.default_rng(seed)
        with zipfile.ZipFile(pictures) as archive:
            ordinary = tuple(archive.read(info) for info in archive.infolist() if not info.is_dir())
        middling = tuple(_jpeg(random, _MIDDLING_SIZE, 90) for _ in range(16))
        cut_short, changed = middling[0][:-5_000], bytearray(ordinary[0])
        changed[len(changed) // 2] ^= 0xFF
        return cls(
            ordinary=ordinary,
            large=tuple(_jpeg(random, _LARGE_SIZE, 90) for _ in range(4)),
            middling=middling,
            strips=tuple(_jpeg(random, _STRIP_SIZE, 50) for _ in range(4)),
            broken=(cut_short, bytes(changed), b"no picture at all", b"", None, random.bytes(200_000)),
        )


class Publisher(threading.Thread):
    """Publishes so that ``wanted`` frames more than have been answered are there, whatever the worker takes."""

    def __init__(self, settings: Settings, kinds: Kinds, seed: int, wanted: Callable[[], int]) -> None:
        super().__init__(name="publisher", daemon=True)
        self.published = 0
        self.bytes = 0
        self._kinds = kinds
        self._random = np.random.default_rng(seed)
        self._wanted = wanted
        self._stopping = threading.Event()
        self._producer = FrameProducer(settings, queue_buffering_max_kbytes=65_536, linger_ms=5)
        self._producer.connect()

    def run(self) -> None:
        while not self._stopping.is_set():
            if self.published >= self._wanted():
                self._producer.poll(0)
                self._stopping.wait(_TICK_S)
            else:
                self._publish()
        self._producer.flush(30)

    def stop(self) -> None:
        """Ends it; what was produced is delivered."""
        self._stopping.set()
        self.join(60)

    def _publish(self) -> None:
        for _ in range(_DRAWN):
            value, key = self._drawn()
            while not self._stopping.is_set():
                try:
                    self._producer.produce(value, FrameHeaders(), key, _raise_failure)
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self.published += 1
            self.bytes += len(value or b"")
        self._producer.poll(0)

    def _drawn(self) -> tuple[bytes | None, bytes | None]:
        kind, number = self._random.random(), int(self._random.integers(2**31))
        for share, some in (
            (LARGE, self._kinds.large),
            (MIDDLING, self._kinds.middling),
            (STRIPS, self._kinds.strips),
            (BROKEN, self._kinds.broken),
        ):
            if kind < share:
                return some[number % len(some)], b"camera-%d" % (number % _CAMERAS)
            kind -= share
        value = self._kinds.ordinary[number % len(self._kinds.ordinary)]
        by_key = self._random.random()
        if by_key < _FROM_CAMERAS:
            return value, b"camera-%d" % (number % _CAMERAS)
        return value, (b"stream-%d-%d" % (self.published, number) if by_key < _FROM_CAMERAS + _FROM_NEW else None)


def _raise_failure(failure: str | None) -> None:
    """Ends the publisher: the frames that it counts as published must be on the topic."""
    if failure is not None:
        raise RuntimeError(f"a frame was not published: {failure}")


def _jpeg(random: np.random.Generator, size: tuple[int, int], quality: int) -> bytes:
    """Noise, which does not compress."""
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()
