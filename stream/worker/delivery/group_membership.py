"""As which member of the group frames were read: offsets count only as that member's, in that generation (KIP-447)."""

import sys
from collections.abc import Iterable

from confluent_kafka import Consumer

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


class GroupMembership:
    """Remembers as which member its partitions were assigned, and in which generation; ``client`` is the member now.

    With KIP-848 generations do not count: that protocol skips some, and takes no partition away before its owner has
    given it up.
    """

    def __init__(self, client: Consumer, counts_generations: bool) -> None:
        self.client = client
        self._counts_generations = counts_generations
        #: partition -> the id of the member that it was assigned to
        self._members: dict[int, str] = {}
        #: of the group, at the last rebalance that was served
        self._generation: int | None = None

    @property
    def member(self) -> str:
        """The id of the present member; empty where the client is none."""
        return self.client.memberid() or ""

    def assigned(self, partitions: Iterable[int]) -> None:
        """A rebalance was served, and these partitions, perhaps none, were assigned to the present member.

        Call this whenever a rebalance has been served: only then does the generation say anything about partitions.
        """
        self._members.update(dict.fromkeys(partitions, self.member))
        self._generation = self._generation_now()

    def read_again(self) -> None:
        """Nothing is in flight any more: all frames from now on are read as the present member."""
        self._members = dict.fromkeys(self._members, self.member)

    def rejoins(self, client: Consumer) -> None:
        """``client`` is the member from now on, and has no partition yet."""
        self.client = client
        self._members.clear()
        self._generation = None

    def has_missed_a_generation(self) -> bool:
        """True where the group has had a generation since the last rebalance that was served here, and is in the next.

        Then a late JoinGroup of this member, from before it was given its partitions, took its place in the generation
        between: the group held them to be free, and other members may have answered their frames.
        """
        now = self._generation_now()
        return now is not None and self._generation is not None and now > self._generation + 1

    def may_commit(self, partitions: Iterable[int]) -> bool:
        """False where frames of one of these were read as a member that the group has thrown out meanwhile.

        A member that the group has thrown out may join again under another id without being told that its partitions
        were lost (librdkafka, classic protocol). Other members may have had them, and answered their frames.
        """
        member = self.member
        if any(self._members.get(partition, member) != member for partition in partitions):
            return False
        return not self.has_missed_a_generation()

    def _generation_now(self) -> int | None:
        return generation_of(self.client.consumer_group_metadata()) if self._counts_generations else None
