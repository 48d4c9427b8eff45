"""A frame as it travels through the worker, and the pool that decodes frames off the hot thread."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, repeat
from operator import attrgetter
from time import perf_counter

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message
from torch import Tensor

from early_exit.preprocessing import Preprocessing
from schemas.frame import CE_ID, FrameHeaders, RawHeaders, default_id, last_text
from stream.bare_errors import bare
from stream.decode import DecodeError, Limits, decode_frame
from stream.envelope import MAX_ENVELOPE_BYTES, check_envelope
from stream.patience import attend
from stream.record_headers import all_headers

#: How long one task of the pool takes, about: handing over a small picture alone takes longer than decoding it, and
#: of large ones a task of many would keep one thread busy while the others wait.
_CHUNK_MS = 1.0
#: How much one task moves the running mean of a picture's time, and what that is at least.
_MEAN_WEIGHT, _LEAST_MS = 0.1, 1e-4

_CHUNK_OF = attrgetter("chunk")


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A record of the frames topic."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """0 where the record has none."""
    key: bytes | None
    value: bytes | None
    raw_headers: RawHeaders = ()
    topic_id: str = ""
    """Of the topic that it was read from; empty where that is not known."""

    @property
    def headers(self) -> FrameHeaders:
        """What the headers say, read at each call."""
        return FrameHeaders.read(self.raw_headers)

    @property
    def id(self) -> str:
        """The publisher's id, or the frame's position."""
        return last_text(self.raw_headers, CE_ID) or default_id(self.topic, self.partition, self.offset)


def frames_of(topic: str, messages: Sequence[Message], topic_id: str = "") -> list[Frame]:
    """The frames of a topic's records, in order.

    By columns, since Python calls a function several times faster for a whole list than in a loop of its own.
    """
    return list(
        map(
            Frame,
            repeat(topic),
            map(Message.partition, messages),
            map(Message.offset, messages),
            (0 if kind == TIMESTAMP_NOT_AVAILABLE else at_ms for kind, at_ms in map(Message.timestamp, messages)),
            map(Message.key, messages),
            map(Message.value, messages),
            all_headers(messages),
            repeat(topic_id),
        )
    )


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """What became of a frame: its picture, or the reason why there is none."""

    picture: Tensor | DecodeError
    decode_ms: float


class Arrived(msgspec.Struct, frozen=True, gc=False):
    """A frame whose picture is being decoded; ``chunk`` holds it at ``index`` once that is done."""

    frame: Frame
    chunk: "Future[list[Decoded]]"
    index: int

    def decoded(self) -> Decoded:
        """Waits for the picture."""
        return self.chunk.result()[self.index]


def all_decoded(arrived: Sequence[Arrived], duties: Callable[[], float]) -> list[Decoded]:
    """Waits for the pictures; meanwhile ``duties`` are done, see :func:`stream.patience.attend`."""
    chunks = {chunk: attend(chunk, duties) for chunk in dict.fromkeys(map(_CHUNK_OF, arrived))}
    return [chunks[one.chunk][one.index] for one in arrived]


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
        self._mean_ms = _CHUNK_MS / 8

    def submit(self, frames: Sequence[Frame]) -> list[Arrived]:
        """Starts decoding ``frames`` and returns at once."""
        size = max(1, min(round(_CHUNK_MS / self._mean_ms), -(-len(frames) // self._threads)))
        arrived: list[Arrived] = []
        for start in range(0, len(frames), size):
            chunk = frames[start : start + size]
            arrived += map(Arrived, chunk, repeat(self._pool.submit(self._decode, chunk)), count())
        return arrived

    def close(self) -> None:
        """Ends the threads; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _decode(self, frames: Sequence[Frame]) -> list[Decoded]:
        decoded = list(map(self._decode_one, frames))
        mean_ms = sum(one.decode_ms for one in decoded) / len(decoded)
        self._mean_ms += _MEAN_WEIGHT * (max(mean_ms, _LEAST_MS) - self._mean_ms)
        return decoded

    def _decode_one(self, frame: Frame) -> Decoded:
        began = perf_counter()
        picture: Tensor | DecodeError
        try:
            check_envelope(frame.key, frame.raw_headers, self._max_envelope_bytes)
            picture = self._decode_frame(frame)
        except DecodeError as error:
            picture = bare(error)
        return Decoded(picture, (perf_counter() - began) * 1000)
