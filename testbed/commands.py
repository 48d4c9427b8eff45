"""Layercache's commands as processes: forks of a process that has imported the libraries, so a start takes a moment.

:func:`start` is ``subprocess.Popen`` of ``python -m layercache ARGUMENTS`` without its imports, which take five seconds
of a core with torch; :func:`run` is ``subprocess.run`` of it. What Python and libraries read as they start, such as
``PYTHONPATH`` and ``OMP_NUM_THREADS``, is that of this process. :func:`start_anew` starts a command as users do.
"""

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

#: The server may take this long to import: the machine may be busy.
_START_DEADLINE_S = 120.0
_ROOT = Path(__file__).resolve().parents[1]


class Process(Protocol):
    """What of ``subprocess.Popen`` tests use."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, number: int, /) -> None: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


class Command:
    """A command that runs as a fork: a :class:`Process`."""

    def __init__(self, arguments: list[str], connection: socket.socket) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self._connection = connection
        self._lines = connection.makefile("r")
        self._reading = threading.Lock()
        self._await_line(_START_DEADLINE_S)
        self.pid = int(self._read_line())

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended; raises ``subprocess.TimeoutExpired``. Several threads may wait at once."""
        if self.returncode is None:
            self._await_line(timeout)
            with self._reading:
                if self.returncode is None:
                    self.returncode = int(self._read_line())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Does nothing if the command has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _await_line(self, timeout: float | None) -> None:
        # The server writes whole lines, one at a start and one at an end, and then closes: none is ever half there.
        if not select.select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)

    def _read_line(self) -> str:
        line = self._lines.readline()
        assert line, "the server of forks has ended; its standard error says why"
        return line


def start(
    *arguments: object,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    environment: Mapping[str, str] | None = None,
    doubles: str = "",
) -> Command:
    """`layercache ARGUMENTS`, its output where this process's own goes or in the given files.

    ``environment`` comes on top of this process's. ``doubles`` is a module whose ``install`` was called in the process
    before anything of ours was imported.
    """
    words = [str(argument) for argument in arguments]
    ours, theirs = socket.socketpair()
    request = {
        "arguments": words,
        "folder": os.getcwd(),
        "environment": {**os.environ, **(environment or {})},
    }
    with theirs, open(os.devnull, "rb") as nothing:
        streams = [nothing.fileno(), _handle(stdout, 1), _handle(stderr, 2)]
        ours.sendall(json.dumps(request).encode() + b"\n")
        control = _server(doubles)
        with _FORKING:
            socket.send_fds(control, [b"+"], [theirs.fileno(), *streams])
    return Command(words, ours)


def run(
    *arguments: object, environment: Mapping[str, str] | None = None, timeout: float = 120.0
) -> "subprocess.CompletedProcess[str]":
    """`layercache ARGUMENTS` to its end, its exit code and its output."""
    with CapturedCommand(*arguments, environment=environment) as command:
        return command.end(timeout)


def start_anew(*arguments: object, output: IO[bytes]) -> Process:
    """`layercache ARGUMENTS` as users start it, by a Python of its own: for who measures what it takes."""
    command = [sys.executable, "-X", "faulthandler", "-m", "layercache", *map(str, arguments)]
    return subprocess.Popen(command, stdout=output, stderr=output)


class CapturedCommand:
    """`layercache ARGUMENTS` with its output captured; killed at the end of the ``with`` block if it still runs."""

    def __init__(self, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        with contextlib.ExitStack() as undo:
            self._out = undo.enter_context(tempfile.TemporaryFile())
            self._err = undo.enter_context(tempfile.TemporaryFile())
            self.process = start(*arguments, stdout=self._out, stderr=self._err, environment=environment)
            undo.callback(self._end)
            self._close = undo.pop_all()

    def __enter__(self) -> "CapturedCommand":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        self._close.close()

    def end(self, timeout: float) -> "subprocess.CompletedProcess[str]":
        """Waits for its end; fails with its output if it does not end."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.process.args} does not end:\n{self.output()}") from None
        return subprocess.CompletedProcess(self.process.args, self.process.wait(), *self.output())

    def output(self) -> tuple[str, str]:
        """Its standard output and error so far."""
        return _text(self._out), _text(self._err)

    def _end(self) -> None:
        self.process.kill()
        self.process.wait(30)


_FORKING = threading.Lock()


@functools.cache
def _server(doubles: str) -> socket.socket:
    """The socket that takes requests for forks; the server ends with this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.forkserver", str(theirs.fileno()), *filter(None, [doubles])],
            cwd=_ROOT,  # where this package is; a test may be elsewhere when it asks first
            stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's starts its threads when it is imported
        )  # fmt: skip

    def end() -> None:
        ours.close()
        process.wait(30)

    atexit.register(end)
    return ours


def _handle(stream: IO[bytes] | int | None, own: int) -> int:
    if stream is None:
        return own
    return stream if isinstance(stream, int) else stream.fileno()


def _text(file: IO[bytes]) -> str:
    # pread leaves the file's position alone, which the process shares and writes at.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode()
