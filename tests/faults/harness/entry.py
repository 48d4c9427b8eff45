"""What the harness puts around a worker's Kafka clients, in the worker's own process; the product knows nothing of it.

Every record names the process that sent it (a header), the log tells which partitions it holds, and files are orders:
``<name>.die`` kills the process between ``send_offsets_to_transaction`` and ``commit_transaction``, and while there is
``<name>.gate`` it does not join its group.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka
from confluent_kafka import Consumer, Producer, TopicPartition

#: The header by which answers name the process that gave them.
LIFE_HEADER = "harness-life"

#: Lines of the log, each followed by numbers of partitions.
HOLDS, READY, DIES = "harness: holds", "harness: ready to join", "harness: dies with offsets sent for"

_NAME, _ORDERS = "HARNESS_NAME", "HARNESS_ORDERS"
_LOOK_S = 0.02


def install() -> None:
    """Puts the classes below in the place of confluent-kafka's. Before the product is imported, which takes them then.

    Only in a process that does nothing but become workers: see :mod:`testbed.forkserver`.
    """
    taken = sorted(name for name in sys.modules if name.split(".")[0] == "layercache")
    assert not taken, f"imported already, with the clients as they are: {taken}"
    confluent_kafka.Producer, confluent_kafka.Consumer = _Producer, _Consumer  # type: ignore[misc]


def environment(name: str, orders: Path) -> dict[str, str]:
    """Tells a worker's process its name, and where its orders are."""
    return {_NAME: name, _ORDERS: str(orders)}


def _name() -> str:
    return os.environ[_NAME]


def _is_ordered(order: str) -> bool:
    return Path(os.environ[_ORDERS], f"{_name()}.{order}").exists()


class _Producer(Producer):
    _sent: list[TopicPartition] | None = None

    def produce(self, topic: str, value: Any = None, key: Any = None, headers: Any = None, **more: Any) -> None:  # type: ignore[override]
        super().produce(topic, value, key, headers=[*(headers or ()), (LIFE_HEADER, _name())], **more)

    def send_offsets_to_transaction(self, positions: list[TopicPartition], *more: Any, **named: Any) -> None:
        super().send_offsets_to_transaction(positions, *more, **named)
        self._sent = positions

    def commit_transaction(self, *more: Any, **named: Any) -> None:
        if self._sent and _is_ordered("die"):
            print(f"{DIES} {sorted(one.partition for one in self._sent)}", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        super().commit_transaction(*more, **named)
        self._sent = None

    def abort_transaction(self, *more: Any, **named: Any) -> None:
        self._sent = None
        super().abort_transaction(*more, **named)


Change = Callable[[Consumer, list[TopicPartition]], None]


class _Consumer(Consumer):
    _held: frozenset[int] = frozenset()

    def subscribe(self, topics: list[str], **callbacks: Change) -> None:  # type: ignore[override]
        if _is_ordered("gate"):
            print(READY, flush=True)
        while _is_ordered("gate"):
            time.sleep(_LOOK_S)
        told = {name: self._telling(call, added=name == "on_assign") for name, call in callbacks.items()}
        super().subscribe(topics, **told)

    def _telling(self, call: Change, added: bool) -> Change:
        def changed(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            call(consumer, partitions)
            numbers = {one.partition for one in partitions}
            self._held = self._held | numbers if added else self._held - numbers
            print(f"{HOLDS} {sorted(self._held)}", flush=True)

        return changed
