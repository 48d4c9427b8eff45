"""A frame's key and headers: how large they may be, what of them a dead letter keeps, and how they are shown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas import dead_letter
from schemas.dead_letter import Reason
from schemas.frame import RawHeaders
from stream.decode import DecodeError

if TYPE_CHECKING:
    from stream.frames import Frame

#: Key and headers come back in predictions and dead letters, the id as JSON, where a byte may become six.
MAX_ENVELOPE_BYTES = 16_384
_SHARE_OF_RECORD = 16

#: Of an id, in logs and on screens.
_SHOWN = 200


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
    stream.decode.DecodeError: key and headers have 113 bytes, at most 100 are taken
    """
    size = len(key or b"")
    for name, value in headers:
        size += len(name) + len(value or b"")
    if size > limit:
        raise DecodeError(Reason.TOO_LARGE_HEADERS, f"key and headers have {size:,} bytes, at most {limit:,} are taken")


def dead_letter_of(
    frame: "Frame", error: DecodeError, max_record_bytes: int
) -> tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]]]:
    """Value, key and headers of a frame's dead letter, which fit into a record of the dead-letter topic.

    Compressed, a frame may have been read that is too large to be written: then the reason stays, and where it was.
    """
    told = dead_letter.headers(error.reason, str(error), frame.topic, frame.partition, frame.offset)
    value = frame.value if len(frame.value or b"") <= max_record_bytes else None
    if error.reason is Reason.TOO_LARGE_HEADERS:
        key = frame.key if len(frame.key or b"") <= envelope_limit(max_record_bytes) else None
        return value, key, told
    return value, frame.key, [*frame.raw_headers, *told]


def shown(text: str) -> str:
    r"""Text of a publisher's as one short line: nothing in it can steer a terminal or forge a line of a log.

    >>> shown("camera-1\n\x1b[31m ERROR all is lost")
    'camera-1\\n\\x1b[31m ERROR all is lost'
    """
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
