"""The decode pool of a worker whose frames may refer to pictures that lie elsewhere."""

import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import msgspec

from layercache.early_exit.model.preprocessing import Preprocessing
from layercache.schemas.settings import Settings
from layercache.stream.frames.decode_pool import Decode, Decoded, DecodePool, PendingFrame, decoder
from layercache.stream.frames.decoding import DecodeError, Limits
from layercache.stream.frames.envelope import envelope_limit
from layercache.stream.frames.frame import Frame
from layercache.stream.references.fetching import Fetcher


class FetchingPool(DecodePool):
    """Decodes values as they are, and fetches first what frames without one refer to.

    A record that has both its picture and a reference to it is decoded from what it has: CloudEvents' ``dataref``
    promises that the two are the same.
    """

    def __init__(self, threads: int, decode: Decode, fetcher: Fetcher, max_envelope_bytes: int) -> None:
        super().__init__(threads, decode, max_envelope_bytes)
        self._fetcher = fetcher

    def submit(self, frames: Sequence[Frame]) -> list[PendingFrame]:
        """Starts fetching and decoding ``frames`` and returns at once."""
        if not any(map(is_reference, frames)):
            return super().submit(frames)
        there = iter(super().submit([frame for frame in frames if not is_reference(frame)]))
        return [PendingFrame(frame, self._fetch(frame), 0) if is_reference(frame) else next(there) for frame in frames]

    def close(self) -> None:
        """Ends the threads; what has not begun is dropped, and what is being fetched is given up."""
        self._fetcher.close()
        super().close()

    def _fetch(self, frame: Frame) -> "Future[list[Decoded]]":
        def decode(picture: bytes) -> list[Decoded]:
            return self._decode([msgspec.structs.replace(frame, value=picture)])

        chunk: Future[list[Decoded]] = Future()
        # After a rebalance or an abort the worker no longer has it, and what is read again must not wait behind it.
        held = weakref.ref(chunk)

        def settle(fetched: "Future[list[Decoded] | DecodeError]") -> None:
            chunk = held()
            if chunk is None:
                return
            if fetched.cancelled():
                chunk.cancel()
                return
            if (error := fetched.exception()) is not None:
                chunk.set_exception(error)
                return
            outcome = fetched.result()
            chunk.set_result([Decoded(outcome, 0.0)] if isinstance(outcome, DecodeError) else outcome)

        reference = frame.headers.ce_dataref or ""
        fetched = self._fetcher.fetch(reference, decode, self._pool, wanted=lambda: held() is not None)
        fetched.add_done_callback(settle)
        return chunk


def is_reference(frame: Frame) -> bool:
    """True where the record has no picture, and says where it lies."""
    return not frame.value and bool(frame.headers.ce_dataref)


def fetching_pool(
    settings: Settings, preprocessing: Preprocessing, observe: Callable[[float], None] = lambda seconds: None
) -> FetchingPool:
    """The pool that the settings ask for; ``observe`` as :class:`~layercache.stream.references.fetching.Fetcher` takes
    it.

    Raises :class:`~layercache.stream.references.prefixes.UnusablePrefix`.
    """
    limits = Limits.of(settings.worker)
    fetcher = Fetcher(settings.references, limits.max_bytes, observe=observe)
    most = envelope_limit(settings.topics.max_record_bytes)
    return FetchingPool(settings.worker.decode_threads, decoder(preprocessing, limits), fetcher, most)
