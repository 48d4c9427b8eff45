"""A proxy that reads Kafka's requests as they pass, and can hold a single one while everything else flows."""

import asyncio
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from testbed.proxy import Proxy

#: Kafka's numbers of the requests that make up a transaction (https://kafka.apache.org/protocol).
INIT_PRODUCER_ID, ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT = 22, 24, 25, 26, 28
TRANSACTIONAL = frozenset({INIT_PRODUCER_ID, ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT})

_REMEMBERED = 10_000
_CONNECTION_LOST = (asyncio.IncompleteReadError, OSError)


@dataclass(frozen=True)
class Request:
    """One request: Kafka's number of its API, that API's version, and its bytes after the length."""

    api: int
    version: int
    body: bytes

    @property
    def correlation(self) -> int:
        """The number by which its connection's answers name it."""
        found: int = struct.unpack_from(">i", self.body, 4)[0]
        return found

    @property
    def transactional_id(self) -> str:
        """The transactional id, if the request begins with it and its version is no flexible one; else meaningless."""
        at = 8
        (length,) = struct.unpack_from(">h", self.body, at)
        at += 2 + max(0, length)
        (length,) = struct.unpack_from(">h", self.body, at)
        return self.body[at + 2 : at + 2 + max(0, length)].decode(errors="replace")

    @property
    def commits(self) -> bool:
        """For an EndTxn up to version 2: whether it commits."""
        return self._end()[1]

    @property
    def epoch(self) -> int:
        """For an EndTxn up to version 2: its producer's epoch."""
        return self._end()[0]

    def _end(self) -> tuple[int, bool]:
        at = 8
        for _ in ("client.id", "transactional.id"):
            (length,) = struct.unpack_from(">h", self.body, at)
            at += 2 + max(0, length)
        _, epoch, commits = struct.unpack_from(">qh?", self.body, at)
        return epoch, commits


def ends(commit: bool) -> Callable[[Request], bool]:
    """Matches the requests that commit a transaction, or those that abort one."""
    return lambda request: request.api == END_TXN and request.commits == commit


def is_api(api: int) -> Callable[[Request], bool]:
    """Matches the requests of that API."""
    return lambda request: request.api == api


class HeldRequest:
    """A request that the proxy holds back, and what followed it on its connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, matches: Callable[[Request], bool], reset: bool) -> None:
        self._loop = loop
        self.matches = matches
        self.reset = reset
        self.request: Request | None = None
        self.arrived = threading.Event()
        self.released = asyncio.Event()
        self.answered = asyncio.Event()
        self._answer = b""

    @property
    def is_held(self) -> bool:
        """True once a request that matches has arrived."""
        return self.arrived.is_set()

    def take(self, request: Request) -> None:
        """The proxy calls this with the request that matches."""
        self.request = request
        self.arrived.set()

    def give(self, answer: bytes) -> None:
        """The proxy calls this with the broker's answer."""
        self._answer = answer
        self.answered.set()

    @property
    def is_answered(self) -> bool:
        """True once the broker has answered it."""
        return self.answered.is_set()

    def send(self) -> None:
        """Sends it on to the broker, whose answer may wait for clients that somebody must poll meanwhile."""
        assert self.is_held, "no request came that matches"
        self._loop.call_soon_threadsafe(self.released.set)

    def release(self, seconds: float = 20.0) -> bytes:
        """Sends it on to the broker, though its client may be gone; returns what follows the answer's correlation."""
        assert self.is_held, "no request came that matches"

        async def act() -> bytes:
            self.released.set()
            await asyncio.wait_for(self.answered.wait(), seconds)
            return self._answer

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(seconds + 5)

    def release_end(self) -> int:
        """The same for an EndTxn up to version 2; returns the broker's error code."""
        code: int = struct.unpack_from(">h", self.release(), 4)[0]  # behind the time of throttling
        return code


class KafkaProxy(Proxy):
    """A :class:`Proxy` for connections that carry Kafka's protocol in the clear."""

    def __init__(self, target: int = 0) -> None:
        super().__init__(target)
        #: The latest requests that belong to transactions, in the order in which they came.
        self.seen: deque[Request] = deque(maxlen=_REMEMBERED)
        self._holds: list[HeldRequest] = []

    def hold(self, matches: Callable[[Request], bool], reset: bool = False) -> HeldRequest:
        """Holds the next request that matches, and whatever follows it on its connection.

        Its client waits until its timeout, or loses the connection at once (``reset``). The broker's half stays
        open until :meth:`HeldRequest.release`: TCP may deliver what was sent on a connection that its sender gave up.
        """
        held = HeldRequest(self._loop, matches, reset)
        self._holds.append(held)
        return held

    def forget(self, held: HeldRequest) -> None:
        """Stops waiting for a request to hold, if none has arrived yet."""
        with suppress(ValueError):
            self._holds.remove(held)

    def count(self, matches: Callable[[Request], bool]) -> int:
        """How many of the latest requests match."""
        return sum(map(matches, tuple(self.seen)))

    async def _forward(
        self,
        client_in: asyncio.StreamReader,
        client_out: asyncio.StreamWriter,
        server_in: asyncio.StreamReader,
        server_out: asyncio.StreamWriter,
    ) -> None:
        connection = _Connection()
        requests = asyncio.ensure_future(self._requests(connection, client_in, client_out, server_out))
        answers = asyncio.ensure_future(self._answers(connection, server_in, client_out))
        try:
            await asyncio.wait({requests, answers}, return_when=asyncio.FIRST_COMPLETED)
            if connection.held is not None:
                await asyncio.wait({requests, answers})
        finally:
            for one in (requests, answers):
                one.cancel()
            await asyncio.gather(requests, answers, return_exceptions=True)

    async def _requests(
        self,
        connection: "_Connection",
        client_in: asyncio.StreamReader,
        client_out: asyncio.StreamWriter,
        server_out: asyncio.StreamWriter,
    ) -> None:
        with suppress(*_CONNECTION_LOST):
            while True:
                size = await client_in.readexactly(4)
                body = await client_in.readexactly(int.from_bytes(size))
                await self._flowing.wait()
                api, version = struct.unpack_from(">hh", body)
                request = Request(api, version, body)
                if request.api in TRANSACTIONAL:
                    self.seen.append(request)
                if (held := self._held_by(request)) is not None:
                    connection.held = held
                    if held.reset:
                        client_out.transport.abort()
                    await held.released.wait()
                    server_out.write(size + body)
                    await asyncio.wait_for(held.answered.wait(), 60)
                    continue
                server_out.write(size + body)
                await server_out.drain()

    def _held_by(self, request: Request) -> HeldRequest | None:
        for held in self._holds:
            if held.matches(request):
                self._holds.remove(held)
                held.take(request)
                return held
        return None

    async def _answers(
        self, connection: "_Connection", server_in: asyncio.StreamReader, client_out: asyncio.StreamWriter
    ) -> None:
        with suppress(*_CONNECTION_LOST):
            while True:
                size = await server_in.readexactly(4)
                body = await server_in.readexactly(int.from_bytes(size))
                await self._flowing.wait()
                held = connection.held
                if held is not None and held.request is not None and body[:4] == held.request.body[4:8]:
                    held.give(body[4:])
                if self._swallowing:
                    continue
                try:
                    client_out.write(size + body)
                    await client_out.drain()
                except OSError:
                    if held is None or held.answered.is_set():  # else release() still waits for the answer
                        return


@dataclass
class _Connection:
    """State that both directions of a connection share."""

    held: HeldRequest | None = None
