"""Metrics of workers and trainer: read as they are exported, every replica of a service once."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from prometheus_client import generate_latest

from layercache.dashboard.board import Board
from layercache.dashboard.scrape import Scraper, Target, WorkerAlarms, WrongUrl, metrics_url, targets
from layercache.stream.worker.metrics import Metrics
from tests.support.dashboard_state import sample


def exported(closed: bool = False) -> bytes:
    """What a worker exports that has answered ten frames and audited two."""
    metrics = Metrics(max_batch=8)
    metrics.frames.labels("layer2").inc(7)
    metrics.frames.labels("full").inc(3)
    metrics.count_by_class(["red", "green"], np.array([0, 0, 1]), np.array([True, False, False]))
    metrics.show_heads("v7")
    metrics.exits_closed.set(closed)
    metrics.lag_seconds.set(2.5)
    metrics.show_overload(overloaded=True, frames=4, closed=closed)
    return generate_latest(metrics.registry)


class Answers(BaseHTTPRequestHandler):
    """Answers by the path."""

    said: dict[str, bytes]

    def do_GET(self) -> None:
        body = self.said.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    """Its address, without a path."""
    Answers.said = {
        "/metrics": exported(),
        "/closed": exported(closed=True),
        "/page": b"<html>",
        "/big": b"a 1\n" * 2_000_000,
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{found.server_port}"
        found.shutdown()


def test_reads_what_a_worker_exports(server: str) -> None:
    board = Board()
    reading = Scraper([metrics_url(server)], board).look()
    (worker,) = reading.workers
    assert (worker.target, worker.version, worker.frames) == (server, "v7", 10)
    assert (worker.exits_closed, worker.overload, worker.lag_seconds) == (False, True, 2.5)
    assert worker.distillation_share == 1.0
    assert (reading.class_audits, reading.class_disagreements) == ({"red": 2, "green": 1}, {"red": 1, "green": 0})
    assert reading.lag_seconds == 2.5
    assert board.problems() == ()


def test_all_that_answer_are_added_up_and_the_others_are_told(server: str) -> None:
    board = Board()
    urls = [f"http://{server}/{path}" for path in ("metrics", "closed", "page", "big", "gone")]
    scraper = Scraper([*urls, "http://127.0.0.1:1/metrics", "http://nobody.invalid:9100/metrics"], board)
    reading = scraper.look()
    assert len(reading.workers) == 2
    assert reading.class_audits == {"red": 4, "green": 2}
    said = " ".join(problem.message for problem in board.problems())
    for why in ("127.0.0.1:1: Connection refused", "nobody.invalid:9100/metrics: ", "is --metrics right?"):
        assert why in said
    assert all(problem.where == "metrics" for problem in board.problems())


@pytest.mark.parametrize(
    ("path", "why"), [("gone", "it answers 404"), ("page", "no metrics"), ("big", "more than 5,000,000 bytes")]
)
def test_an_answer_that_is_no_metrics_is_told_and_forgotten_once_it_is(server: str, path: str, why: str) -> None:
    board = Board()
    scraper = Scraper([f"http://{server}/{path}"], board)
    scraper.look()
    assert why in board.problems()[0].message
    Answers.said[f"/{path}"] = exported()
    assert len(scraper.look().workers) == 1
    assert board.problems() == ()


def test_a_name_with_several_addresses_is_several_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, type: int) -> list[Any]:
        found = {"worker": ["10.0.0.1", "10.0.0.2", "10.0.0.2"], "one": ["10.0.0.9"], "localhost": ["::1", "127.0.0.1"]}
        return [(socket.AF_INET, type, 6, "", (address, port)) for address in found[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert targets("http://worker:9100/metrics") == [
        Target("http://10.0.0.1:9100/metrics", "worker:9100", "10.0.0.1:9100"),
        Target("http://10.0.0.2:9100/metrics", "worker:9100", "10.0.0.2:9100"),
    ]
    assert [target.name for target in targets("http://one:9100/metrics")] == ["one:9100"]
    assert [target.url for target in targets("http://localhost:9100/metrics")] == ["http://localhost:9100/metrics"]


@pytest.mark.parametrize("text", ["", "http://", "ftp://host/metrics", "host:port", "http://user:secret@host/metrics"])
def test_what_is_no_url_of_metrics_is_refused_without_showing_secrets(text: str) -> None:
    with pytest.raises(WrongUrl) as raised:
        metrics_url(text)
    assert "host:port" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_an_alarm_stays_since_it_was_first_seen() -> None:
    alarms, (well, ill) = WorkerAlarms(), sample().workers
    (first,) = alarms.raised([well, ill])
    assert (first.kind, first.where, first.active) == ("exits-closed", ill.target, True)
    assert alarms.raised([well, ill]) == (first,)
    assert alarms.raised([well]) == ()
