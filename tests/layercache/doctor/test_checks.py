"""Checks that hang, break, or find something on this machine."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from layercache.doctor import groups, machine, store
from layercache.doctor.checks import Area, Finding, findings_within
from layercache.schemas.settings import Settings, Store, Trainer, Worker
from layercache.stream.worker import health
from testbed.ports import free_ports

AREA = Area("somewhere")


def test_findings_come_as_they_are_found() -> None:
    may_go_on = threading.Event()

    def checks() -> Iterator[Finding]:
        yield AREA.ok("first", "there")
        assert may_go_on.wait(30)
        yield AREA.ok("second", "there")

    found = findings_within(60, AREA, checks)
    assert next(found).check == "first"
    may_go_on.set()
    assert [one.check for one in found] == ["second"]


def test_a_check_that_hangs_is_left_behind() -> None:
    forever = threading.Event()

    def checks() -> Iterator[Finding]:
        yield AREA.ok("first", "there")
        forever.wait()

    began = time.monotonic()
    found = list(findings_within(0.2, AREA, checks))
    assert time.monotonic() - began < 10
    assert [(one.check, one.state) for one in found] == [("first", "ok"), ("time", "error")]
    assert found[-1].found == "no answer within 0.2 s"
    forever.set()


def test_whatever_a_check_raises_is_a_finding() -> None:
    def checks() -> Iterator[Finding]:
        yield AREA.ok("first", "there")
        raise LookupError("never heard of it")

    last = list(findings_within(30, AREA, checks))[-1]
    assert (last.state, last.found) == ("error", "LookupError: never heard of it")


def test_more_threads_than_cores_are_a_warning() -> None:
    by_check = {one.check: one for one in machine.check(Settings(worker=Worker(torch_threads=9_999)))}
    assert by_check["threads"].state == "warning"
    assert "worker.torch_threads to" in by_check["threads"].fix
    assert {one.check: one for one in machine.check(Settings(worker=Worker(torch_threads=1)))}["threads"].state == "ok"


def test_a_metrics_port_is_free_or_a_workers_or_somebody_elses() -> None:
    (port,) = free_ports(1)
    assert machine.worker_port(port).found == "free: no process serves on it on this machine"
    state = health.Health()
    worker = health.serve(CollectorRegistry(), state, 0)
    assert machine.worker_port(worker).found == "a worker answers: starting"
    state.beat()
    assert machine.worker_port(worker).found == "a worker answers: working"
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        assert machine.worker_port(other.server_port).state == "error"
        other.shutdown()


def test_a_worker_that_stalls_is_a_warning() -> None:
    now = iter([0.0, *[1_000.0] * 20]).__next__
    state = health.Health(stalled_after_s=30, clock=now)
    state.beat()
    found = machine.worker_port(health.serve(CollectorRegistry(), state, 0))
    assert found.state == "warning"
    assert "has stood still for 1000 s" in found.found


def test_a_port_that_somebody_holds_without_answering_is_an_error() -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        found = machine.worker_port(holder.getsockname()[1])
    assert (found.state, found.found) == ("error", "cannot be used here: Address already in use")


def test_the_trainers_folder_is_not_made(tmp_path: Path) -> None:
    settings = Settings(trainer=Trainer(state_dir=tmp_path / "not/there"))
    found = {one.check: one for one in machine.check(settings)}["trainer.state_dir"]
    assert "GB are free there" in found.found
    assert list(tmp_path.iterdir()) == []


def states(settings: Settings) -> dict[str, str]:
    return {one.check: one.state for one in store.check(settings)}


def test_a_store_is_read_written_and_left_as_it_was(tmp_path: Path) -> None:
    settings = Settings(store=Store(url=f"file://{tmp_path}"))
    found = states(settings)
    assert found.pop("room") in ("ok", "warning")
    assert found == {"read": "ok", "write": "ok", "exclusive create": "ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    assert states(Settings(store=Store(url=f"file://{tmp_path}/srv/heads"))) == {"place": "ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_store_in_memory_is_seen_by_one_process() -> None:
    assert states(Settings(store=Store(url="memory://doctor")))["place"] == "warning"


def test_a_store_of_an_unknown_kind_is_an_error_that_says_what_to_use() -> None:
    (found,) = store.check(Settings(store=Store(url="nowhere://me:secret@heads")))
    assert (found.state, found.check) == ("error", "reach")
    assert "file://, s3://" in found.fix
    assert "secret" not in found.found + found.fix


def test_the_models_in_the_group_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_warn_on_failure", lambda check, look: iter([groups.AREA.ok(check, "")]))
    assert "models" in [one.check for one in groups.check(Settings())]
