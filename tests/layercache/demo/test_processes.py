"""The demo's children are watched, stopped in order, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layercache.demo.processes import ChildDied, Children, launcher

_DEADLINE_S = 20.0
_WAITS = "import time; print('up', flush=True); time.sleep(600)"
_STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_WAITS}"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """False also for a zombie: it runs no more."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return state.strip() != "" and not state.strip().startswith("Z")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


@pytest.fixture
def children(tmp_path: Path) -> Children:
    return Children(tmp_path, dict(os.environ), patience_s=0.5)


def test_a_child_that_fails_is_reported_with_the_end_of_its_log(children: Children) -> None:
    with children:
        child = children.start("worker", python("print('line ' * 3); raise SystemExit(3)"))
        wait_for(lambda: child.exit_code is not None)
        with pytest.raises(ChildDied, match=r"the worker ended with exit code 3(?s:.*)line line line"):
            child.check()


def test_a_child_that_is_killed_is_reported_by_the_signals_name(children: Children) -> None:
    with children:
        child = children.start("trainer", python(_WAITS))
        os.kill(child.pid, signal.SIGKILL)
        wait_for(lambda: child.exit_code is not None)
        with pytest.raises(ChildDied, match="the trainer was ended by SIGKILL"):
            child.check()


def test_only_a_child_that_may_end_may_end(children: Children) -> None:
    with children:
        child = children.start("publisher", python("pass"))
        wait_for(lambda: child.exit_code is not None)
        child.check(may_end=True)
        with pytest.raises(ChildDied, match="the publisher ended with exit code 0"):
            child.check()


def test_leaving_the_context_stops_even_those_that_do_not_want_to(children: Children) -> None:
    with children:
        started = [children.start("kind", python(_WAITS)), children.start("stubborn", python(_STUBBORN))]
        wait_for(lambda: all("up" in child.tail() for child in started))
    assert [child.exit_code for child in started] == [-signal.SIGTERM, -signal.SIGKILL]


def test_what_a_child_started_itself_is_stopped_with_it(children: Children) -> None:
    spawns = f"print(subprocess.Popen([sys.executable, '-c', {_WAITS!r}]).pid, flush=True)"
    code = f"import subprocess, sys; {spawns}; {_WAITS}"
    with children:
        child = children.start("parent", python(code))
        wait_for(lambda: child.tail().count("up") == 2)
        grandchild = int(next(line for line in child.tail().splitlines() if line.isdigit()))
        assert is_alive(grandchild)
    wait_for(lambda: not is_alive(grandchild))


def test_an_interrupt_while_stopping_leaves_nobody(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    started = [children.start("stubborn", python(_STUBBORN)), children.start("kind", python(_WAITS))]
    wait_for(lambda: all("up" in child.tail() for child in started))
    original = subprocess.Popen.wait

    def interrupted(process: "subprocess.Popen[bytes]", timeout: float | None = None) -> int:
        monkeypatch.setattr(subprocess.Popen, "wait", original)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        children.stop()
    assert all(child.exit_code is not None for child in started)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills children of the dead (PR_SET_PDEATHSIG)")
def test_children_die_with_a_demo_that_is_killed(tmp_path: Path) -> None:
    demo = f"""
import os, pathlib, sys, time
from layercache.demo.processes import Children
child = Children(pathlib.Path({str(tmp_path)!r}), os.environ).start("worker", [sys.executable, "-c", {_WAITS!r}])
print(child.pid, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen(python(demo), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        child = int(process.stdout.readline())
    wait_for(lambda: "up" in (tmp_path / "worker.log").read_text())
    process.kill()
    process.wait()
    wait_for(lambda: not is_alive(child))


pytestmark = pytest.mark.process


def test_a_launcher_whose_demo_is_gone_does_not_start_the_command() -> None:
    *command, _ = launcher()
    result = subprocess.run([*command, "1", *python("print('started')")], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "the demo (process 1) is gone" in result.stderr
