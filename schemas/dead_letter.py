"""A dead letter on ``frames.dlq``: the frame's key, bytes and headers, and headers that say what was wrong with it.

Where all of that would not fit the topic, the bytes are left out, and headers say how many there were and their hash.
"""

import enum
import hashlib
from collections.abc import Sequence
from typing import Annotated, Self

import msgspec

REASON = "layercache-reason"
MESSAGE = "layercache-message"
TOPIC = "layercache-topic"
PARTITION = "layercache-partition"
OFFSET = "layercache-offset"
SIZE = "layercache-size"
SHA256 = "layercache-sha256"
#: The headers of a dead letter whose value was left out.
OF_A_VALUE = (SIZE, SHA256)


class Reason(enum.StrEnum):
    """Why a frame could not be answered. The values are the label of the metric and the header's text."""

    EMPTY = "empty"
    TOO_MANY_BYTES = "too-many-bytes"
    TOO_MANY_PIXELS = "too-many-pixels"
    TOO_LARGE_HEADERS = "too-large-headers"
    UNKNOWN_FORMAT = "unknown-format"
    WRONG_CONTENT_TYPE = "wrong-content-type"
    CORRUPT = "corrupt"
    PICKLED = "pickled"
    WRONG_SHAPE = "wrong-shape"
    WRONG_DTYPE = "wrong-dtype"
    REFERENCE_REFUSED = "reference-refused"
    REFERENCE_FAILED = "reference-failed"
    MODEL_FAILED = "model-failed"
    NOT_FINITE = "not-finite"
    CRASHED_WORKER = "crashed-worker"


#: The records of the dead-letter topic may be so much larger than a frame's: room for the headers below.
HEADROOM_BYTES = 65_536

_Number = Annotated[str, msgspec.Meta(pattern="^[0-9]+$")]
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


def headers(reason: Reason, message: str, topic: str, partition: int, offset: int) -> list[tuple[str, bytes]]:
    """The headers to append to the frame's own."""
    return [
        (REASON, reason.value.encode()),
        (MESSAGE, message.encode()),
        (TOPIC, topic.encode()),
        (PARTITION, str(partition).encode()),
        (OFFSET, str(offset).encode()),
    ]


def headers_without_value(value: bytes) -> list[tuple[str, bytes]]:
    """The headers to append if the frame's value is left out: they identify the original."""
    return [(SIZE, str(len(value)).encode()), (SHA256, hashlib.sha256(value).hexdigest().encode())]


class DeadLetterHeaders(msgspec.Struct, frozen=True, kw_only=True, rename=lambda name: f"layercache-{name}"):
    """The headers that a worker adds to the frame's own in a dead letter: all of them text."""

    reason: Reason
    """Why the frame could not be answered."""
    message: str
    """The reason for people, with the numbers."""
    topic: str
    """The topic of the frame."""
    partition: _Number
    """Decimal digits."""
    offset: _Number
    """Decimal digits."""
    size: _Number | None = None
    """Bytes of the frame's value, where it was left out because the dead letter would not have fitted the topic."""
    sha256: _Sha256 | None = None
    """SHA-256 of the frame's value, hexadecimal; present whenever the size is."""

    @classmethod
    def read(cls, headers: Sequence[tuple[str, bytes | None]] | None) -> Self:
        """From a Kafka record's headers; of a repeated header the last one counts.

        Raises ``msgspec.ValidationError`` if one is missing or has a value that no worker writes.
        """
        text = {name: value.decode(errors="replace") for name, value in headers or () if value is not None}
        return msgspec.convert(text, cls)
