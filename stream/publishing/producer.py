"""Frames onto their topic: one record a frame, refused where it is too large, and followed until the broker has it."""

from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from layercache.schemas.frame import FrameHeaders
from layercache.schemas.settings import Settings
from layercache.stream.kafka.clients import RECORD_SLACK_BYTES, KafkaUnusable, Troubles, producer_config
from layercache.stream.kafka.reach import cluster, connect, partitions_of

#: A broker that goes away in mid-stream has this long to come back before frames count as failed.
DELIVERY_TIMEOUT_MS = 30_000
_PURGE_S = 0.1


class FrameTooLarge(ValueError):
    """The frame's record would be larger than its topic takes."""


class FrameProducer:
    """Puts frames on ``settings.topics.frames``. Connects when :meth:`connect` is called; see there for errors.

    ``overrides`` are options of the producer that stand under the user's own, as in
    :func:`~layercache.stream.kafka.clients.producer_config`.
    """

    def __init__(self, settings: Settings, **overrides: object) -> None:
        """Raises :class:`KafkaUnusable` where librdkafka does not know an option."""
        self.troubles = Troubles()
        """The connection's latest."""
        self._settings = settings
        config = producer_config(
            settings,
            compression_type="none",  # pictures are compressed as they are
            delivery_timeout_ms=DELIVERY_TIMEOUT_MS,
            **overrides,
        )
        self._producer = connect(Producer, config, self.troubles)

    def connect(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Waits for a broker; False where ``stopping`` came first.

        Raises :class:`KafkaUnusable` where the broker cannot be reached or has no such topic.
        """
        metadata = cluster(self._producer, self._settings, self.troubles, stopping)
        if metadata is None:
            return False
        partitions_of(metadata, self._settings.topics.frames, self._settings)
        return True

    def produce(
        self,
        value: bytes | None,
        headers: FrameHeaders,
        key: bytes | None,
        done: Callable[[str | None], None],
    ) -> None:
        """Hands a frame over. Within a later :meth:`poll` or :meth:`flush`, ``done`` gets None once the broker has
        acknowledged the frame, or why it never will.

        Raises :class:`FrameTooLarge`, ``BufferError`` while the producer's queue is full, and :class:`KafkaUnusable`.
        """
        raw = headers.as_kafka()
        topics = self._settings.topics
        size = len(value or b"") + sum(len(name) + len(text) for name, text in raw) + len(key or b"")
        if size + RECORD_SLACK_BYTES > topics.max_record_bytes:
            raise FrameTooLarge(
                f"{size:,} bytes, and the topic takes {topics.max_record_bytes:,}: send a smaller picture, or raise "
                "topics.max_record_bytes and the topic's max.message.bytes"
            )

        def delivered(error: KafkaError | None, message: Message) -> None:
            done(None if error is None else self._why(error))

        try:
            self._producer.produce(
                topics.frames,
                value,
                key,
                headers=raw,  # type: ignore[arg-type]  # their stub asks for an invariant list
                on_delivery=delivered,
            )
        except KafkaException as error:
            raise KafkaUnusable(f"frame {headers.ce_id} cannot be published: {error.args[0].str()}") from error

    @property
    def unacknowledged(self) -> int:
        """Frames of which it is not known yet whether the broker has them."""
        return len(self._producer)

    def poll(self, timeout_s: float) -> None:
        """Calls what is ``done``, for so long at most."""
        self._producer.poll(timeout_s)

    def flush(self, timeout_s: float) -> int:
        """Waits until every frame is acknowledged or given up, for so long at most. Returns how many are not."""
        return self._producer.flush(timeout_s)

    def purge(self) -> None:
        """Gives up what is not acknowledged."""
        self._producer.purge()
        self._producer.flush(_PURGE_S)

    def _why(self, error: KafkaError) -> str:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            return "it is larger than the topic's max.message.bytes: send a smaller picture, or raise that"
        return f"{error.str()} ({self.troubles})"
