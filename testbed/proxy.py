"""A TCP proxy whose connections can be cut, stalled, or left half open: a network that fails."""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 65_536


class Proxy:
    """Listens on :attr:`port` of this machine, forwards to port ``target``. Its loop runs in a thread of its own."""

    def __init__(self, target: int = 0) -> None:
        self.target = target
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self._swallowing = False
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self._soon(self._loop.stop)
            self._thread.join(10)

    def cut(self) -> None:
        """Resets every connection; clients may connect anew at once."""
        self._soon(self._abort)

    def refuse(self) -> None:
        """Resets every connection, and every new one, until :meth:`heal`."""

        def act() -> None:
            self._refusing = True
            self._abort()

        self._soon(act)

    def stall(self) -> None:
        """Connections stay open and nothing moves on them, until :meth:`heal`; then everything continues."""
        self._soon(self._flowing.clear)

    def half_open(self) -> None:
        """Requests arrive, answers are lost; :meth:`heal` resets these connections."""

        def act() -> None:
            self._swallowing = True

        self._soon(act)

    def heal(self) -> None:
        """Ends every fault."""

        def act() -> None:
            if self._swallowing:
                self._abort()
            self._refusing = self._swallowing = False
            self._flowing.set()

        self._soon(act)

    def _soon(self, act: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(act)

    def _abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._socket))
        try:
            self._loop.run_forever()
        finally:
            server.close()
            self._abort()
            for task in self._tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
            self._loop.close()

    async def _serve(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(client_out)
        try:
            if self._refusing:
                client_out.transport.abort()
                return
            server_in, server_out = await asyncio.open_connection("127.0.0.1", self.target)
            self._open.add(server_out)
            try:
                await self._forward(client_in, client_out, server_in, server_out)
            finally:
                server_out.transport.abort()
                self._open.discard(server_out)
        # The broker or the client has gone, or the proxy ends: either way both connections end.
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            client_out.transport.abort()
            self._open.discard(client_out)
            self._tasks.discard(task)

    async def _forward(
        self,
        client_in: asyncio.StreamReader,
        client_out: asyncio.StreamWriter,
        server_in: asyncio.StreamReader,
        server_out: asyncio.StreamWriter,
    ) -> None:
        """Both directions of one connection, until it ends."""
        await asyncio.gather(
            self._pump(client_in, server_out, answers=False), self._pump(server_in, client_out, answers=True)
        )

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool) -> None:
        with suppress(ConnectionError):
            while data := await source.read(_CHUNK):
                await self._flowing.wait()
                if answers and self._swallowing:
                    continue
                sink.write(data)
                await sink.drain()
        # One direction alone is useless: librdkafka and Kafka close whole connections.
        sink.transport.abort()
