"""A frame as it travels through the worker, and the pool that decodes frames off the hot thread."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message
from torch import Tensor

from early_exit.preprocessing import Preprocessing
from schemas.frame import FrameHeaders, RawHeaders, default_id
from stream.decode import DecodeError, Limits, decode_frame
from stream.envelope import MAX_ENVELOPE_BYTES, check_envelope
from stream.patience import attend

#: Frames that one task of the pool decodes: small pictures take less time than handing them over does.
_CHUNK = 8


@dataclass(frozen=True, slots=True)
class Frame:
    """A record of the frames topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    raw_headers: RawHeaders
    headers: FrameHeaders

    @classmethod
    def of(cls, message: Message) -> "Frame":
        """From what the consumer returned; a record without a timestamp gets 0."""
        kind, timestamp = message.timestamp()
        raw: RawHeaders = message.headers() or []  # type: ignore[assignment]  # values are bytes on the way in
        return cls(
            topic=message.topic() or "",
            partition=message.partition() or 0,
            offset=message.offset() or 0,
            timestamp_ms=0 if kind == TIMESTAMP_NOT_AVAILABLE else timestamp,
            key=message.key(),
            value=message.value(),
            raw_headers=raw,
            headers=FrameHeaders.read(raw),
        )

    @property
    def id(self) -> str:
        """The publisher's id, or the frame's position."""
        return self.headers.ce_id or default_id(self.topic, self.partition, self.offset)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of a frame: its picture, or the reason why there is none."""

    picture: Tensor | DecodeError
    decode_ms: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """A frame whose picture is being decoded; ``chunk`` holds it at ``index`` once that is done."""

    frame: Frame
    chunk: "Future[list[Decoded]]"
    index: int

    def decoded(self, duties: Callable[[], float] | None = None) -> Decoded:
        """Waits for the picture; meanwhile ``duties`` are done, see :func:`stream.patience.attend`."""
        chunk = self.chunk.result() if duties is None else attend(self.chunk, duties)
        return chunk[self.index]


#: From a frame to its picture, uint8 ``[C, h, w]`` as the model takes it; raises :class:`DecodeError`. Thread-safe.
Decode = Callable[[Frame], Tensor]


def decoder(preprocessing: Preprocessing, limits: Limits) -> Decode:
    """Decodes the frame's own value."""
    return lambda frame: decode_frame(frame.value, frame.headers.content_type, preprocessing, limits)


class DecodePool:
    """Threads that decode and resize; torchvision and Pillow let go of Python's lock meanwhile."""

    def __init__(self, threads: int, decode: Decode, max_envelope_bytes: int = MAX_ENVELOPE_BYTES) -> None:
        self._max_envelope_bytes = max_envelope_bytes
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._threads = threads
        self._decode_frame = decode

    def submit(self, frames: Sequence[Frame]) -> list[Arrived]:
        """Starts decoding ``frames`` and returns at once."""
        size = max(1, min(_CHUNK, -(-len(frames) // self._threads)))
        arrived = []
        for start in range(0, len(frames), size):
            chunk = frames[start : start + size]
            future = self._pool.submit(self._decode, chunk)
            arrived += [Arrived(frame, future, index) for index, frame in enumerate(chunk)]
        return arrived

    def close(self) -> None:
        """Ends the threads; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, frames: Sequence[Frame]) -> list[Decoded]:
        return [self._decode_one(frame) for frame in frames]

    def _decode_one(self, frame: Frame) -> Decoded:
        began = perf_counter()
        picture: Tensor | DecodeError
        try:
            check_envelope(frame.key, frame.raw_headers, self._max_envelope_bytes)
            picture = self._decode_frame(frame)
        except DecodeError as error:
            picture = error
        return Decoded(picture, (perf_counter() - began) * 1000)
