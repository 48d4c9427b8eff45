"""The demo's pictures with what they show, read from the zip itself: the truth that predictions are held against."""

import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from layercache.early_exit.engine import Engine
from layercache.measuring.columns import Integers
from layercache.stream.frames.decoding import Limits, decode_frame

_BATCH = 100


class FramesError(ValueError):
    """The frames are not as the demo needs them; the message says what is wrong."""


@dataclass(frozen=True)
class LabelledFrames:
    """N pictures in the order of the stream."""

    names: tuple[str, ...]
    """Each frame's ``ce_id``: its name in the zip."""
    pictures: tuple[bytes, ...]
    """As they are published."""
    truth: Integers
    """int64 ``[N]``: what they show, as the index of the class."""

    def __len__(self) -> int:
        return len(self.names)

    def places(self) -> dict[str, int]:
        """Name to place in the stream."""
        return {name: place for place, name in enumerate(self.names)}


def read(path: Path, count: int, label_pattern: str, classes: Sequence[str]) -> LabelledFrames:
    """The first ``count`` pictures of a zip, by name; ``label_pattern`` finds the class in a name.

    Raises :class:`FramesError` where there are fewer, or a name holds no known class.
    """
    with zipfile.ZipFile(path) as archive:
        names = tuple(sorted(info.filename for info in archive.infolist() if not info.is_dir()))
        if not 0 < count <= len(names):
            raise FramesError(f"{path} holds {len(names)} frames; the demo streams each once, so not {count}")
        names = names[:count]
        labels = [_label(name, label_pattern, classes) for name in names]
        return LabelledFrames(names, tuple(archive.read(name) for name in names), np.array(labels, np.int64))


def full_labels(
    engine: Engine, frames: LabelledFrames, limits: Limits, report: Callable[[float], None] = lambda done: None
) -> Integers:
    """int64 ``[N]``: what the full model answers for ``frames``; ``engine`` has no heads.

    ``report`` hears the share that is done.
    """
    preprocessing = engine.traced.classifier.preprocessing
    labels = []
    for start in range(0, len(frames), _BATCH):
        pictures = [
            decode_frame(value, None, preprocessing, limits) for value in frames.pictures[start : start + _BATCH]
        ]
        labels.append(engine.run(torch.stack(pictures), np.zeros(len(pictures), np.bool_)).labels)
        report(min(1.0, (start + _BATCH) / len(frames)))
    return np.concatenate(labels)


def _label(name: str, pattern: str, classes: Sequence[str]) -> int:
    found = re.fullmatch(pattern, name)
    if not found or found["label"] not in classes:
        raise FramesError(f"frame {name!r} names none of the model's classes ({', '.join(classes)})")
    return classes.index(found["label"])
