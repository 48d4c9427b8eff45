"""The verdict, from the history that a reader of committed records sees, as in ``jepsen.tests.kafka``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from tests.simulation.broker import Broker
from tests.simulation.partition_log import Record


def problems_of(broker: Broker, frames: str, answers_in: Sequence[str], exactly_once: bool) -> list[str]:
    """What is wrong with the answers; an empty list where nothing is.

    Lost, answered twice (by whom), out of order, an answer to no frame, and offsets that do not stand at the end.
    """
    expected = {
        f"{number}/{offset}".encode() for number, records in broker.read(frames).items() for offset, _ in records
    }
    answers: dict[object, list[str]] = defaultdict(list)
    problems: list[str] = []
    for topic, number, records in _all(broker, answers_in):
        latest: dict[int, int] = {}
        for offset, record in records:
            answers[record.value].append(f"{record.writer} at {topic}/{number}/{offset}")
            assert isinstance(record.value, bytes)
            partition, source = map(int, record.value.split(b"/"))
            if exactly_once and topic == answers_in[0] and source < latest.get(partition, -1):
                problems.append(
                    f"out of order: frame {partition}/{source} after {latest[partition]} at {number}/{offset}"
                )
            latest[partition] = source
    for missing in sorted(expected - answers.keys()):
        problems.append(f"lost: frame {_shown(missing)} has no answer")
    for value, where in answers.items():
        if value not in expected:
            problems.append(f"invented: {_shown(value)} by {where[0]}")
        elif exactly_once and len(where) > 1:
            problems.append(f"twice: frame {_shown(value)} by {' and '.join(where)}")
    for (topic, number), (offset, _) in sorted(broker.offsets.committed.items()):
        end = len(broker.logs[topic, number].records)
        if offset > end:
            problems.append(f"offset {offset} committed on partition {number}, which ends at {end}")
    return problems


def is_done(broker: Broker, frames: str, answers_in: Sequence[str], exactly_once: bool) -> bool:
    """True once every frame's offset is committed and no transaction is open; at least once: every frame is answered.

    Outside of transactions a late OffsetCommit sets the group back, as it does with real brokers.
    """
    if not exactly_once:
        answers = {record.value for _, _, records in _all(broker, answers_in) for _, record in records}
        return len(answers) >= sum(len(records) for records in broker.read(frames).values())
    if broker.offsets.pending:
        return False
    committed = broker.offsets.committed
    return all(
        committed.get(position, (0, ""))[0] >= len(log.records)
        for position, log in broker.logs.items()
        if position[0] == frames
    ) and not any(log.open for log in broker.logs.values())


def _all(broker: Broker, topics: Sequence[str]) -> Iterator[tuple[str, int, list[tuple[int, Record]]]]:
    for topic in topics:
        for number, records in broker.read(topic).items():
            yield topic, number, records


def _shown(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
