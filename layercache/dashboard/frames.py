"""Fetches the frames of a few answers by their positions, without reading the rest of the topic."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Message, TopicPartition

from layercache.dashboard.state import DeadLetter, Frame
from layercache.dashboard.tail import tail_config
from layercache.dashboard.thumbnails import NoPicture, thumbnail
from layercache.schemas.frame import FrameHeaders
from layercache.schemas.prediction import Prediction
from layercache.schemas.settings import Settings
from layercache.stream.frames.decoding import Limits
from layercache.stream.kafka.clients import KafkaUnusable, Troubles, describe_error, is_hopeless
from layercache.stream.kafka.reach import connect
from layercache.stream.kafka.record_headers import headers_of
from layercache.stream.watching import read_dead_letter

#: The reader waits so long for the frames of one round.
_PATIENCE_S = 3.0
_POLL_S = 0.1
#: The reader reads frames at most so many offsets apart in one go.
_NEAR = 32

GONE = "the frame is no longer on its topic"
LATE = "the frames topic did not answer in time"
ELSEWHERE = "the picture lies elsewhere (ce_dataref): the dashboard does not fetch it"

Position = tuple[int, int]
"""Partition and offset."""


class FrameReader:
    """Fetches records of the frames topic by position. Not thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topics.frames
        self._settings = settings
        self._consumer: Consumer | None = None

    def fetch(self, wanted: Sequence[Position], stopping: Callable[[], bool]) -> dict[Position, Message | str]:
        """Records by position, or why there is none; within a few seconds."""
        found: dict[Position, Message | str] = {}
        deadline = time.monotonic() + _PATIENCE_S
        # One stretch of each partition at a time: a consumer has one position in a partition.
        stretches = {number: list(_stretches(ones)) for number, ones in groupby(sorted(wanted), lambda at: at[0])}
        while stretches and time.monotonic() < deadline and not stopping():
            turn = {number: parts.pop(0) for number, parts in stretches.items()}
            stretches = {number: parts for number, parts in stretches.items() if parts}
            try:
                self._read(turn, found, deadline, stopping)
            except (KafkaException, KafkaUnusable) as error:
                why = describe_error(error.args[0]) if isinstance(error, KafkaException) else str(error)
                return {at: found.get(at, why) for at in wanted}
        return {at: found.get(at, LATE) for at in wanted}

    def close(self) -> None:
        """Closes the client; the next fetch opens another one."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _read(
        self,
        turn: Mapping[int, Sequence[int]],
        found: dict[Position, Message | str],
        deadline: float,
        stopping: Callable[[], bool],
    ) -> None:
        """Reads one stretch, its offsets given, of each partition."""
        if self._consumer is None:
            # A deleted offset must be an error, or the consumer would begin somewhere else.
            config = tail_config(self._settings, auto_offset_reset="error", fetch_wait_max_ms=50)
            self._consumer = connect(Consumer, config | {"enable.partition.eof": True}, Troubles())
        consumer = self._consumer
        pending = {number: set(offsets) for number, offsets in turn.items()}
        silent = set(pending)
        consumer.assign([TopicPartition(self._topic, number, min(offsets)) for number, offsets in pending.items()])
        try:
            while pending and time.monotonic() < deadline and not stopping():
                for message in consumer.consume(100, _POLL_S):
                    number, offset = message.partition() or 0, message.offset() or 0
                    silent.discard(number)
                    if number not in pending:
                        continue
                    error = message.error()
                    if error is not None:
                        _record_error(error, number, pending, found)
                        continue
                    if offset in pending[number]:
                        found[number, offset] = message
                    pending[number] -= {one for one in pending[number] if one <= offset}
                    if not pending[number]:
                        del pending[number]
        finally:
            consumer.unassign()
        if silent and not stopping():
            self.close()  # a client that knew an older topic of the name may never read this one (FrameConsumer.rejoin)


def frame_of(prediction: Prediction, record: Message | str, limits: Limits) -> Frame:
    """What the page shows of a prediction, given its frame's record or the reason why there is none."""
    picture, why = None, ""
    key = None
    if isinstance(record, str):
        why = record
    else:
        key = text(record.key())
        try:
            picture = thumbnail(picture_bytes(record), limits)
        except NoPicture as error:
            why = str(error)
    times = prediction.times
    return Frame(
        id=prediction.id,
        key=key,
        partition=prediction.partition,
        offset=prediction.offset,
        at_ms=times.predicted_ms,
        class_name=prediction.class_name,
        confidence=prediction.confidence,
        exit=prediction.exit,
        audited=prediction.audited,
        overload=prediction.budget == "overload",
        version=prediction.heads_version,
        latency_ms=float(max(0, times.predicted_ms - times.frame_ms)) if times.frame_ms > 0 else 0.0,
        picture=picture,
        no_picture=why,
    )


def dead_letter_of(record: Message, limits: Limits, now: int) -> DeadLetter:
    """A dead letter, with its picture where it decodes.

    Raises ``msgspec.ValidationError`` or ``ValueError`` for a record that is no dead letter.
    """
    letter = read_dead_letter(record)
    picture, why = None, ""
    try:
        picture = thumbnail(picture_bytes(record), limits)
    except NoPicture as error:
        why = str(error)
    return DeadLetter(
        id=letter.id,
        key=text(record.key()),
        partition=letter.partition,
        offset=letter.offset,
        at_ms=written_ms(record, now),
        reason=str(letter.reason),
        message=letter.message,
        picture=picture,
        no_picture=why,
    )


def written_ms(record: Message, now: int) -> int:
    """The record's timestamp; ``now`` where it has none."""
    kind, at_ms = record.timestamp()
    return now if kind == TIMESTAMP_NOT_AVAILABLE else at_ms


def picture_bytes(record: Message) -> bytes | None:
    """A frame's own bytes. Raises :class:`NoPicture` for a claim check."""
    value = record.value()
    if not value and FrameHeaders.read(headers_of(record)).ce_dataref is not None:
        raise NoPicture(ELSEWHERE)
    return value if isinstance(value, bytes) else None


def text(key: str | bytes | None) -> str | None:
    """A record's key as text, with undecodable bytes replaced."""
    return key.decode(errors="replace") if isinstance(key, bytes) else key


def _stretches(positions: Iterable[Position]) -> Iterable[list[int]]:
    """One partition's offsets, ascending, in groups that lie near each other."""
    stretch: list[int] = []
    for _, offset in positions:
        if stretch and offset - stretch[-1] > _NEAR:
            yield stretch
            stretch = []
        stretch.append(offset)
    if stretch:
        yield stretch


def _record_error(
    error: KafkaError, number: int, pending: dict[int, set[int]], found: dict[Position, Message | str]
) -> None:
    """Records why offsets cannot be read: the partition no longer has them, or the error is hopeless; others pass."""
    if error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        found.update({(number, offset): GONE for offset in pending.pop(number)})
    elif is_hopeless(error):
        found.update({(number, offset): describe_error(error) for offset in pending.pop(number)})
