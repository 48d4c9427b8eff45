"""The proxy that plays a failing network: it forwards, stalls, swallows, resets, and mends."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from testbed.proxy import Proxy

_WAIT_S = 10.0
_SILENT_S = 0.3


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that answers every byte with itself."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with closing(connection):
            try:
                while data := connection.recv(1024):
                    connection.sendall(data)
            except OSError:
                return

    def accept() -> None:
        try:
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
        except OSError:
            return

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1]
    server.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as running:
        yield running


def connected(proxy: Proxy) -> socket.socket:
    """A connection that has been seen to work."""
    client = socket.create_connection(("127.0.0.1", proxy.port), _WAIT_S)
    client.sendall(b"a")
    assert client.recv(1) == b"a"
    return client


def is_reset(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_cut_resets_connections_and_new_ones_work(proxy: Proxy) -> None:
    with closing(connected(proxy)) as client:
        proxy.cut()
        assert is_reset(client)
    connected(proxy).close()


def test_refusing_lasts_until_mended(proxy: Proxy) -> None:
    proxy.refuse()
    with closing(socket.create_connection(("127.0.0.1", proxy.port), _WAIT_S)) as client:
        assert is_reset(client)
    proxy.heal()
    connected(proxy).close()


def test_what_was_stalled_arrives_after_all(proxy: Proxy) -> None:
    with closing(connected(proxy)) as client:
        proxy.stall()
        client.sendall(b"b")
        client.settimeout(_SILENT_S)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(_WAIT_S)
        proxy.heal()
        assert client.recv(1) == b"b"


def test_half_open_loses_answers_and_resets_when_mended(proxy: Proxy) -> None:
    with closing(connected(proxy)) as client:
        proxy.half_open()
        client.sendall(b"b")
        client.settimeout(_SILENT_S)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(_WAIT_S)
        proxy.heal()
        assert is_reset(client)
    connected(proxy).close()
