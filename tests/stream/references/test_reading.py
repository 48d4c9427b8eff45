"""One file is read whole or not at all: no links out, no pipes, no redirects, never more bytes than allowed."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from layercache.stream.references.prefixes import Location, Prefix, Refused, UnusablePrefix
from layercache.stream.references.reading import (
    ReferencedFiles,
    TooLarge,
    Unreadable,
    describe_failure,
    open_files,
    read_bounded,
)
from tests.support.fickle_store import fickle_store

MOST = 1_000


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    (folder / "gate").mkdir(parents=True)
    (folder / "gate" / "1.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    return folder


def read(source: ReferencedFiles, url: str) -> bytes:
    return source.read(Location.parse(url), MOST)


def local(folder: Path) -> ReferencedFiles:
    return open_files(Prefix.of(f"file://{folder}/"), 5)


def test_a_local_file(frames: Path) -> None:
    assert read(local(frames), f"file://{frames}/gate/1.png") == b"picture"


def test_the_prefix_itself_may_be_a_link(frames: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(frames)
    assert read(local(tmp_path / "link"), f"file://{tmp_path}/link/gate/1.png") == b"picture"


@pytest.mark.parametrize("target", ["../../secret", "/etc/passwd", "1.png"])
def test_a_link_to_a_file_is_not_followed(frames: Path, target: str) -> None:
    (frames / "gate" / "link.png").symlink_to(target)
    with pytest.raises(Refused, match="symbolic link"):
        read(local(frames), f"file://{frames}/gate/link.png")


def test_a_link_to_a_folder_is_not_followed(frames: Path) -> None:
    (frames / "out").symlink_to("..")
    with pytest.raises(Refused, match="symbolic link"):
        read(local(frames), f"file://{frames}/out/secret")


@pytest.mark.timeout(20)
def test_a_pipe_and_a_folder_are_no_files(frames: Path) -> None:
    os.mkfifo(frames / "pipe")
    for name in ("pipe", "gate"):
        with pytest.raises(Refused, match="no regular file"):
            read(local(frames), f"file://{frames}/{name}")


def test_what_is_not_there_may_come_yet(frames: Path) -> None:
    for name in ("2.png", "gate/1.png/2.png"):
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            read(local(frames), f"file://{frames}/{name}")


def test_no_descriptor_stays_open(frames: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    (frames / "link").symlink_to("gate")
    for name in ("gate/1.png", "gate/2.png", "link/1.png", "gate"):
        try:
            read(local(frames), f"file://{frames}/{name}")
        except (OSError, Refused):
            continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_limit_counts_before_and_while_reading(frames: Path) -> None:
    (frames / "most").write_bytes(bytes(MOST))
    (frames / "more").write_bytes(bytes(MOST + 1))
    assert len(read(local(frames), f"file://{frames}/most")) == MOST
    with pytest.raises(TooLarge, match="1,001 bytes, at most 1,000"):
        read(local(frames), f"file://{frames}/more")
    with pytest.raises(TooLarge, match="more, at most 1,000"):
        read_bounded(io.BytesIO(bytes(MOST + 1)), None, MOST)


class Endless:
    """A file that grows as fast as it is read; remembers how much was taken."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.taken = 0

    def read(self, length: int, /) -> bytes:
        part = bytes(min(length, self.step))
        self.taken += len(part)
        return part


@pytest.mark.parametrize("step", [1, 300, 10_000])
def test_a_file_that_grows_is_left_at_the_limit(step: int) -> None:
    endless = Endless(step)
    with pytest.raises(TooLarge):
        read_bounded(endless, None, MOST)
    assert endless.taken == MOST + 1
    lying = Endless(step)
    with pytest.raises(Unreadable, match="given as 500 bytes, but there are more"):
        read_bounded(lying, 500, MOST)
    assert lying.taken == 501


def test_a_file_system_that_lies_about_sizes() -> None:
    with fickle_store(honest=b"picture", short=b"pict", long=b"pictures", huge=bytes(MOST + 1), silent=b"x") as store:
        store.sizes |= {"bucket/short": 7, "bucket/long": 7, "bucket/huge": 7, "bucket/silent": None}
        source = open_files(Prefix.of("fickle://bucket/"), 5)
        assert read(source, "fickle://bucket/honest") == b"picture"
        assert read(source, "fickle://bucket/silent") == b"x"
        for name, there in (("short", "4"), ("long", "more"), ("huge", "more")):
            with pytest.raises(Unreadable, match=f"given as 7 bytes, but there are {there}"):
                read(source, f"fickle://bucket/{name}")
        store.sizes["bucket/honest"] = MOST + 1
        with pytest.raises(TooLarge, match="1,001"):
            read(source, "fickle://bucket/honest")


def test_a_file_in_memory() -> None:
    fsspec.filesystem("memory").pipe_file("/pictures/a b/1.png", b"picture")
    assert read(open_files(Prefix.of("memory://pictures/"), 5), "memory://pictures/a%20b/1.png") == b"picture"


def test_a_scheme_that_nobody_knows_is_told_at_the_start() -> None:
    with pytest.raises(UnusablePrefix, match=r"references\.prefixes: nosuch://a/.*"):
        open_files(Prefix.of("nosuch://a/"), 5)


@contextmanager
def web_server() -> Iterator[tuple[str, list[str]]]:
    """Serves ``/f/…`` and a secret outside of it; the URL, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            asked.append(self.path)
            body = {"/f/a%20b%25/1.png": b"picture", "/secret": b"secret", "/f/long": bytes(MOST + 1)}.get(self.path)
            self.send_response(302 if self.path.startswith("/f/away") else 404 if body is None else 200)
            if self.path.startswith("/f/away"):
                self.send_header("Location", "/secret")
            if self.path != "/f/long":  # as long as its sender likes
                self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if with_body and body:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_web_server() -> None:
    with web_server() as (url, asked):
        source = open_files(Prefix.of(f"{url}/f/"), 5)
        assert read(source, f"{url}/f/a b%25/1.png") == b"picture"
        assert set(asked) == {"/f/a%20b%25/1.png"}
        with pytest.raises(FileNotFoundError):
            read(source, f"{url}/f/absent.png")
        with pytest.raises(TooLarge):
            read(source, f"{url}/f/long")


def test_a_redirect_is_not_followed() -> None:
    with web_server() as (url, asked):
        with pytest.raises(Refused, match="redirect"):
            read(open_files(Prefix.of(f"{url}/f/"), 5), f"{url}/f/away.png")
        # Not by an option either: whoever sets it did not mean the prefixes to be void.
        with pytest.raises(Refused, match="redirect"):
            read(open_files(Prefix.of(f"{url}/f/", {"allow_redirects": True}), 5), f"{url}/f/away.png")
        assert "/secret" not in asked


def test_what_an_error_says_has_no_option_in_it() -> None:
    options = {"key": "AKIA", "client_kwargs": {"headers": ["Bearer t0ken"], "x": "AKIA-and-more"}, "n": 1, "ok": True}
    said = describe_failure(ConnectionError("AKIA-and-more\nrefused 'Bearer t0ken' of AKIA"), options)
    assert said == "ConnectionError: *** refused '***' of ***"
    assert describe_failure(TimeoutError(), options) == "TimeoutError"
