"""What librdkafka's opaque metadata of a group's member say: the generation in which it commits (KIP-447)."""

import sys

_MAGIC = b"CGMDv2:"
_GENERATION_BYTES = 4


def generation_of(metadata: bytes) -> int | None:
    """The generation that ``Consumer.consumer_group_metadata()`` names; -1 for no member, None in an unknown format.

    The format is librdkafka's own (``rd_kafka_consumer_group_metadata_write``) and has a version of its own, which is
    looked at.

    >>> generation_of(b"CGMDv2:" + (7).to_bytes(4, sys.byteorder) + b"group"), generation_of(b"CGMDv3:...")
    (7, None)
    """
    end = len(_MAGIC) + _GENERATION_BYTES
    if not metadata.startswith(_MAGIC) or len(metadata) < end:
        return None
    return int.from_bytes(metadata[len(_MAGIC) : end], sys.byteorder, signed=True)
