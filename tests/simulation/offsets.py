"""A group's committed offsets, and those that wait for their transaction's end; while some do, no stable ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from confluent_kafka import OFFSET_INVALID, KafkaError, TopicPartition

UNSTABLE = int(KafkaError.UNSTABLE_OFFSET_COMMIT)

Position = tuple[str, int]
#: By partition, its offset and the metadata that it was committed with.
Committed = dict[Position, tuple[int, str]]


def committed_of(positions: Iterable[TopicPartition]) -> Committed:
    """As clients name them."""
    return {(one.topic, one.partition): (one.offset, one.metadata or "") for one in positions}


class Offsets:
    """Committed and pending offsets of one group.

    >>> offsets = Offsets(verify=lambda pid, epoch: 0)
    >>> offsets.commit({("frames", 0): (5, "")})
    >>> offsets.commit_in_transaction(1, 0, {("frames", 0): (7, "")})
    0
    >>> offsets.fetch([("frames", 0)], stable=True) == {("frames", 0): (OFFSET_INVALID, UNSTABLE, "")}
    True
    >>> offsets.end(1, 0, commit=False)
    >>> offsets.fetch([("frames", 0)], stable=True)
    {('frames', 0): (5, 0, '')}
    """

    def __init__(self, verify: Callable[[int, int], int]) -> None:
        self._verify = verify
        self.committed: Committed = {}
        self.pending: dict[int, Committed] = {}
        self._epochs: dict[int, int] = {}

    def commit(self, offsets: Committed) -> None:
        """Outside any transaction."""
        self.committed |= offsets

    def commit_in_transaction(self, pid: int, epoch: int, offsets: Committed) -> int:
        """TxnOffsetCommit: pending until the transaction's marker. An error's code, 0 for none."""
        if epoch < self._epochs.get(pid, -1):
            return int(KafkaError.INVALID_PRODUCER_EPOCH)
        if pid not in self.pending and (error := self._verify(pid, epoch)):
            return error
        self._epochs[pid] = epoch
        self.pending.setdefault(pid, {}).update(offsets)
        return 0

    def end(self, pid: int, epoch: int, commit: bool) -> None:
        """The transaction's marker."""
        self._epochs[pid] = max(epoch, self._epochs.get(pid, -1))
        pending = self.pending.pop(pid, {})
        if commit:
            self.committed |= pending

    def fetch(self, positions: Iterable[Position], stable: bool) -> dict[Position, tuple[int, int, str]]:
        """By partition its committed offset (``OFFSET_INVALID``: none), an error's code (KIP-447), and the metadata."""
        unstable = set().union(*self.pending.values()) if stable and self.pending else ()
        return {
            position: (OFFSET_INVALID, UNSTABLE, "") if position in unstable else self._told(position)
            for position in positions
        }

    def _told(self, position: Position) -> tuple[int, int, str]:
        offset, metadata = self.committed.get(position, (OFFSET_INVALID, ""))
        return offset, 0, metadata
