"""The client for asyncio: the same calls, awaited."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from layercache.api.client import PATIENCE_S, Client
from layercache.api.following import Following
from layercache.api.values import Sendable
from layercache.schemas.prediction import Prediction
from layercache.schemas.settings import Settings
from layercache.stream.kafka.waiting import Deadline
from layercache.stream.watching import DeadLetter

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Calls that may wait at the same time for room or a connection; each is a thread.
_THREADS = 4
#: Predictions that have been read and not yet been taken.
_AHEAD = 100


class AsyncFollowing(Generic[Item]):
    """An asynchronous iterator over what comes on a topic, from ``async with`` or else from its first step on."""

    def __init__(self, connect: Callable[[], "asyncio.Future[Following[Item]]"]) -> None:
        self._connect = connect
        self._items: asyncio.Queue[Item | BaseException | None] = asyncio.Queue(_AHEAD)
        self._following: Following[Item] | None = None
        self._pump: threading.Thread | None = None
        self._opening = asyncio.Lock()
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come."""
        return self._ended

    async def aclose(self) -> None:
        """Ends the iteration."""
        self._ended = True
        if self._following is not None and self._pump is not None:
            self._following.close()
            while not self._items.empty():  # room for what the thread still has, and for its end
                self._items.get_nowait()
            await asyncio.to_thread(self._pump.join)

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        await self._open()
        item = None if self._ended else await self._items.get()
        if item is None or isinstance(item, BaseException):
            self._ended = True
            raise StopAsyncIteration if item is None else item
        return item

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _open(self) -> None:
        """Connects, once."""
        async with self._opening:
            if self._following is None and not self._ended:
                self._following = await self._connect()
                loop = asyncio.get_running_loop()
                self._pump = threading.Thread(
                    target=self._run, args=(self._following, loop), name="client-following", daemon=True
                )
                self._pump.start()

    def _run(self, following: Following[Item], loop: asyncio.AbstractEventLoop) -> None:
        """In the thread: reads on only once there is room."""
        end: BaseException | None = None
        try:
            with following:
                for item in following:
                    if not self._put(item, loop):
                        return
        except Exception as error:  # raised where the iteration is awaited
            end = error
        self._put(end, loop)

    def _put(self, item: Item | BaseException | None, loop: asyncio.AbstractEventLoop) -> bool:
        """False where the loop has ended: no caller will ever take it."""
        putting = self._items.put(item)
        try:
            asyncio.run_coroutine_threadsafe(putting, loop).result()
        except (RuntimeError, CancelledError):
            putting.close()
            return False
        return True


class AsyncClient:
    """:class:`Client`, for asyncio: ``async with AsyncClient("localhost:9092") as client``.

    Its arguments, methods and errors are that client's; whatever may wait is awaited. It connects when the block is
    entered, and belongs to that event loop.

    >>> async def ask(brokers: str) -> str:
    ...     async with AsyncClient(brokers) as client:
    ...         prediction = await client.predict("cat.jpg", key="camera-1", timeout=10)
    ...         return prediction.class_name
    """

    # confluent_kafka.aio's producer takes no headers, which frames have, and its consumer is a thread pool as well.

    def __init__(
        self,
        where: str | Settings | None = None,
        *,
        options: Mapping[str, str | int | float | bool] | None = None,
        max_waiting: int = 1_000,
    ) -> None:
        self._make = partial(Client, where, options=options, max_waiting=max_waiting)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="client")
        self._made: Client | None = None
        self._followings: list[AsyncFollowing[Any]] = []

    async def __aenter__(self) -> Self:
        self._made = await self._in_thread(self._make)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made is not None:
            await self._end_followings()
            # Not in a thread of ours: they may all wait for room.
            await asyncio.to_thread(self._made.__exit__, kind, error, trace)
        self._threads.shutdown(wait=False)

    async def publish(
        self,
        picture: Sendable,
        *,
        key: str | bytes | None = None,
        id: str | None = None,
        time: datetime | None = None,
        label: str | None = None,
        source: str | None = None,
        timeout: float = PATIENCE_S,
    ) -> str:
        """See :meth:`Client.publish`."""
        call = partial(
            self._client.publish, picture, key=key, id=id, time=time, label=label, source=source, timeout=timeout
        )
        return await self._in_thread(call)

    async def flush(self, timeout: float = PATIENCE_S) -> None:
        """See :meth:`Client.flush`."""
        await self._in_thread(partial(self._client.flush, timeout))

    async def predict(
        self, picture: Sendable, *, key: str | bytes | None = None, id: str | None = None, timeout: float = 30.0
    ) -> Prediction:
        """See :meth:`Client.predict`; ``asyncio.gather`` over many keeps up to ``max_waiting`` on their way."""
        client, deadline = self._client, Deadline(timeout)
        future = await self._in_thread(partial(client.submit, picture, key=key, id=id, timeout=timeout))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), deadline.left())
        except TimeoutError:
            raise TimeoutError(client.no_answer(timeout)) from None

    def predictions(self, *, from_beginning: bool = False, idle_s: float | None = None) -> AsyncFollowing[Prediction]:
        """See :meth:`Client.predictions`. Connects when it is entered by ``async with``, or at its first step."""
        call = partial(self._client.predictions, from_beginning=from_beginning, idle_s=idle_s)
        return self._follow(call)

    def dead_letters(self, *, from_beginning: bool = False, idle_s: float | None = None) -> AsyncFollowing[DeadLetter]:
        """See :meth:`Client.dead_letters`, and :meth:`predictions`."""
        call = partial(self._client.dead_letters, from_beginning=from_beginning, idle_s=idle_s)
        return self._follow(call)

    async def close(self, timeout: float = PATIENCE_S) -> None:
        """See :meth:`Client.close`."""
        if self._made is not None:
            await self._end_followings()
            await asyncio.to_thread(self._made.close, timeout)

    @property
    def _client(self) -> Client:
        if self._made is None:
            raise RuntimeError("not connected: use it as `async with AsyncClient(…) as client`")
        return self._made

    def _follow(self, connect: Callable[[], Following[Item]]) -> AsyncFollowing[Item]:
        following = AsyncFollowing(lambda: self._in_thread(connect))
        self._followings = [one for one in self._followings if not one.ended] + [following]
        return following

    async def _end_followings(self) -> None:
        for following in self._followings:
            await following.aclose()

    def _in_thread(self, call: Callable[[], Result]) -> "asyncio.Future[Result]":
        return asyncio.get_running_loop().run_in_executor(self._threads, call)
