"""The user's frames: opened, put in order, decoded, with what they show where their folders say so."""

import random
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import PurePosixPath
from re import Pattern

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from layercache.early_exit.model.loading import Classifier
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Settings
from layercache.stream.frames.decode_pool import DecodePool, PendingFrame, decoder
from layercache.stream.frames.decoding import DecodeError, Limits
from layercache.stream.frames.frame import Frame
from layercache.stream.publishing.sources import Files, Picture, PictureSource, Skipped, SourceError, open_source

#: Of all names that are looked at, so many must lead to a class before folders are taken for classes.
_CLASS_FOLDERS = 0.9
#: Micro-batches that are decoded ahead.
_AHEAD = 2
_TOLD = 5
#: Frames are compared with the one before in this size; below this mean difference (of 255) they are near-copies.
_SMALL, _NEAR = 8, 2.5


@dataclass(frozen=True)
class FrameOptions:
    """How the frames are to be read."""

    path: str
    limit: int | None = None
    shuffle: bool | None = None
    """None: only where folders are classes, since a stream of one class after the other is none."""
    seed: int = 0
    fps: float | None = None
    """The frames are one camera's, so many a second."""
    label_pattern: Pattern[str] | None = None


@dataclass(frozen=True)
class Batch:
    """N frames that have a picture, in the order of the stream."""

    frames: Sequence[Frame]
    pictures: Tensor
    """uint8 ``[N, C, h, w]``"""
    truth: npt.NDArray[np.int64]
    """``[N]``: the class that the user's folders or names say; -1 where they say nothing."""
    content: npt.NDArray[np.uint64]
    """``[N]``: a hash of the picture as the model sees it."""
    near: npt.NDArray[np.bool_]
    """``[N]``: nearly the same as the frame before."""

    def __len__(self) -> int:
        return len(self.frames)


class Footage:
    """The frames of one reading, in micro-batches; counts what could not be used.

    Raises :class:`layercache.stream.publishing.sources.SourceError` where there is nothing to read.
    """

    def __init__(self, options: FrameOptions, settings: Settings, classifier: Classifier) -> None:
        self._settings = settings
        self._options = options
        self.path = options.path
        self._classifier = classifier
        self._classes = {name.strip().lower(): label for label, name in enumerate(classifier.classes)}
        source = open_source(options.path, settings.worker.max_frame_bytes)
        if source.live:
            raise SourceError(f"{options.path} never ends: record a clip, or save pictures, and give these")
        self.class_folders = isinstance(source, Files) and self._are_classes(source)
        shuffle = self.class_folders if options.shuffle is None else options.shuffle
        self.shuffled = isinstance(source, Files) and shuffle
        if self.shuffled and isinstance(source, Files):
            names = list(source.names)
            random.Random(options.seed).shuffle(names)
            source = source.in_order(names)
        self.source: PictureSource = source
        self.key = source.key or ("camera" if options.fps else None)
        self.available = source.total
        self.skipped = 0
        self.notes: list[str] = []
        self._last_small: Tensor | None = None

    def count(self) -> int:
        """How many frames there are to read at most; of a video that does not say so, by a pass over it."""
        found = self.available
        if found is None:
            found = sum(1 for _ in islice(self.source.pictures(), self._options.limit))
        return min(found, self._options.limit or found)

    def batches(self, size: int) -> Iterator[Batch]:
        """One pass, in batches of ``size`` at most. Broken pictures are left out and counted."""
        worker = self._settings.worker
        pool = DecodePool(worker.decode_threads, decoder(self._classifier.preprocessing, Limits.of(worker)))
        ahead: deque[tuple[list[int], list[PendingFrame]]] = deque()
        try:
            frames = self._frames()
            while chunk := list(islice(frames, size)):
                ahead.append(([truth for _, truth in chunk], pool.submit([frame for frame, _ in chunk])))
                if len(ahead) > _AHEAD:
                    yield from self._batch(*ahead.popleft())
            while ahead:
                yield from self._batch(*ahead.popleft())
        finally:
            pool.close()

    def _frames(self) -> Iterator[tuple[Frame, int]]:
        topic, key = self._settings.topics.frames, self.key.encode() if self.key else None
        for offset, item in enumerate(islice(self.source.pictures(), self._options.limit)):
            if isinstance(item, Skipped):
                self._skip(item.name, item.why)
                continue
            headers = FrameHeaders(content_type=item.content_type, ce_id=item.name).as_kafka()
            yield Frame(topic, 0, offset, self._time_ms(item, offset), key, item.value, headers), self._truth(item.name)

    def _time_ms(self, picture: Picture, offset: int) -> int:
        if self._options.fps:
            return int(1000 * offset / self._options.fps)
        return int(picture.time.timestamp() * 1000) if picture.time else 0

    def _batch(self, truths: Sequence[int], arrived: Sequence[PendingFrame]) -> Iterator[Batch]:
        kept: list[tuple[Frame, int]] = []
        pictures: list[Tensor] = []
        for one, truth in zip(arrived, truths, strict=True):
            decoded = one.decoded()
            if isinstance(decoded.picture, DecodeError):
                self._skip(one.frame.id, str(decoded.picture))
            else:
                kept.append((one.frame, truth))
                pictures.append(decoded.picture)
        if kept:
            frames, known = zip(*kept, strict=True)
            stacked = torch.stack(pictures)
            content = [int.from_bytes(blake2b(p.numpy().tobytes(), digest_size=8).digest(), "little") for p in pictures]
            yield Batch(frames, stacked, np.array(known, np.int64), np.array(content, np.uint64), self._near(stacked))

    def _near(self, pictures: Tensor) -> npt.NDArray[np.bool_]:
        small = F.adaptive_avg_pool2d(pictures.float(), _SMALL)
        before = small[:1] + 255 if self._last_small is None else self._last_small
        self._last_small = small[-1:]
        found: npt.NDArray[np.bool_] = (small - torch.cat((before, small[:-1]))).abs().mean((1, 2, 3)).numpy() < _NEAR
        return found

    def _skip(self, name: str, why: str) -> None:
        self.skipped += 1
        if len(self.notes) < _TOLD:
            self.notes.append(f"{name}: {why}")

    def _are_classes(self, source: Files) -> bool:
        """Whether the names say what pictures show: by the pattern, or because nearly all folders are named so."""
        if self._options.label_pattern is not None:
            return False
        found = Counter(self._classes.get(_folder(name)) is not None for name in source.names)
        return found[True] >= _CLASS_FOLDERS * found.total()

    def _truth(self, name: str) -> int:
        if self._options.label_pattern is not None:
            match = self._options.label_pattern.search(name)
            return self._classes.get(match[1].strip().lower(), -1) if match else -1
        return self._classes.get(_folder(name), -1) if self.class_folders else -1


def _folder(name: str) -> str:
    return PurePosixPath(name).parent.name.strip().lower()
