"""A process that has imported what commands need, and becomes each command that it is asked for, by forking.

``python -m testbed.forkserver FD [DOUBLES]``; what asks, and how, is in :mod:`testbed.commands`. ``DOUBLES`` is a
module whose ``install`` is called before anything of ours is imported, which takes the classes of Kafka's clients by
their names. A fork runs its command as ``python -m layercache`` would, waits for its threads, calls what ``atexit``
has, and ends there: the interpreter's own end, which frees object by object, would take a second and copy most of
torch's memory.
"""

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
from typing import NamedTuple

#: What workers, trainers and the commands around them import. None of these may start a thread: forks have none.
_IMPORTED = (
    "layercache.cli.main",
    "layercache.stream.worker.service",
    "layercache.cache_training.service.app",
    # What they import when they first need it.
    "PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PngImagePlugin", "PIL.PpmImagePlugin",
    "faust.app.router", "faust.tables.manager", "faust.topics", "faust.transport.drivers.aiokafka",
    "faust.web.drivers.aiohttp", "faust.worker", "fsspec.implementations.local", "multiprocessing.synchronize",
    "scipy.stats",
)  # fmt: skip


class _Asked(NamedTuple):
    """`layercache` with these arguments, in this folder and environment."""

    arguments: list[str]
    folder: str
    environment: dict[str, str]


def _serve(control: socket.socket) -> _Asked | None:
    """Forks until no process can ask any more, and then ends what still runs: None. In a fork: what it is to be."""
    running: dict[int, socket.socket] = {}
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # so that it reaches the wake-up's socket
    signal.set_wakeup_fd(wakes.fileno())
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_ends(running)
        if control not in ready:
            continue
        asked, handles, _, _ = socket.recv_fds(control, 1, 4)
        if not asked:
            break
        asker = socket.socket(fileno=handles[0])
        threads = len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1
        assert threads == 1, f"an import of {_IMPORTED} started a thread, which forks would lack"
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for inherited in (control, woken, wakes, *running.values()):
                inherited.close()
            return _become(asker, handles[1:])
        for handle in handles[1:]:
            os.close(handle)
        running[pid] = asker
        asker.sendall(f"{pid}\n".encode())
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    return None


def _tell_ends(running: dict[int, socket.socket]) -> None:
    """Tells who asked for them the exit codes of processes that have ended; negative for a signal."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as asker, contextlib.suppress(OSError):  # who asked may be gone
            asker.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(asker: socket.socket, streams: list[int]) -> _Asked:
    """Makes this fork a process as Python starts one."""
    with asker, asker.makefile("r") as lines:
        asked = _Asked(**json.loads(lines.readline()))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    os.chdir(asked.folder)
    os.environ.clear()
    os.environ.update(asked.environment)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return asked


def _run(asked: _Asked) -> int:
    """Runs the command to its end; the exit code."""
    import numpy as np

    np.random.seed()  # otherwise all forks would draw the same numbers
    sys.argv = ["layercache", *asked.arguments]
    try:
        try:
            runpy.run_module("layercache", run_name="__main__", alter_sys=True)
        finally:
            threading._shutdown()  # type: ignore[attr-defined]  # what multiprocessing calls there, too
            atexit._run_exitfuncs()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the process that asks; forks take it again
    faulthandler.enable(2)
    for _name in sys.argv[2:]:
        importlib.import_module(_name).install()
    for _name in _IMPORTED:
        importlib.import_module(_name)
    gc.freeze()  # so that no fork's collector copies these pages
    _code = 0
    try:
        if _found := _serve(socket.socket(fileno=int(sys.argv[1]))):
            _code = 1
            _code = _run(_found)
            sys.stdout.flush()
            sys.stderr.flush()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        _code = 1
    finally:
        os._exit(_code)
