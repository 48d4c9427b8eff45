"""Fetching what frames refer to, off the hot thread: in parallel, each for so long at most, whatever the store does.

A read that does not come back cannot be ended from outside. It is left behind in a thread of its own, and the frame
goes on without it; how many are left behind is bounded for each prefix.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from layercache.early_exit.machine import MachineFailed
from layercache.schemas.dead_letter import Reason
from layercache.schemas.settings import References
from layercache.stream.frames.bare_errors import bare
from layercache.stream.frames.decoding import DecodeError
from layercache.stream.references.prefixes import AllowList, Location, Prefix, Refused
from layercache.stream.references.reading import ReferencedFiles, TooLarge, Unreadable, describe_failure, open_files

log = logging.getLogger(__name__)

#: Reads of one prefix that may be left behind at a time. With as many, others of the prefix fail at once.
MAX_LEFT_BEHIND = 64

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0

Result = TypeVar("Result")


@dataclass
class _Place:
    """A prefix as it is read."""

    prefix: Prefix
    files: ReferencedFiles
    left_behind: int = field(default=0)

    def count_if_left_behind(self, read: "asyncio.Future[bytes]") -> None:
        self.left_behind += read.cancelled()


class Fetcher:
    """Fetches pictures by reference. Nothing that it does can hold its caller.

    ``places`` may bring files of the caller's own, by prefix; only the settings' prefixes are allowed. ``observe`` is
    called with the seconds that each attempt took, failed ones as well. Raises
    :class:`~layercache.stream.references.prefixes.UnusablePrefix`.
    """

    def __init__(
        self,
        settings: References,
        max_bytes: int,
        places: Mapping[str, ReferencedFiles] | None = None,
        observe: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._allowed = AllowList(settings.prefixes)
        self._places = {
            str(prefix): _Place(prefix, (places or {}).get(str(prefix)) or open_files(prefix, settings.timeout_s))
            for prefix in self._allowed.prefixes
        }
        self._settings = settings
        self._observe = observe
        self._max_bytes = max_bytes
        self._loop = asyncio.new_event_loop()
        self._slots = asyncio.Semaphore(settings.parallel)
        self._thread: threading.Thread | None = None

    def fetch(
        self,
        reference: str,
        then: Callable[[bytes], Result],
        executor: Executor,
        wanted: Callable[[], bool] = lambda: True,
    ) -> "Future[Result | DecodeError]":
        """Returns at once; in the end what ``then`` made, in ``executor``, of the bytes that ``reference`` leads to.

        Or why there are none, once all attempts have failed. At most ``parallel`` pictures are held, others wait for
        their turn; when it comes, ``wanted`` is asked whether the caller still waits.
        """
        try:
            prefix, location = self._allowed.find(reference)
        except Refused as error:
            refused: Future[Result | DecodeError] = Future()
            refused.set_result(DecodeError(Reason.REFERENCE_REFUSED, f"the reference is not followed: {error}"))
            return refused
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop.run_forever, name="references", daemon=True)
            self._thread.start()
        work = self._in_turn(self._places[str(prefix)], location, then, executor, wanted)
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Ends; what is under way is given up."""
        if self._thread is not None:
            asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    async def _in_turn(
        self,
        place: _Place,
        location: Location,
        then: Callable[[bytes], Result],
        executor: Executor,
        wanted: Callable[[], bool],
    ) -> Result | DecodeError:
        """Raises :class:`MachineFailed` alone: an error that its task keeps is a circle
        (:mod:`layercache.stream.frames.bare_errors`)."""
        # Held until the picture is decoded, pauses included: no picture's attempts are used up by waiting for others.
        async with self._slots:
            if not wanted():
                return _failed(location, "no worker waits for it any more")
            try:
                return await asyncio.wrap_future(executor.submit(then, await self._attempts(place, location)))
            except DecodeError as error:
                return bare(error)
            except MachineFailed:
                raise
            except Exception as error:  # no thread to be had, say; a frame's trouble, never the stream's
                return _failed(location, describe_failure(bare(error), place.prefix.options))

    async def _attempts(self, place: _Place, location: Location) -> bytes:
        why, attempts = "", self._settings.attempts
        for attempt in range(1, attempts + 1):
            if attempt > 1:
                await asyncio.sleep(_pause_s(attempt - 1))
            began = time.monotonic()
            try:
                return await self._attempt(place, location)
            except Unreadable as error:
                why = str(error)
                log.debug("attempt %d to fetch %s: %s", attempt, location, why)
            finally:
                self._observe(time.monotonic() - began)
        raise _failed(location, f"{attempts} attempts, the last: {why}" if attempts > 1 else why)

    async def _attempt(self, place: _Place, location: Location) -> bytes:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await self._read_in_thread(place, location)
        except TimeoutError:
            raise Unreadable(f"no answer within {self._settings.timeout_s:g} s") from None
        except TooLarge as error:
            raise DecodeError(Reason.TOO_MANY_BYTES, f"{location}: {error}") from None
        except Refused as error:
            raise DecodeError(Reason.REFERENCE_REFUSED, f"{location} is not followed: {error}") from None

    def _read_in_thread(self, place: _Place, location: Location) -> "asyncio.Future[bytes]":
        """Not awaited here: a call that holds the future is in the traceback of the error that the future holds."""
        if place.left_behind >= MAX_LEFT_BEHIND:
            raise Unreadable(f"{place.left_behind} earlier reads of {place.prefix} have not come back")
        outcome: asyncio.Future[bytes] = self._loop.create_future()

        def finish(result: bytes | Exception) -> None:
            if outcome.cancelled():
                place.left_behind -= 1
            elif isinstance(result, Exception):
                outcome.set_exception(result)
            else:
                outcome.set_result(result)

        def read() -> None:
            result: bytes | Exception
            try:
                result = place.files.read(location, self._max_bytes)
            except (Refused, TooLarge, Unreadable) as error:
                result = bare(error)
            except Exception as error:  # file systems raise what they like
                result = Unreadable(describe_failure(bare(error), place.prefix.options))
            with suppress(RuntimeError):  # the loop has ended: no caller waits any more
                self._loop.call_soon_threadsafe(finish, result)

        # Neither a pool's nor the interpreter's end waits for a thread of this kind.
        threading.Thread(target=read, name="reference-read", daemon=True).start()
        outcome.add_done_callback(place.count_if_left_behind)
        return outcome


def _pause_s(attempt: int) -> float:
    """After the ``attempt``-th."""
    return min(_FIRST_PAUSE_S * 2.0 ** (attempt - 1), _LONGEST_PAUSE_S)


def _failed(location: Location, why: str) -> DecodeError:
    return DecodeError(Reason.REFERENCE_FAILED, f"{str(location)[:200]} could not be fetched: {why}")


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
