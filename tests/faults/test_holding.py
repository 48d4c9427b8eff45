"""What the harness takes for the next transaction of a producer, whose late end is then let go."""

import struct

from testbed.kafka_proxy import ADD_OFFSETS_TO_TXN, ADD_PARTITIONS_TO_TXN, END_TXN, KafkaProxy, Request
from tests.faults.harness.holding import _begins_another


def request(api: int, transactional_id: str) -> Request:
    """With a header of version 1, as librdkafka sends it."""
    name, owner = b"worker", transactional_id.encode()
    header = struct.pack(">hhih", api, 0, 7, len(name)) + name
    return Request(api, 0, header + struct.pack(">h", len(owner)) + owner + struct.pack(">qh?", 1, 0, True))


def test_a_transaction_of_the_same_producer_after_its_end_is_the_next_one() -> None:
    proxy, end = KafkaProxy(), request(END_TXN, "mine")
    for before in (ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN):
        proxy.seen.append(request(before, "mine"))
    proxy.seen += [end, request(END_TXN, "mine"), request(ADD_PARTITIONS_TO_TXN, "another's")]
    assert not _begins_another(proxy, end)
    proxy.seen.append(request(ADD_OFFSETS_TO_TXN, "mine"))
    assert _begins_another(proxy, end)


def test_a_long_memory_makes_no_difference() -> None:
    proxy, end = KafkaProxy(), request(END_TXN, "mine")
    others = [request(ADD_PARTITIONS_TO_TXN, "another's")] * (proxy.seen.maxlen or 0)
    proxy.seen += [*others, end]
    assert not _begins_another(proxy, end)
    proxy.seen.append(request(ADD_PARTITIONS_TO_TXN, "mine"))
    assert _begins_another(proxy, end)
