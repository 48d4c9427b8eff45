"""The group's committed offsets, asked for again and again while the faults strike."""

import threading
from collections.abc import Iterable
from contextlib import closing

from confluent_kafka import Consumer, KafkaException, TopicPartition

from tests.faults.harness.clock import wall_ms
from tests.faults.harness.history import Commit

_EVERY_S = 0.5
_ASK_S = 5.0
#: Where a broker that answers at all does not tell stable offsets for so long, a transaction is open over them.
_UNSTABLE_S = 0.5


class CommittedOffsets(threading.Thread):
    """Collects :class:`Commit`. Asks by consumers that belong to no group's members, for the group's stable offsets."""

    def __init__(self, servers: str, group: str, topic: str, partitions: int) -> None:
        super().__init__(name="committed-offsets", daemon=True)
        self._config = {
            "bootstrap.servers": servers, "group.id": group, "log_level": 0, "error_cb": lambda _: None,
        }  # fmt: skip
        self._topic = topic
        self._partitions = partitions
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        # These have found the group's coordinator long before they are asked whether it hesitates.
        self._any, self._stable = self._consumer("read_uncommitted"), self._consumer("read_committed")
        self.generation: int | None = 0
        """Of the topic; None while there is none."""
        self.commits: list[Commit] = []

    def run(self) -> None:
        for probe in (self._any, self._stable):
            self._ask(probe, range(self._partitions), _ASK_S)
        with closing(self._consumer("read_committed")) as consumer:
            while not self._stopping.wait(_EVERY_S):
                asked, generation = wall_ms(), self.generation
                offsets = self._ask(consumer, range(self._partitions), _ASK_S)
                with self._lock:
                    if offsets is not None and generation is not None and generation == self.generation:
                        self.commits.append(Commit(asked, generation, offsets))

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)
        self._any.close()
        self._stable.close()

    def topic_is(self, generation: int | None) -> None:
        """What is asked from now on is about that topic; answers that are still to come are about none."""
        with self._lock:
            self.generation = generation

    def are_unstable(self, partitions: frozenset[int]) -> bool:
        """True where a transaction is open over any of them: the broker tells unstable offsets, and no stable ones."""
        told = self._ask(self._any, partitions, _ASK_S)
        return told is not None and self._ask(self._stable, partitions, _UNSTABLE_S) is None

    def _consumer(self, isolation: str) -> Consumer:
        return Consumer({**self._config, "isolation.level": isolation})

    def _ask(self, consumer: Consumer, partitions: Iterable[int], seconds: float) -> dict[int, int] | None:
        asked = [TopicPartition(self._topic, number) for number in partitions]
        try:
            found = consumer.committed(asked, seconds)
        except KafkaException:
            return None
        if any(one.error is not None for one in found):
            return None
        return {one.partition: max(0, one.offset) for one in found}
