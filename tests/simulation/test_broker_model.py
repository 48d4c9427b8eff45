"""The model against what Apache Kafka was seen to do: transactions, sequence numbers, stable offsets, groups."""

from __future__ import annotations

from typing import Any

import pytest
from confluent_kafka import KafkaError

from tests.simulation.broker import Broker
from tests.simulation.partition_log import PartitionLog
from tests.simulation.transaction_coordinator import COMPLETE_ABORT, COMPLETE_COMMIT, ONGOING
from tests.simulation.world import Process, World

OUT = ("predictions", 0)
NONE = 0


class Replies(list[tuple[int, Any]]):
    """What the kafka replied."""

    def __call__(self, error: int, value: Any) -> None:
        self.append((error, value))


@pytest.fixture
def world() -> World:
    return World(seed=1)


@pytest.fixture
def kafka(world: World) -> Broker:
    return Broker(world, {"frames": 2, "predictions": 2}, "frames", False, 2.0, 0.5, 6.0, cleanup_s=0.0)


def ask(call: Any, *arguments: Any) -> tuple[int, Any]:
    replies = Replies()
    call(*arguments, replies)
    (only,) = replies
    return only


def registered(kafka: Broker, name: str = "w", timeout_s: float = 10.0) -> tuple[int, int]:
    error, value = ask(kafka.transactions.init, name, timeout_s, None)
    assert error == NONE
    pid, epoch = value
    return pid, epoch


def produced(kafka: Broker, pid: int, epoch: int, first: int, value: bytes, name: str = "w") -> int:
    """Adds the partition to the transaction, and produces."""
    assert ask(kafka.transactions.add_partitions, name, pid, epoch, {OUT})[0] == NONE
    return ask(kafka.produce, OUT, pid, epoch, first, [(None, value)], name, "writer")[0]


def committed(kafka: Broker) -> list[bytes | None]:
    return [record.value for _, record in kafka.read("predictions")[0]]


def test_records_are_read_after_their_transaction_committed(world: World, kafka: Broker) -> None:
    pid, epoch = registered(kafka)
    assert produced(kafka, pid, epoch, 0, b"one") == NONE
    assert committed(kafka) == []
    assert ask(kafka.transactions.end, "w", pid, epoch, True)[0] == NONE
    world.run(1.0)
    assert committed(kafka) == [b"one"]


def test_a_late_commit_ends_the_next_transaction_of_the_same_epoch(world: World, kafka: Broker) -> None:
    """Kafka before KIP-890; ``transaction.version`` 0 to 2 alike for a client that speaks EndTxn 1."""
    pid, epoch = registered(kafka)
    produced(kafka, pid, epoch, 0, b"one")
    ask(kafka.transactions.end, "w", pid, epoch, True)
    world.run(1.0)
    produced(kafka, pid, epoch, 1, b"two")
    assert ask(kafka.transactions.end, "w", pid, epoch, True)[0] == NONE  # the first one again, late
    world.run(2.0)
    assert committed(kafka) == [b"one", b"two"]
    assert kafka.transactions.by_name["w"].state == COMPLETE_COMMIT


def test_a_late_abort_loses_records_whose_offsets_are_committed(world: World, kafka: Broker) -> None:
    pid, epoch = registered(kafka)
    produced(kafka, pid, epoch, 0, b"one")
    ask(kafka.transactions.end, "w", pid, epoch, False)
    world.run(1.0)
    produced(kafka, pid, epoch, 1, b"two")
    ask(kafka.transactions.end, "w", pid, epoch, False)  # the first one again, late
    world.run(2.0)
    assert ask(kafka.transactions.add_offsets, "w", pid, epoch)[0] == NONE
    nobody = ("", -1, None)
    offsets = {("frames", 0): (1, "")}
    assert ask(kafka.commit_in_transaction, pid, epoch, nobody, offsets)[0] == NONE
    assert ask(kafka.transactions.end, "w", pid, epoch, True)[0] == NONE
    world.run(3.0)
    assert committed(kafka) == []
    assert kafka.offsets.committed == offsets


def test_a_new_producer_fences_the_late_end(world: World, kafka: Broker) -> None:
    """Error 47, which is the cure."""
    pid, epoch = registered(kafka)
    produced(kafka, pid, epoch, 0, b"one")
    ask(kafka.transactions.end, "w", pid, epoch, True)
    world.run(1.0)
    same_pid, newer = registered(kafka)
    assert (same_pid, newer) == (pid, epoch + 1)
    produced(kafka, pid, newer, 0, b"two")
    assert ask(kafka.transactions.end, "w", pid, epoch, True)[0] == KafkaError.INVALID_PRODUCER_EPOCH == 47
    assert kafka.transactions.by_name["w"].state == ONGOING


def test_registering_aborts_what_was_left_open(world: World, kafka: Broker) -> None:
    pid, epoch = registered(kafka)
    produced(kafka, pid, epoch, 0, b"one")
    assert ask(kafka.transactions.init, "w", 10.0, None)[0] == KafkaError.CONCURRENT_TRANSACTIONS
    world.run(1.0)
    assert kafka.transactions.by_name["w"].state == COMPLETE_ABORT
    assert registered(kafka)[1] > epoch
    assert committed(kafka) == []


def test_a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced(world: World, kafka: Broker) -> None:
    pid, epoch = registered(kafka, timeout_s=1.0)
    produced(kafka, pid, epoch, 0, b"one")
    world.run(5.0)
    assert kafka.transactions.timed_out == 1
    assert kafka.logs[OUT].last_stable == len(kafka.logs[OUT].records)
    assert ask(kafka.transactions.end, "w", pid, epoch, True)[0] == KafkaError.INVALID_PRODUCER_EPOCH


def test_an_end_that_contradicts_the_last_one_is_refused(world: World, kafka: Broker) -> None:
    pid, epoch = registered(kafka)
    assert ask(kafka.transactions.end, "w", pid, epoch, True)[0] == KafkaError.INVALID_TXN_STATE
    produced(kafka, pid, epoch, 0, b"one")
    ask(kafka.transactions.end, "w", pid, epoch, True)
    world.run(1.0)
    assert ask(kafka.transactions.end, "w", pid, epoch, False)[0] == KafkaError.INVALID_TXN_STATE


def test_a_repeated_batch_is_acknowledged_and_not_written() -> None:
    """And so is another one under the same number, which is how librdkafka loses records after an abort."""
    log = PartitionLog()
    assert log.append(1, 0, 0, [(None, b"one")], True, "w", 0.0) == NONE
    assert log.append(1, 0, 0, [(None, b"one")], True, "w", 0.0) == NONE
    assert log.append(1, 0, 0, [(None, b"another")], True, "w", 0.0) == NONE
    assert [record.value for record in log.records] == [b"one"]
    assert log.append(1, 0, 2, [(None, b"three")], True, "w", 0.0) == KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_a_record_for_no_open_transaction_is_refused(world: World, kafka: Broker) -> None:
    """Brokers verify a transaction's first record (KIP-890, part 1)."""
    pid, epoch = registered(kafka)
    error, _ = ask(kafka.produce, OUT, pid, epoch, 0, [(None, b"one")], "w", "writer")
    assert error == KafkaError.INVALID_TXN_STATE


def test_offsets_are_unstable_until_the_marker_is_written(world: World, kafka: Broker) -> None:
    """Also after a commit that has succeeded: that is the window without any crash."""
    pid, epoch = registered(kafka)
    ask(kafka.transactions.add_offsets, "w", pid, epoch)
    place = ("frames", 0)
    ask(kafka.commit_in_transaction, pid, epoch, ("", -1, None), {place: (7, "")})
    assert ask(kafka.fetch_offsets, [place], True)[1][place][1] == KafkaError.UNSTABLE_OFFSET_COMMIT
    assert ask(kafka.fetch_offsets, [place], False)[1][place][1] == NONE
    kafka.transactions.marker_s = 0.5
    ask(kafka.transactions.end, "w", pid, epoch, True)
    assert ask(kafka.fetch_offsets, [place], True)[1][place][1] == KafkaError.UNSTABLE_OFFSET_COMMIT
    world.run(1.0)
    assert ask(kafka.fetch_offsets, [place], True)[1][place] == (7, NONE, "")


def joined(kafka: Broker, process: Process, instance: str | None = None) -> tuple[str, Replies]:
    """A member whose JoinGroup is answered once all have joined."""
    replies = Replies()
    id_ = ""
    if instance is None:
        error, id_ = ask(kafka.group.join, "", None, frozenset(), -1, process)  # type: ignore[union-attr]
        assert error == KafkaError.MEMBER_ID_REQUIRED
    kafka.join(id_, instance, frozenset(), -1, process, replies)
    return id_, replies


def test_a_partition_moves_in_two_rebalances(world: World, kafka: Broker) -> None:
    """KIP-429: it is revoked first."""
    first, second = Process(world, "a"), Process(world, "b")
    a, replies = joined(kafka, first)
    assert replies == [(NONE, (a, 1, frozenset({0, 1})))]
    b, waiting = joined(kafka, second)
    assert waiting == []
    again = Replies()
    kafka.join(a, None, frozenset({0, 1}), 1, first, again)
    assert again == [(NONE, (a, 2, frozenset({0})))]
    assert waiting == [(NONE, (b, 2, frozenset()))]
    kafka.join(a, None, frozenset({0}), 2, first, again)
    kafka.join(b, None, frozenset(), 2, second, waiting)
    assert waiting[-1] == (NONE, (b, 3, frozenset({1})))


def test_who_is_not_heard_is_thrown_out_and_may_not_commit(world: World, kafka: Broker) -> None:
    process = Process(world, "a")
    id_, _ = joined(kafka, process)
    offsets = {("frames", 0): (1, "")}
    assert ask(kafka.commit, (id_, 1, None), offsets)[0] == NONE
    process.freeze()
    world.run(3.0)
    assert ask(kafka.commit, (id_, 1, None), offsets)[0] == KafkaError.UNKNOWN_MEMBER_ID
    assert ask(kafka.commit, ("", -1, None), offsets)[0] == NONE, "who names no member may"


def test_a_static_member_takes_over_from_itself(world: World, kafka: Broker) -> None:
    """KIP-345: no rebalance, and the older one is fenced."""
    older = Process(world, "a")
    _, first = joined(kafka, older, "w-0")
    old_id = first[0][1][0]
    _, second = joined(kafka, Process(world, "b"), "w-0")
    assert second[0][1][1:] == (1, frozenset({0, 1}))
    assert ask(kafka.join, old_id, "w-0", frozenset(), 1, older)[0] == KafkaError.FENCED_INSTANCE_ID
