"""What a worker serves over HTTP: its metrics, and whether it lives, for the supervisor that would restart it."""

import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: The server closes a connection on which the client sends nothing for so long.
_REQUEST_S = 10


class Health:
    """Whether the worker's loop goes round, and whether it has its partitions. ``clock`` counts seconds.

    ``partitions`` tells how many are assigned, and how many of them wait for their committed offsets. The worker is
    *settled* once it has some and none waits, or ``settle_s`` after the wait began: a worker beyond the number of
    partitions gets none, and one partition must not hold up a rollout for ever.

    >>> now = iter([0.0, 100.0, 130.0, 131.0, 131.5]).__next__
    >>> health = Health(stalled_after_s=30, clock=now)
    >>> health.beat()
    >>> health.stalled_s(), health.stalled_s()
    (100.0, 130.0)
    >>> health.beat()
    >>> health.stalled_s()
    0.0
    """

    def __init__(
        self,
        stalled_after_s: float = 120.0,
        settle_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        partitions: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.stalled_after_s = stalled_after_s
        self.settle_s = settle_s
        self._clock = clock
        self._partitions = partitions
        self._beaten: float | None = None
        self._waits_for: str | None = "partitions"
        self._waits_since: float | None = None

    def beat(self) -> None:
        """The loop begins another round."""
        self._beaten = self._clock()
        if self._waits_since is None:
            self._waits_since = self._beaten
        assigned, unconfirmed = self._partitions()
        if unconfirmed:
            if self._waits_for != "committed offsets":
                self._waits_for, self._waits_since = "committed offsets", self._beaten
        elif assigned or self._waits_for == "committed offsets":
            self._waits_for = None

    def unsettled(self) -> str | None:
        """What the worker waits for, in words; None where it is settled."""
        if self._waits_for is None or self._waits_since is None:
            return None
        seconds = self._clock() - self._waits_since
        return f"waiting for {self._waits_for} for {seconds:.0f} s" if seconds <= self.settle_s else None

    @property
    def working(self) -> bool:
        """True from the first round on: the model is loaded, the broker answers, and the group is being joined."""
        return self._beaten is not None

    @property
    def settled(self) -> bool:
        """True once the worker works and has its partitions, or has waited long enough for them."""
        return self.working and self.unsettled() is None

    def stalled_s(self) -> float:
        """How long the round has taken, where that is longer than it may; else 0.0. A start is no round."""
        if self._beaten is None:
            return 0.0
        seconds = self._clock() - self._beaten
        return seconds if seconds > self.stalled_after_s else 0.0


def application(registry: CollectorRegistry, health: Health) -> "WSGIApplication":
    """``/healthz``: 503 once the loop has stalled. ``/readyz``: 503 also until it is settled. Else the metrics."""
    metrics: WSGIApplication = make_wsgi_app(registry)

    def answer(environment: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path not in ("/healthz", "/readyz"):
            return metrics(environment, start)
        stalled = health.stalled_s()
        if stalled:
            status, text = HTTPStatus.SERVICE_UNAVAILABLE, f"the loop has stood still for {stalled:.0f} s\n"
        elif not health.working:
            status, text = HTTPStatus.OK, "starting\n"
            if path == "/readyz":
                status = HTTPStatus.SERVICE_UNAVAILABLE
        elif path == "/readyz" and (waits := health.unsettled()):
            status, text = HTTPStatus.SERVICE_UNAVAILABLE, f"{waits}\n"
        else:
            status, text = HTTPStatus.OK, "working\n"
        body = text.encode()
        start(
            f"{status.value} {status.phrase}",
            [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))],
        )
        return [body]

    return answer


def serve(registry: CollectorRegistry, health: Health, port: int) -> int:
    """Serves both from threads of their own, on ``port``, 0 for any; returns the port. Raises ``OSError``."""
    server = make_server("0.0.0.0", port, application(registry, health), _Server, _Handler)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server.server_port


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S

    def log_message(self, *_: object) -> None:
        """Logs nothing: probes come every few seconds."""
