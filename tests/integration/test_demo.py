"""The demo as people run it: to its end, interrupted, and with a process that dies."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from layercache.measuring.summary import Summary
from testbed.commands import run
from testbed.waiting import wait_until

_PATIENCE_S = 240.0


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "layercache", "demo", "--out", str(out), *options]


def processes(out: Path) -> dict[int, str]:
    """Process id to command line of everything that the demo of ``out`` started with its settings file."""
    listed = subprocess.run(["ps", "-wweo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    found = (line.strip().partition(" ") for line in listed.splitlines() if str(out / "demo.toml") in line)
    return {int(pid): args for pid, _, args in found}


def broker_listens(out: Path) -> bool:
    host, port = tomllib.loads((out / "demo.toml").read_text())["kafka"]["bootstrap_servers"].split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@contextmanager
def streaming(out: Path, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A demo whose publisher is at work."""
    with log.open("wb") as output:
        demo = subprocess.Popen(command(out, "--frames", "5000", "--rate", "20"), stdout=output, stderr=output)
    try:
        wait_until(
            lambda: demo.poll() is not None or any(" publish " in args for args in processes(out).values()),
            "the publisher started",
            _PATIENCE_S,
        )
        assert demo.poll() is None, log.read_text()
        yield demo
    finally:
        demo.kill()
        demo.wait()


def assert_nothing_is_left(out: Path) -> None:
    wait_until(lambda: not processes(out), f"no process left, there are {processes(out)}", 10.0)
    assert not broker_listens(out)
    assert not [name for name in ("summary.json", "summary.md", "chart.png") if (out / name).exists()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_demo_answers_every_frame_and_reports(tmp_path: Path) -> None:
    out = tmp_path / "report"
    environment = os.environ | {"LAYERCACHE_KAFKA__BOOTSTRAP_SERVERS": "nowhere.invalid:1"}
    done = subprocess.run(
        command(out, "--frames", "120", "--rate", "60"), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "120 frames, each answered once" in done.stdout
    (address,) = re.findall(r"dashboard: (http://127\.0\.0\.1:\d+)", done.stdout)
    assert f"dashboard at {address}" in (out / "logs" / "dashboard.log").read_text()
    assert "ended by itself" not in done.stdout
    summary = msgspec.json.decode((out / "summary.json").read_bytes(), type=Summary)
    assert (summary.frames, summary.last_quarter.frames) == (120, 30)
    assert summary.disagreement <= summary.budget
    assert 0.8 < summary.full_accuracy <= 1.0
    assert summary.race.frames == 30
    assert set(summary.race.plain.heats_fps) == {"PyTorch", "OpenVINO float32", "OpenVINO bfloat16", "OpenVINO int8"}
    assert summary.last_quarter.speedup_plain > 0
    assert summary.first_version_frame is None
    raw = json.loads((out / "summary.json").read_bytes())["last_quarter"]
    for field in ("hit_rate", "flops_saved", "disagreement", "accuracy", "full_accuracy"):
        assert 0.0 <= raw[field] <= 1.0
    assert (out / "summary.md").read_text() in done.stdout
    assert (out / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert not processes(out)
    assert not broker_listens(out)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)])
def test_an_interrupted_demo_leaves_no_process_and_no_report(tmp_path: Path, number: signal.Signals) -> None:
    out, log = tmp_path / "report", tmp_path / "log"
    with streaming(out, log) as demo:
        demo.send_signal(number)
        assert demo.wait(_PATIENCE_S) == 130, log.read_text()
    assert "stopped; no report was written" in log.read_text()
    assert_nothing_is_left(out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_that_dies_ends_the_demo_and_is_named(tmp_path: Path) -> None:
    out, log = tmp_path / "report", tmp_path / "log"
    with streaming(out, log) as demo:
        (pid,) = (pid for pid, args in processes(out).items() if " worker " in args)
        os.kill(pid, signal.SIGKILL)
        assert demo.wait(_PATIENCE_S) == 1, log.read_text()
    assert f"the worker was ended by SIGKILL; the end of its log, {out}/logs/worker.log" in log.read_text()
    assert_nothing_is_left(out)


@pytest.mark.slow
@pytest.mark.exhaustive  # tests/layercache/demo/test_processes.py kills a smaller one
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children of the dead (PR_SET_PDEATHSIG)")
def test_a_killed_demo_takes_its_processes_and_its_broker_along(tmp_path: Path) -> None:
    out = tmp_path / "report"
    with streaming(out, tmp_path / "log") as demo:
        demo.kill()
        demo.wait()
        wait_until(lambda: not processes(out) and not broker_listens(out), "everything ended", 10.0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--frames", "10001"), "holds 10000 frames; the demo streams each once, so not 10001"),
        (("--frames", "0"), "--frames"),
        (("--rate", "0"), "--rate"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: tuple[str, ...], complaint: str) -> None:
    done = run("demo", "--out", tmp_path / "report", *options)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_folder_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").touch()
    done = run("demo", "--out", tmp_path)
    assert done.returncode == 2
    assert "name another folder with --out" in done.stderr
