"""The pool that decodes frames off the hot thread."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, repeat
from operator import attrgetter
from time import perf_counter

import msgspec
from torch import Tensor

from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.stream.frames.bare_errors import bare
from layercache.stream.frames.decoding import DecodeError, Limits, decode_frame
from layercache.stream.frames.envelope import MAX_ENVELOPE_BYTES, check_envelope
from layercache.stream.frames.frame import Frame
from layercache.stream.kafka.waiting import wait_with_duties

#: How long one task of the pool takes, about: handing over a small picture alone takes longer than decoding it, and
#: of large ones a task of many would keep one thread busy while the others wait.
_CHUNK_MS = 1.0
#: How much one task moves the running mean of a picture's time, and what that is at least.
_MEAN_WEIGHT, _LEAST_MS = 0.1, 1e-4

_CHUNK_OF = attrgetter("chunk")


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """What became of a frame: its picture, or the reason why there is none."""

    picture: Tensor | DecodeError
    decode_ms: float


class PendingFrame(msgspec.Struct, frozen=True, gc=False):
    """A frame whose picture is being decoded; ``chunk`` holds it at ``index`` once that is done."""

    frame: Frame
    chunk: "Future[list[Decoded]]"
    index: int

    def decoded(self) -> Decoded:
        """Waits for the picture."""
        return self.chunk.result()[self.index]


def all_decoded(pending: Sequence[PendingFrame], duties: Callable[[], float]) -> list[Decoded]:
    """Waits for the pictures and does the ``duties`` meanwhile, by
    :func:`layercache.stream.kafka.waiting.wait_with_duties`.
    """
    chunks = {chunk: wait_with_duties(chunk, duties) for chunk in dict.fromkeys(map(_CHUNK_OF, pending))}
    return [chunks[one.chunk][one.index] for one in pending]


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

    def submit(self, frames: Sequence[Frame]) -> list[PendingFrame]:
        """Starts decoding ``frames`` and returns at once."""
        size = max(1, min(round(_CHUNK_MS / self._mean_ms), -(-len(frames) // self._threads)))
        pending: list[PendingFrame] = []
        for start in range(0, len(frames), size):
            chunk = frames[start : start + size]
            pending += map(PendingFrame, chunk, repeat(self._pool.submit(self._decode, chunk)), count())
        return pending

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
