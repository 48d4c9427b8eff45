"""As which member, and in which generation, offsets may be committed."""

import sys
from typing import cast

from confluent_kafka import Consumer

from layercache.stream.worker.delivery.group_membership import GroupMembership, generation_of
from tests.stream.worker.delivery.delivery_bench import Member


def membership(counts_generations: bool = True) -> tuple[Member, GroupMembership]:
    """Of a member that was assigned partitions 0 and 1."""
    member = Member()
    found = GroupMembership(cast(Consumer, member), counts_generations)
    found.assigned([0, 1])
    return member, found


def test_librdkafka_still_writes_metadata_in_the_format_that_is_read() -> None:
    """Fails where a newer one does not: generations that a member has missed would then go unnoticed."""
    consumer = Consumer({"bootstrap.servers": "localhost:1", "group.id": "group", "log_level": 0})
    try:
        assert generation_of(consumer.consumer_group_metadata()) == -1
    finally:
        consumer.close()


def test_metadata_that_are_too_short_name_no_generation() -> None:
    assert generation_of(b"CGMDv2:" + (7).to_bytes(4, sys.byteorder)[:3]) is None


def test_a_member_that_joined_again_may_commit_only_what_it_was_assigned_since() -> None:
    member, found = membership()
    assert found.may_commit([0, 1])
    member.member = "worker-2"
    assert not found.may_commit([0])
    found.assigned([0])
    assert (found.may_commit([0]), found.may_commit([0, 1])) == (True, False)
    found.read_again()
    assert found.may_commit([0, 1])


def test_one_rebalance_may_be_under_way_and_no_generation_may_be_missed() -> None:
    member, found = membership()
    member.generation += 1
    assert (found.may_commit([0]), found.has_missed_a_generation()) == (True, False)
    member.generation += 1
    assert (found.may_commit([0]), found.has_missed_a_generation()) == (False, True)
    found.read_again()
    assert found.has_missed_a_generation(), "going back says nothing of which partitions are its own now"
    found.assigned([])
    assert found.may_commit([0, 1])


def test_epochs_of_kip_848_may_be_skipped() -> None:
    member, found = membership(counts_generations=False)
    member.generation += 5
    assert (found.may_commit([0]), found.has_missed_a_generation()) == (True, False)


def test_another_client_begins_as_another_member_without_a_generation() -> None:
    _, found = membership()
    other = Member()
    other.member, other.generation = "worker-2", 9
    found.rejoins(cast(Consumer, other))
    assert (found.member, found.has_missed_a_generation()) == ("worker-2", False)
    assert found.may_commit([0]), "nothing of the member before is open"
