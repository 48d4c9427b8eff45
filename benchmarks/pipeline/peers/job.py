"""The job that every peer does: a frame's bytes in, one JSON prediction out; and what a peer is told.

Runs in the peers' environment, where torch comes from the project's own.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:  # torch takes seconds, and a model that does nothing has no use for it
    from torch import Tensor

#: The model that does nothing, as ``Config.model``.
NOTHING = "nothing"

Headers = Iterable[tuple[str, bytes | str | None]]


@dataclass(frozen=True)
class Config:
    """What a peer works on and how; travels as JSON in its first argument."""

    servers: str
    frames: str
    predictions: str
    group: str
    model: str
    batched: bool
    exactly_once: bool
    batch: int
    max_wait_ms: float
    commit_interval_ms: float
    decode_threads: int
    state_dir: str

    @classmethod
    def from_arguments(cls) -> Self:
        """Of this process."""
        return cls(**json.loads(sys.argv[1]))


class Job(Protocol):
    """Frames to predictions; ``ids`` are theirs."""

    def answer(self, values: Sequence[bytes], ids: Sequence[str]) -> list[bytes]: ...


def build_job(config: Config) -> Job:
    """The job of ``config``."""
    return Nothing() if config.model == NOTHING else Classify(config.model, config.decode_threads)


def frame_id(headers: Headers | None) -> str:
    """What the publisher called the frame."""
    for name, value in headers or ():
        if name == "ce_id" and value is not None:
            return value.decode() if isinstance(value, bytes) else value
    return ""


class Nothing:
    """A model that does nothing, and a prediction of 300 bytes."""

    def __init__(self) -> None:
        from orjson import dumps

        self._dumps = dumps

    def answer(self, values: Sequence[bytes], ids: Sequence[str]) -> list[bytes]:
        """The same label for all."""
        return [self._dumps(nothing(name)) for name in ids]


def nothing(name: str) -> dict[str, object]:
    """A prediction of about 300 bytes as JSON.

    >>> len(json.dumps(nothing("00000017-1700000000000000000"), separators=(",", ":")))
    300
    """
    return {
        "id": name,
        "label": 3,
        "class_name": "class 3",
        "confidence": 0.5,
        "model": "0" * 64,
        "padding": "x" * 125,
    }


class Classify:
    """Decodes pictures, runs the classifier on them as one batch, and encodes its answers."""

    def __init__(self, spec: str, decode_threads: int) -> None:
        import torch
        from orjson import dumps

        from layercache.early_exit.memory import keep_freed_memory
        from layercache.early_exit.model.loading import load
        from layercache.schemas.settings import Model

        keep_freed_memory()
        torch.set_num_threads(1)
        self._dumps = dumps
        self._classifier = load(Model(spec=spec))
        self._module = self._classifier.module.to(memory_format=torch.channels_last)
        self._threads = ThreadPoolExecutor(decode_threads)

    def answer(self, values: Sequence[bytes], ids: Sequence[str]) -> list[bytes]:
        """One batch."""
        import torch

        classifier = self._classifier
        decoded = map(self._decode, values) if len(values) == 1 else self._threads.map(self._decode, values)
        pictures = torch.stack(list(decoded))
        with torch.inference_mode():
            inputs = classifier.preprocessing.normalise(pictures, classifier.dtype)
            chances = self._module(inputs.contiguous(memory_format=torch.channels_last)).softmax(1)
            confidences, labels = (part.tolist() for part in chances.topk(3, dim=1))
        return [self._dumps(self._prediction(*answer)) for answer in zip(ids, labels, confidences, strict=True)]

    def _decode(self, value: bytes) -> "Tensor":
        import torch
        from torchvision.io import ImageReadMode, decode_image

        picture = decode_image(torch.frombuffer(bytearray(value), dtype=torch.uint8), ImageReadMode.RGB)
        return self._classifier.preprocessing.fit(picture)

    def _prediction(self, name: str, labels: Sequence[int], confidences: Sequence[float]) -> dict[str, object]:
        classes = self._classifier.classes
        return {
            "id": name,
            "label": labels[0],
            "class_name": classes[labels[0]],
            "confidence": confidences[0],
            "top_k": [
                {"label": label, "class_name": classes[label], "confidence": confidence}
                for label, confidence in zip(labels, confidences, strict=True)
            ],
            "model": self._classifier.fingerprint,
        }
