"""A prediction on the ``predictions`` topic: JSON, under the frame's own key, with the frame's ``ce_*`` headers."""

from typing import Literal

import msgspec

#: The name of the exit of a frame that ran the whole model.
FULL = "full"

CONTENT_TYPE_VALUE = b"application/json"


class Ranked(msgspec.Struct, frozen=True, gc=False):
    """One of the most probable classes."""

    label: int
    class_name: str
    confidence: float


class Times(msgspec.Struct, frozen=True, gc=False):
    """When things happened to the frame: milliseconds since the epoch, and milliseconds spent."""

    frame_ms: int
    """The frame record's timestamp."""
    predicted_ms: int
    """When the worker had the answer."""
    decode_ms: float
    """Spent on decoding this frame."""
    inference_ms: float
    """Spent by the engine on the frame's micro-batch as a whole."""


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """The answer to one frame."""

    # Workers make them by columns: the order of the fields counts.

    id: str
    """The frame's ``ce_id``, or its position ``topic-partition-offset``."""
    topic: str
    partition: int
    offset: int
    label: int
    class_name: str
    confidence: float
    top_k: tuple[Ranked, ...]
    exit: str
    """The exit that answered, or ``full``."""
    audited: bool
    """True where the frame was drawn as an audit: it ran the full path and its answer is the full model's."""
    heads_version: str | None
    """The version of the cache heads in use, null without heads."""
    model: str
    """The model's fingerprint."""
    times: Times
    budget: Literal["normal", "overload"] = "normal"
    """The budget that the exits kept: ``overload`` while the worker was further behind than its target."""
    max_disagreement: float | None = None
    """That budget: the share of frames on which exits may disagree with the full model; null while all are closed."""
    worker: str | None = None
    """The worker that answered: its ``worker.worker_id``, or a name that it made up; null from older workers."""


encoder = msgspec.json.Encoder()
decoder = msgspec.json.Decoder(Prediction)
