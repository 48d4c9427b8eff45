"""A partition: records, the transactions that they belong to, and sequence numbers by which repetitions are noticed."""

from __future__ import annotations

from confluent_kafka import KafkaError

OPEN, COMMITTED, ABORTED = "open", "committed", "aborted"

#: How many batches a broker remembers of each producer (KIP-98); older repetitions are out of order to it.
_REMEMBERED = 5


class Fate:
    """What becomes of the records of one transaction on one partition."""

    __slots__ = ("first", "state")

    def __init__(self, first: int, state: str = OPEN) -> None:
        self.first = first
        self.state = state


class Record:
    """A record as it lies in the log; ``value`` None is a transaction's marker."""

    __slots__ = ("at_s", "fate", "key", "value", "writer")

    def __init__(self, key: bytes | None, value: bytes | None, fate: Fate, writer: str, at_s: float) -> None:
        self.key = key
        self.value = value
        self.fate = fate
        self.writer = writer
        self.at_s = at_s


class _Sequence:
    """What the broker knows of a producer on this partition."""

    __slots__ = ("batches", "epoch", "next")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.next = 0
        self.batches: list[tuple[int, int]] = []


class PartitionLog:
    """One partition's log.

    >>> log = PartitionLog()
    >>> log.append(7, 0, 0, [(b"key", b"value")], transactional=True, writer="w", at_s=0.0)
    0
    >>> log.last_stable, log.committed(0, 10)
    (0, ([], 0))
    >>> log.end(7, 0, commit=True)
    >>> log.last_stable, [record.value for _, record in log.committed(0, 10)[0]]
    (2, [b'value'])
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.open: dict[int, Fate] = {}
        self._sequences: dict[int, _Sequence] = {}

    def append(
        self,
        pid: int,
        epoch: int,
        first: int,
        batch: list[tuple[bytes | None, bytes | None]],
        transactional: bool,
        writer: str,
        at_s: float,
    ) -> int:
        """Appends a batch whose first record has the sequence number ``first``; an error's code, 0 for none.

        A batch that is there already is acknowledged, and not written.
        """
        known = self._sequences.get(pid)
        if known is None:
            known = self._sequences[pid] = _Sequence(epoch)
            known.next = first  # a producer that the broker knows nothing of may begin anywhere
        if epoch < known.epoch:
            return int(KafkaError.INVALID_PRODUCER_EPOCH)
        if epoch > known.epoch:
            if first != 0:
                return int(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
            known.epoch, known.next, known.batches = epoch, 0, []
        last = first + len(batch) - 1
        if (first, last) in known.batches:
            return 0
        if first != known.next:
            return int(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
        known.next = last + 1
        known.batches = [*known.batches[1 - _REMEMBERED :], (first, last)]
        if transactional:
            fate = self.open.get(pid)
            if fate is None:
                fate = self.open[pid] = Fate(len(self.records))
        else:
            fate = Fate(len(self.records), COMMITTED)
        self.records += [Record(key, value, fate, writer, at_s) for key, value in batch]
        return 0

    def end(self, pid: int, epoch: int, commit: bool) -> None:
        """Writes the marker of a transaction's end; it carries the epoch, which fences older ones."""
        known = self._sequences.setdefault(pid, _Sequence(epoch))
        if epoch > known.epoch:
            known.epoch, known.next, known.batches = epoch, 0, []
        fate = self.open.pop(pid, None)
        if fate is not None:
            fate.state = COMMITTED if commit else ABORTED
        self.records.append(Record(None, None, Fate(len(self.records), ABORTED), "marker", 0.0))

    @property
    def last_stable(self) -> int:
        """The first offset that ``read_committed`` readers do not see yet."""
        for fate in self.open.values():
            return fate.first  # the first that was opened, of those that are
        return len(self.records)

    def committed(self, start: int, count: int) -> tuple[list[tuple[int, Record]], int]:
        """Up to ``count`` committed records from ``start`` on, with their offsets, and where to read on."""
        found: list[tuple[int, Record]] = []
        stable = self.last_stable
        records, offset = self.records, start
        while offset < stable and len(found) < count:
            record = records[offset]
            if record.fate.state is COMMITTED:
                found.append((offset, record))
            offset += 1
        return found, offset
