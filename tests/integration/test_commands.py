"""The forks by which other tests start commands: they end, say and are told what a process of its own would be."""

import signal
import socket

import pytest

from testbed import commands


def test_exit_codes_and_output_are_the_commands() -> None:
    done = commands.run("--version")
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "layercache", "")
    done = commands.run("publish", "/no/such/folder")
    assert (done.returncode, done.stdout) == (2, "")
    assert "/no/such/folder" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_signals_reach_it(number: signal.Signals, code: int) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with commands.CapturedCommand("watch", "--bootstrap", f"127.0.0.1:{silent.getsockname()[1]}") as command:
            silent.accept()  # the command is at work
            assert command.process.poll() is None
            command.process.send_signal(number)
            assert command.process.wait(30) == code


def test_its_environment_comes_on_top_of_this_processs() -> None:
    done = commands.run("topics", "create", environment={"LAYERCACHE_WORKER__MAX_BATCH": "many"})
    assert (done.returncode, "from LAYERCACHE_WORKER__MAX_BATCH" in done.stderr) == (2, True), done
