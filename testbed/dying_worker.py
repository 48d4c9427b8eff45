"""`layercache worker` that dies at a moment of a test's choosing, or joins its group at one.

Run it as ``python -m testbed.dying_worker worker --config FILE``. What the environment names are files:

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
        if Path(os.environ["DIE"]).exists() and len(positions) >= int(os.environ.get("DIE_WITH", "1")):
            print("dies with offsets sent for", sorted((one.partition, one.offset) for one in positions), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


class _WaitingConsumer(confluent_kafka.Consumer):
    """The real consumer, which joins once the file is there."""

    def subscribe(self, *args: Any, **kwargs: Any) -> None:
        print("ready to join", flush=True)
        while not Path(os.environ["JOIN"]).exists():
            time.sleep(_LOOK_S)
        super().subscribe(*args, **kwargs)


if __name__ == "__main__":
    # Before anything of ours is imported, which takes the classes by their names.
    if "DIE" in os.environ:
        confluent_kafka.Producer = _DyingProducer  # type: ignore[misc]
    if "JOIN" in os.environ:
        confluent_kafka.Consumer = _WaitingConsumer  # type: ignore[misc]
    from layercache.cli.main import main

    main()
