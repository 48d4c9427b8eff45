"""Publishing: numbered frames at a rate, each exactly once, never too far ahead of the answers."""

import threading
import time
from collections.abc import Callable
from functools import partial

from confluent_kafka import KafkaError, Message, Producer

from tests.faults.harness import crooked, history
from tests.faults.harness.frames import Bad, Frames, key
from tests.faults.harness.history import UNKNOWN

#: Frames that may be unanswered; beyond that the publisher waits, as a camera's own buffer would.
MAX_BACKLOG = 40_000

_TICK_S = 0.02
_FLUSH_S = 120.0


class Publisher(threading.Thread):
    """Frames 0, 1, 2, … to a topic by an idempotent producer, ``rate`` of them a second.

    What an outage held up is made good afterwards. ``answered`` tells how many frames have their answer.
    """

    def __init__(
        self, servers: str, topic: str, partitions: int, rate: float, answered: Callable[[], int], frames: Frames
    ) -> None:
        super().__init__(name="publisher", daemon=True)
        self._servers = servers
        self._producer = self._new_producer()
        self._topic = topic
        self._partitions = partitions
        self._rate = rate
        self._answered = answered
        self._frames = frames
        self._stopping, self._holding, self._held = threading.Event(), threading.Event(), threading.Event()
        self._generations: list[int] = []
        self._places: list[tuple[int, int]] = []
        self._crooked: dict[tuple[int, int], int] = {}
        self.generation = 0
        """How often the topic was made anew."""
        self.published = 0
        self.failure: str | None = None

    def run(self) -> None:
        began = time.monotonic()
        try:
            while not self._stopping.wait(_TICK_S):
                if self._holding.is_set():
                    self._flush()
                    self._held.set()
                    continue
                due = int((time.monotonic() - began) * self._rate)
                room = MAX_BACKLOG - (self.published - self._answered())
                for number in range(self.published, min(due, self.published + max(0, room))):
                    self._publish(number)
                self._producer.poll(0)
            self._flush()
        except Exception as error:  # the verdict tells it
            self.failure = repr(error)

    def stop(self) -> None:
        """Publishes what was begun, then ends."""
        self._stopping.set()
        self.join()

    def hold(self) -> None:
        """Publishes what was begun, and nothing more until :meth:`go_on`."""
        self._held.clear()
        self._holding.set()
        assert self._held.wait(_FLUSH_S + 10), f"the publisher does not come to rest: {self.failure}"

    def go_on(self, on_new_topic: bool = False) -> None:
        """Ends :meth:`hold`; by another producer where the topic is another of the same name."""
        if on_new_topic:
            self._producer = self._new_producer()
            self.generation += 1
        self._holding.clear()

    def number_at(self, partition: int, offset: int) -> int:
        """Which of the frames that do not name themselves stands there; UNKNOWN where none does."""
        return self._crooked.get((partition, offset), UNKNOWN)

    def frames(self) -> history.Frames:
        """What was published, for the history; once it has been stopped."""
        frames = self._frames
        return history.frames_of(
            (generation, *place, frames.camera(number), frames.expected(number))
            for number, (generation, place) in enumerate(zip(self._generations, self._places, strict=True))
        )

    def _publish(self, number: int) -> None:
        self._generations.append(self.generation)
        self._places.append((UNKNOWN, UNKNOWN))
        name, value = key(self._frames.camera(number)), self._frames.value(number)
        if self._frames.bad_kind(number) == Bad.HEADER_NAME:
            partition = crooked.partition_of(name.encode(), self._partitions)
            offset = crooked.publish(self._servers, self._topic, partition, name.encode(), value, str(number))
            self._places[number] = (partition, offset)
            self._crooked[partition, offset] = number
        else:
            headers: list[tuple[str, str | bytes | None]] = [("ce_id", str(number).encode())]
            delivered = partial(self._delivered, number)
            self._producer.produce(self._topic, value, name, headers=headers, on_delivery=delivered)
        self.published = number + 1

    def _flush(self) -> None:
        if left := self._producer.flush(_FLUSH_S):
            self.failure = f"{left} frames could not be published"

    def _new_producer(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._servers,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 10,
                "message.timeout.ms": 0,  # none: a frame that was numbered is published, whatever happens
                "queue.buffering.max.messages": 2 * MAX_BACKLOG,
                "log_level": 0,
                "error_cb": lambda _: None,
            }
        )

    def _delivered(self, number: int, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failure = f"a frame could not be published: {error.str()}"
        else:
            self._places[number] = (int(message.partition() or 0), int(message.offset() or 0))
