"""A record whose header has a name that is not UTF-8: librdkafka's bindings write none, other clients do."""

import socket
import struct
import time
import zlib

from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from tests.support.odd_headers import NotUtf8

_PRODUCE, _VERSION = 0, 7
_WAIT_S = 30.0


def partition_of(key: bytes, partitions: int) -> int:
    """Where librdkafka puts that key, and so its answer."""
    return zlib.crc32(key) % partitions


def publish(server: str, topic: str, partition: int, key: bytes, value: bytes, frame_id: str) -> int:
    """Writes one record to its leader, and returns its offset (Kafka's Produce request, version 7)."""
    batch = _DefaultRecordBatchBuilderPy(2, 0, False, -1, -1, -1, 1 << 20)
    headers = [("ce_id", frame_id.encode()), (NotUtf8("x"), b"1")]
    batch.append(0, timestamp=time.time_ns() // 1_000_000, key=key, value=value, headers=headers)
    records = bytes(batch.build())
    body = struct.pack(">hhihhh", _PRODUCE, _VERSION, 1, -1, -1, -1)  # no client.id, no transactional.id, acks=all
    body += struct.pack(">ii", int(_WAIT_S * 1000), 1) + _text(topic)
    body += struct.pack(">iii", 1, partition, len(records)) + records
    host, port = server.rsplit(":", 1)
    with socket.create_connection((host, int(port)), _WAIT_S) as connection:
        connection.sendall(struct.pack(">i", len(body)) + body)
        (size,) = struct.unpack(">i", _exactly(connection, 4))
        answer = _exactly(connection, size)
    # The correlation, one topic and its name, one partition and its number; then how it went.
    error, offset = struct.unpack_from(">hq", answer, 4 + 4 + len(_text(topic)) + 4 + 4)
    assert not error, f"the broker refused a record with error {error}"
    return int(offset)


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = connection.recv(size - len(found))
        assert more, "the broker closed the connection"
        found += more
    return found
