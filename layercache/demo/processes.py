"""The demo's child processes: started in groups of their own, watched, and never left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

_CHILD = Path(__file__).with_name("child.py")
_TAIL_LINES = 20


class ChildDied(RuntimeError):
    """A process of the demo ended that should not have; the message holds the end of its log."""


def launcher() -> list[str]:
    """What to put before a command, its program named by its full path, so that it dies with this process."""
    return [sys.executable, "-IS", str(_CHILD), str(os.getpid())]


class Child:
    """One process and its log file.

    It leads a session of its own, so a Ctrl-C in the terminal reaches the demo alone, which then stops its children in
    order; and it dies with the demo (see :mod:`layercache.demo.child`). Start it from the main thread: Linux ties its
    life to the thread that started it.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*launcher(), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, also that of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._process.poll()

    def tail(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def check(self, may_end: bool = False) -> None:
        """Raises :class:`ChildDied` where it failed, or ended at all unless it ``may_end``."""
        code = self.exit_code
        if code is None or (may_end and code == 0):
            return
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise ChildDied(f"the {self.name} {how}; the end of its log, {self.log}:\n{self.tail()}")

    def stop(self, patience_s: float) -> int:
        """Asks it to end, kills its whole group after ``patience_s`` or when interrupted; its exit code."""
        if self.exit_code is None:
            self._signal_group(signal.SIGTERM)
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                pass
            finally:
                self._signal_group(signal.SIGKILL)
        self._signal_group(signal.SIGKILL)  # what it may have started itself
        return self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS says the latter for a group of zombies
            return


class Children:
    """The demo's processes together; leaving the context stops all, last started first."""

    def __init__(self, folder: Path, environment: Mapping[str, str], patience_s: float = 20.0) -> None:
        self._folder = folder
        self._environment = environment
        self._patience_s = patience_s
        self._children: list[Child] = []
        self.stopping = False
        """Whether those that end now were told to."""

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str]) -> Child:
        """Starts ``command`` with its output in ``<folder>/<name>.log``."""
        child = Child(name, command, self._folder / f"{name}.log", self._environment)
        self._children.append(child)
        return child

    def stop(self) -> None:
        """Stops all; a second interrupt meanwhile kills what is left at once."""
        self.stopping = True
        try:
            while self._children:
                self._children[-1].stop(self._patience_s)
                self._children.pop()
        finally:
            for child in self._children:
                child.stop(0.0)
            self._children.clear()
