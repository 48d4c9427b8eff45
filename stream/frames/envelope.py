"""A frame's key and headers: how large they may be, what of them a dead letter keeps, and how they are shown."""

from collections.abc import Sequence
from typing import NamedTuple

from layercache.schemas import dead_letter
from layercache.schemas.dead_letter import Reason
from layercache.schemas.frame import RawHeaders
from layercache.stream.frames.decoding import DecodeError, Unanswerable
from layercache.stream.frames.frame import Frame

#: Key and headers come back in predictions and dead letters, the id as JSON, where a byte may become six.
MAX_ENVELOPE_BYTES = 16_384
_SHARE_OF_RECORD = 16

#: Of an id, in logs and on screens.
_SHOWN = 200

#: Of a dead letter's message, in characters.
_MESSAGE = 2_000

#: What the record format (KIP-98, version 2) adds at most: lengths as varints, and the head of a batch.
_PER_HEADER, _PER_RECORD = 10, 61 + 40

Headers = Sequence[tuple[str, bytes | None]]


class DeadLetter(NamedTuple):
    """A record of the dead letters' topic."""

    value: bytes | None
    key: bytes | None
    headers: Headers

    @property
    def size(self) -> int:
        """What it takes of a topic's ``max.message.bytes`` at most, alone in its batch and not compressed."""
        headers = sum(len(name.encode()) + len(value or b"") + _PER_HEADER for name, value in self.headers)
        return len(self.value or b"") + len(self.key or b"") + headers + _PER_RECORD


def envelope_limit(max_record_bytes: int) -> int:
    """What key and headers may have together, so that what is made of them fits into a record.

    >>> envelope_limit(5_000_000), envelope_limit(10_000)
    (16384, 625)
    """
    return min(MAX_ENVELOPE_BYTES, max_record_bytes // _SHARE_OF_RECORD)


def check_envelope(key: bytes | None, headers: RawHeaders, limit: int) -> None:
    """Raises :class:`DecodeError` where key and headers have more than ``limit`` bytes.

    >>> check_envelope(b"camera-1", [("ce_id", b"7")], limit=100)
    >>> check_envelope(b"camera-1", [("ce_id", b"7" * 100)], limit=100)
    Traceback (most recent call last):
    layercache.stream.frames.decoding.DecodeError: key and headers have 113 bytes, at most 100 are taken
    """
    size = len(key or b"")
    for name, value in headers:
        size += len(name) + len(value or b"")
    if size > limit:
        raise DecodeError(Reason.TOO_LARGE_HEADERS, f"key and headers have {size:,} bytes, at most {limit:,} are taken")


def dead_letter_of(frame: Frame, error: Unanswerable, max_record_bytes: int, topic_bytes: int) -> DeadLetter:
    """A frame's dead letter, which fits into ``topic_bytes``: what the dead letters' topic takes in one record.

    What does not fit is left out, the value first, then the frame's own headers, then its key. The reason stays, and
    where the frame was.
    """
    reason: Headers = dead_letter.headers(
        error.reason, str(error)[:_MESSAGE], frame.topic, frame.partition, frame.offset
    )
    if error.reason is Reason.TOO_LARGE_HEADERS:
        own: Headers = []
        key = frame.key if len(frame.key or b"") <= envelope_limit(max_record_bytes) else None
    else:
        # A dead letter that was published again may have left its value out before; this one need not.
        own, key = [header for header in frame.raw_headers if header[0] not in dead_letter.OF_A_VALUE], frame.key
    whole = DeadLetter(frame.value, key, [*own, *reason])
    if whole.size <= topic_bytes:
        return whole
    if frame.value is not None:
        reason = [*reason, *dead_letter.headers_without_value(frame.value)]
    for smaller in (DeadLetter(None, key, [*own, *reason]), DeadLetter(None, key, reason)):
        if smaller.size <= topic_bytes:
            return smaller
    return DeadLetter(None, None, reason)


def shown(text: str) -> str:
    r"""Text of a publisher's as one short line: nothing in it can steer a terminal or forge a line of a log.

    >>> shown("camera-1\n\x1b[31m ERROR all is lost")
    'camera-1\\n\\x1b[31m ERROR all is lost'
    """
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
