"""The dashboard beside the demo: shown where it can be, and never in the way."""

import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest

from layercache.demo import dashboard_process
from layercache.demo.processes import Children
from testbed.ports import free_ports
from testbed.waiting import wait_until

pytestmark = pytest.mark.process

_SERVES = "import socket, sys, time; held = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(600)"


class Pretended(dashboard_process.Dashboard):
    """Runs other code in the dashboard's place."""

    code = _SERVES

    def _command(self, port: int) -> list[str]:
        return [sys.executable, "-c", self.code, str(port)]


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path, dict(os.environ), patience_s=0.5)


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> range:
    (port,) = free_ports(1)
    monkeypatch.setattr(dashboard_process, "_PAGE_PORTS", range(port, port + 1))
    return range(port, port + 1)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(webbrowser, "open", found.append)
    return found


def _pretended(children: Children, say: Callable[[str], None], browser: bool = True, code: str = _SERVES) -> Pretended:
    shown = Pretended(children, Path("demo.toml"), say, browser, None)
    shown.code = code
    return shown


def test_the_address_is_told_at_once_and_the_browser_opens_when_the_page_is_there(
    children: Children, ports: range, opened: list[str]
) -> None:
    said: list[str] = []
    address = f"http://127.0.0.1:{ports.start}"
    with children, _pretended(children, said.append) as shown:
        assert said == [f"dashboard: {address} (there in a few seconds, until the stream ends)"]
        wait_until(lambda: bool(opened), "the browser is opened")
        assert shown.settled()
        children.stop()
    assert opened == [address]
    assert len(said) == 1


def test_no_browser_opens_unasked(children: Children, ports: range, opened: list[str]) -> None:
    with children, _pretended(children, lambda line: None, browser=False) as shown:
        wait_until(lambda: dashboard_process._answers(ports.start), "the page is there")
        assert shown._thread is not None
    shown._thread.join(5.0)
    assert opened == []


def test_a_dashboard_that_dies_is_told_and_the_demo_goes_on(children: Children, ports: range, tmp_path: Path) -> None:
    said: list[str] = []
    with children, _pretended(children, said.append, code="raise SystemExit(3)") as shown:
        wait_until(lambda: len(said) == 2, "its end is told")
        assert shown.settled()
    assert said[1] == f"the dashboard ended by itself; its log is {tmp_path / 'dashboard.log'}"


def test_the_stream_goes_first(children: Children, ports: range) -> None:
    with children, _pretended(children, lambda line: None):
        (child,) = children._children
        assert os.getpriority(os.PRIO_PROCESS, child.pid) == os.getpriority(os.PRIO_PROCESS, 0) + 10


def test_without_the_library_or_a_port_there_is_none(
    children: Children, ports: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", ports.start)), _pretended(children, said.append) as shown:
        assert shown.settled()
    assert said == [f"no dashboard: all ports from {ports.start} to {ports.start} are taken"]
    monkeypatch.setattr(dashboard_process, "is_installed", lambda: False)
    with _pretended(children, said.append):
        pass
    assert "pip install" in said[1]
    assert dashboard_process.metrics_port() is None
    assert not children._children


def test_a_dashboard_that_is_told_to_end_is_no_news_even_if_it_must_be_killed(children: Children, ports: range) -> None:
    said: list[str] = []
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_SERVES}"
    with children, _pretended(children, said.append, browser=False, code=stubborn) as shown:
        wait_until(lambda: dashboard_process._answers(ports.start), "the page is there")
        (child,) = children._children
        children.stop()
        assert child.exit_code == -signal.SIGKILL
        assert shown._thread is not None
        shown._thread.join(10.0)
        assert not shown._thread.is_alive()
    assert len(said) == 1
