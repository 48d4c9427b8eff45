"""A dead letter on ``frames.dlq``: the frame's key, bytes and headers untouched, plus headers that say what was wrong."""

import enum

REASON = "layercache-reason"
MESSAGE = "layercache-message"
TOPIC = "layercache-topic"
PARTITION = "layercache-partition"
OFFSET = "layercache-offset"


class Reason(enum.StrEnum):
    """Why a frame could not be answered. The values are the label of the metric and the header's text."""

    EMPTY = "empty"
    TOO_MANY_BYTES = "too-many-bytes"
    TOO_MANY_PIXELS = "too-many-pixels"
    UNKNOWN_FORMAT = "unknown-format"
    WRONG_CONTENT_TYPE = "wrong-content-type"
    CORRUPT = "corrupt"
    PICKLED = "pickled"
    WRONG_SHAPE = "wrong-shape"
    WRONG_DTYPE = "wrong-dtype"


def headers(reason: Reason, message: str, topic: str, partition: int, offset: int) -> list[tuple[str, bytes]]:
    """The headers to append to the frame's own."""
    return [
        (REASON, reason.value.encode()),
        (MESSAGE, message.encode()),
        (TOPIC, topic.encode()),
        (PARTITION, str(partition).encode()),
        (OFFSET, str(offset).encode()),
    ]
