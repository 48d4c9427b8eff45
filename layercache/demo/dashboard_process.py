"""The dashboard beside the demo: a process of its own, which the demo shows and does not need."""

import importlib.util
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from layercache.demo.processes import Child, Children

_HOST = "127.0.0.1"
#: Below the ports that systems give to outgoing connections, so that nobody takes one before it is listened on.
_PAGE_PORTS, _METRICS_PORTS = range(8080, 8100), range(9100, 9120)
#: The stream goes before the dashboard, however many browsers are open.
_NICENESS = 10
_LOOK_S = 0.25


def metrics_port() -> int | None:
    """A free port for the worker's metrics; None where there is no dashboard to read them, or none is free."""
    return free_port(_METRICS_PORTS) if is_installed() else None


def is_installed() -> bool:
    """Whether the page's library is there: the demo runs without."""
    return importlib.util.find_spec("nicegui") is not None


def free_port(ports: range) -> int | None:
    """The first port that no process on this machine listens on.

    >>> with socket.create_server(("127.0.0.1", 0)) as taken:
    ...     number = taken.getsockname()[1]
    ...     free_port(range(number, number + 1)) is None
    True
    """
    for port in ports:
        try:
            with socket.create_server((_HOST, port)):
                return port
        except OSError:
            continue
    return None


def has_display() -> bool:
    """Whether a browser could open a window where the person who started the demo sees it."""
    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ))


class Dashboard:
    """Within the context the dashboard runs; ``say`` hears its address at once, and if it ends by itself.

    With ``browser`` a browser opens as soon as the page is there. Whatever happens to it, the demo goes on.
    """

    def __init__(
        self, children: Children, settings_file: Path, say: Callable[[str], None], browser: bool, metrics: int | None
    ) -> None:
        self._children = children
        self._settings_file = settings_file
        self._say = say
        self._browser = browser
        self._metrics = metrics
        self._closing = threading.Event()
        self._settled = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if not is_installed():
            self._settled.set()
            self._say("no dashboard: it needs nicegui (pip install -e '.[dashboard]')")
            return self
        port = free_port(_PAGE_PORTS)
        if port is None:
            self._settled.set()
            self._say(f"no dashboard: all ports from {_PAGE_PORTS.start} to {_PAGE_PORTS.stop - 1} are taken")
            return self
        child = self._children.start("dashboard", self._command(port))
        os.setpriority(os.PRIO_PROCESS, child.pid, _NICENESS)
        self._say(f"dashboard: http://{_HOST}:{port} (there in a few seconds, until the stream ends)")
        self._thread = threading.Thread(target=self._watch, args=(child, port), name="dashboard-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join(1.0)  # a browser that takes its time does not hold up the demo

    def settled(self) -> bool:
        """Whether it has started, which takes seconds of a core that the stream should have, or never will."""
        return self._settled.is_set()

    def _command(self, port: int) -> list[str]:
        command = [sys.executable, "-m", "layercache", "dashboard", "--config", str(self._settings_file)]
        metrics = ["--metrics", f"{_HOST}:{self._metrics}"] if self._metrics is not None else []
        return [*command, "--host", _HOST, "--port", str(port), *metrics]

    def _watch(self, child: Child, port: int) -> None:
        """Opens the browser once there is something to see."""
        while not self._closing.wait(_LOOK_S):
            if child.exit_code is not None:
                self._settled.set()
                if not self._children.stopping:
                    self._say(f"the dashboard ended by itself; its log is {child.log}")
                return
            if not self._settled.is_set() and _answers(port):
                self._settled.set()
                if self._browser:
                    webbrowser.open(f"http://{_HOST}:{port}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((_HOST, port)) == 0
