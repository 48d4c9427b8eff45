"""`layercache worker` that dies, or joins its group, at a moment that a test chooses.

:func:`install` puts the doubles into the process that workers are forked from, before it imports anything of ours. A
worker's environment names files:

* once ``DIE`` is there, the worker kills itself (SIGKILL) between ``send_offsets_to_transaction`` and
  ``commit_transaction``, in the first transaction with offsets of ``DIE_WITH`` partitions at least;
* it joins its group only once ``JOIN`` is there.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import confluent_kafka

_LOOK_S = 0.02


class _DyingProducer(confluent_kafka.Producer):
    """The real producer, until the file is there."""

    def send_offsets_to_transaction(self, positions: Any, *args: Any) -> None:
        super().send_offsets_to_transaction(positions, *args)
        die = os.environ.get("DIE")
        if die and Path(die).exists() and len(positions) >= int(os.environ.get("DIE_WITH", "1")):
            print("dies with offsets sent for", sorted((one.partition, one.offset) for one in positions), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


class _WaitingConsumer(confluent_kafka.Consumer):
    """The real consumer, which joins once the file is there."""

    def subscribe(self, *args: Any, **kwargs: Any) -> None:
        if join := os.environ.get("JOIN"):
            print("ready to join", flush=True)
            while not Path(join).exists():
                time.sleep(_LOOK_S)
        super().subscribe(*args, **kwargs)


def install() -> None:
    """Replaces confluent-kafka's classes by the doubles."""
    confluent_kafka.Producer = _DyingProducer  # type: ignore[misc]
    confluent_kafka.Consumer = _WaitingConsumer  # type: ignore[misc]
