"""Serves the dashboard's page until SIGINT or SIGTERM."""

import ipaddress
import logging
import socket
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import uvicorn
from fastapi import FastAPI, Request, Response
from nicegui import core, ui
from starlette.datastructures import Headers
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Receive, Scope, Send

from layercache.dashboard import page
from layercache.dashboard.backend import Backend
from layercache.stopping import stop_on_signals

log = logging.getLogger(__name__)

#: A page that has lost its connection may come back for so long; then the server frees its memory.
_RECONNECT_S = 10.0
#: When the server ends, it waits so long for open pages to close.
_GOODBYE_S = 2
_LOCAL = ("localhost",)


class AddressTaken(OSError):
    """The server cannot listen at this address; the message says why."""


class KnownHosts(TrustedHostMiddleware):
    """Answers requests that name an address or an allowed host, and refuses all others.

    This stops DNS rebinding: another site that points its own name at this machine reaches neither page nor buttons,
    whatever address the server listens at.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and is_address(Headers(scope=scope).get("host", "")):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class Server(uvicorn.Server):
    """Serves on an open socket, calls ``ready`` once it answers, and ends when ``stop`` is set."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stop: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts as uvicorn does, then calls ``ready``."""
        with warnings.catch_warnings():
            # NiceGUI inspects every object of the process to find this server, and some of torch's objects warn then.
            warnings.simplefilter("ignore", FutureWarning)
            await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; uvicorn asks ten times a second."""
        return self._stop.is_set() or await super().on_tick(counter)

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # uvicorn's is a generator's
        """Captures no signals: they set ``stop``. Uvicorn would end the process by the signal, not with exit code 0."""
        return nullcontext()


def run(
    collector: Backend,
    host: str,
    port: int,
    read_only: bool,
    ready: Callable[[str], None] = lambda url: None,
    allowed_hosts: Sequence[str] = (),
) -> None:
    """Serves ``collector``'s state at ``http://host:port`` until SIGINT or SIGTERM; once, from a process's main thread.

    ``port`` 0 takes any free port. The server calls ``ready`` with the page's URL as soon as it answers. With
    ``read_only`` the page has no buttons that change anything. The server answers to addresses, ``localhost`` and
    ``allowed_hosts``. Raises :class:`AddressTaken` where it cannot listen.
    """
    with stop_on_signals() as stop, listen(host, port) as listener:
        server(collector, listener, read_only, ready, stop, allowed_hosts).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that already accepts connections. Raises :class:`AddressTaken`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise AddressTaken(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from error


def server(
    collector: Backend,
    listener: socket.socket,
    read_only: bool,
    ready: Callable[[str], None],
    stop: threading.Event,
    allowed_hosts: Sequence[str] = (),
) -> Server:
    """The server of the page on ``listener``, until ``stop`` is set; NiceGUI allows one in a process."""
    address = listener.getsockname()
    ui.page("/", title="Layercache")(lambda: page.build(collector, read_only))
    app = FastAPI(openapi_url=None)
    app.add_middleware(KnownHosts, allowed_hosts=[*_LOCAL, *allowed_hosts])

    @app.middleware("http")
    async def forbid_framing(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        # Another site that showed this page in a frame could lead a viewer's clicks to its buttons.
        response.headers["Content-Security-Policy"] = "frame-ancestors 'none'"
        return response

    core.sio.eio.cors_allowed_origins = None  # connections from this page alone, not from another site's page
    ui.run_with(
        app,
        title="Layercache",
        favicon=page.FAVICON,
        dark=None,
        language="en-GB",
        tailwind=False,
        binding_refresh_interval=None,
        reconnect_timeout=_RECONNECT_S,
        message_history_length=100,
        show_welcome_message=False,
    )
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", timeout_graceful_shutdown=_GOODBYE_S, ws="wsproto"
    )
    return Server(config, lambda: ready(url(address)), stop)


def url(address: tuple[str, int]) -> str:
    """The page's URL for a browser on this machine.

    >>> url(("0.0.0.0", 8080)), url(("::1", 8080))
    ('http://127.0.0.1:8080', 'http://[::1]:8080')
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
    return f"http://{f'[{host}]' if ':' in host else host}:{address[1]}"


def is_address(host: str) -> bool:
    """Whether a ``Host`` header names a machine by its address, which no other site can point elsewhere.

    >>> [is_address(host) for host in ("127.0.0.1:8080", "[::1]:8080", "10.0.0.7", "localhost:8080", "evil.example")]
    [True, True, True, False, False]
    """
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
