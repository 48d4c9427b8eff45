"""A frame on the ``frames`` topic: key = the stream's id, value = the picture as it is, headers = all optional.

The CloudEvents attributes follow the Kafka protocol binding's binary mode (``ce_`` headers). A picture too large for
the topic lies elsewhere: then the record has no value, and CloudEvents' ``dataref`` extension (claim check) says where.
"""

from collections.abc import Sequence

import msgspec

CONTENT_TYPE = "content-type"
CE_ID = "ce_id"
CE_SOURCE = "ce_source"
CE_TIME = "ce_time"
CE_DATAREF = "ce_dataref"
LABEL = "label"

#: The kinds of value that a frame may carry, by content type.
CONTENT_TYPES = ("image/jpeg", "image/png", "image/webp", "application/x-npy")

RawHeaders = Sequence[tuple[str, bytes | None]]


class FrameHeaders(msgspec.Struct, frozen=True, kw_only=True, rename={"content_type": CONTENT_TYPE}):
    """A frame's headers, each absent if the publisher did not set it.

    A header that is not valid UTF-8 counts as absent: headers describe a frame, they never make it unreadable.
    """

    content_type: str | None = None
    """The value's kind of picture; without it the first bytes decide."""
    ce_id: str | None = None
    """The frame's name, for the reader of its prediction; without it ``topic-partition-offset``."""
    ce_source: str | None = None
    """Where the frame came from."""
    ce_time: str | None = None
    """When the picture was taken, RFC 3339; without it the record's timestamp counts."""
    ce_dataref: str | None = None
    """Where the picture lies, an absolute URL under one of the workers' ``references.prefixes``; followed only where
    the record has no value."""
    label: str | None = None
    """The true answer, for evaluation only: no model and no head ever sees it."""

    @classmethod
    def read(cls, headers: RawHeaders | None) -> "FrameHeaders":
        """Reads a Kafka record's headers; of a repeated header the last one counts."""
        known: dict[str, str] = {}
        for name, value in headers or ():
            field = _FIELDS.get(name)
            if field is not None and value is not None:
                try:
                    known[field] = value.decode()
                except UnicodeDecodeError:
                    continue
        return cls(**known)

    def as_kafka(self) -> list[tuple[str, bytes]]:
        """As a Kafka record's headers, absent ones left out."""
        return [
            (name, value.encode()) for name, field in _FIELDS.items() if (value := getattr(self, field)) is not None
        ]


_FIELDS = {
    CONTENT_TYPE: "content_type",
    CE_ID: "ce_id",
    CE_SOURCE: "ce_source",
    CE_TIME: "ce_time",
    CE_DATAREF: "ce_dataref",
    LABEL: "label",
}


def last_text(headers: RawHeaders, name: str) -> str | None:
    """The value that :meth:`FrameHeaders.read` would find under one name; reads no other header.

    >>> last_text([("ce_id", b"7"), ("ce_id", b"8"), ("ce_id", b"\\xff")], "ce_id")
    '8'
    """
    for found, value in reversed(headers):
        if found == name and value is not None:
            try:
                return value.decode()
            except UnicodeDecodeError:
                continue
    return None


def default_id(topic: str, partition: int, offset: int) -> str:
    """The id of a frame whose publisher gave none: its position, ``frames-3-1871``."""
    return f"{topic}-{partition}-{offset}"
