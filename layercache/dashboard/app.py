"""Serves the dashboard's page until it is told to stop."""

import ipaddress
import logging
import socket
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import uvicorn
from fastapi import FastAPI
from nicegui import core, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from layercache.cli.stopping import stop_on_signals
from layercache.dashboard import page, state

log = logging.getLogger(__name__)

#: A page that has lost its connection gets so long to come back before its memory is freed.
_RECONNECT_S = 10.0
#: At the end, open pages get so long to hear of it.
_GOODBYE_S = 2
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class AddressTaken(OSError):
    """Nobody can listen there; the message says why."""


class Server(uvicorn.Server):
    """Serves on a socket that is open already, says when it is ready, and ends when ``stop`` is set."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], stop: threading.Event) -> None:
        super().__init__(config)
        self._ready = ready
        self._stop = stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn does it; then whoever waits hears of it."""
        with warnings.catch_warnings():
            # NiceGUI looks at every object of the process to find this one, and some of torch's warn when looked at.
            warnings.simplefilter("ignore", FutureWarning)
            await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        return self._stop.is_set() or await super().on_tick(counter)

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # uvicorn's is a generator's
        """None: signals are for ``stop``; uvicorn's own way ends the process by the signal, not by exit code 0."""
        return nullcontext()


def run(
    collector: state.Source, host: str, port: int, read_only: bool, ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serves ``collector``'s state at ``http://host:port`` until SIGINT or SIGTERM; once, from a process's main thread.

    ``port`` 0 takes any free one. ``ready`` hears the page's address as soon as it answers. With ``read_only`` there
    is nothing on the page that changes anything. Raises :class:`AddressTaken` where nobody can listen there.
    """
    with stop_on_signals() as stop, listen(host, port) as listener:
        server(collector, listener, read_only, ready, stop).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections can already be made to. Raises :class:`AddressTaken`."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise AddressTaken(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from error


def server(
    collector: state.Source,
    listener: socket.socket,
    read_only: bool,
    ready: Callable[[str], None],
    stop: threading.Event,
) -> Server:
    """What serves the page on ``listener`` until ``stop`` is set; NiceGUI allows one in a process."""
    address = listener.getsockname()
    ui.page("/", title="Layercache")(lambda: page.build(collector, read_only))
    app = FastAPI(openapi_url=None)
    if is_local(address[0]):
        # Another site's page must not reach this one by a name of its own that it points at this machine.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(_LOCAL))
    core.sio.eio.cors_allowed_origins = (
        None  # connections from this page alone, not from whatever site is open beside it
    )
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
    """Where a browser on this machine finds it.

    >>> url(("0.0.0.0", 8080)), url(("::1", 8080))
    ('http://127.0.0.1:8080', 'http://[::1]:8080')
    """
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address[0], address[0])
    return f"http://{f'[{host}]' if ':' in host else host}:{address[1]}"


def is_local(host: str) -> bool:
    """Whether only this machine can connect to an address.

    >>> is_local("127.0.0.1"), is_local("0.0.0.0")
    (True, False)
    """
    return ipaddress.ip_address(host).is_loopback
