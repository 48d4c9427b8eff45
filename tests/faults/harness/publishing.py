"""Publishing: numbered frames at a rate, each exactly once, never too far ahead of the answers."""

import threading
import time
from collections.abc import Callable

from confluent_kafka import KafkaError, Message, Producer

from tests.faults.harness.frames import Frames, key

#: Frames that may be unanswered; beyond that the publisher waits, as a camera's own buffer would.
MAX_BACKLOG = 40_000

_TICK_S = 0.02
_FLUSH_S = 120.0


class Publisher(threading.Thread):
    """Frames 0, 1, 2, … to a topic by an idempotent producer, ``rate`` of them a second.

    What an outage held up is made good afterwards. ``answered`` tells how many frames have their answer.
    """

    def __init__(self, servers: str, topic: str, rate: float, answered: Callable[[], int]) -> None:
        super().__init__(name="publisher", daemon=True)
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 10,
                "message.timeout.ms": 0,  # none: a frame that was numbered is published, whatever happens
                "queue.buffering.max.messages": 2 * MAX_BACKLOG,
                "on_delivery": self._delivered,
                "delivery.report.only.error": True,
                "log_level": 0,
                "error_cb": lambda _: None,
            }
        )
        self._topic = topic
        self._rate = rate
        self._answered = answered
        self._frames = Frames.make()
        self._stopping = threading.Event()
        self.published = 0
        self.failure: str | None = None

    def run(self) -> None:
        began = time.monotonic()
        while not self._stopping.wait(_TICK_S):
            due = int((time.monotonic() - began) * self._rate)
            room = MAX_BACKLOG - (self.published - self._answered())
            for number in range(self.published, min(due, self.published + max(0, room))):
                self._producer.produce(
                    self._topic, self._frames.value(number), key(number), headers=[("ce_id", str(number).encode())]
                )
                self.published = number + 1
            self._producer.poll(0)
        if self._producer.flush(_FLUSH_S):
            self.failure = f"{len(self._producer)} frames could not be published"

    def stop(self) -> None:
        """Publishes what was begun, then ends."""
        self._stopping.set()
        self.join()

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self.failure = f"a frame could not be published: {error.str()}"
