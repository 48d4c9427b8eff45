"""How a client's blocking calls wait: they give control to the simulation, which may end the process just there."""

from __future__ import annotations

from collections.abc import Callable

from greenlet import GreenletExit

from tests.simulation.world import Process, Task

#: By how much an idle wait may last longer than was asked: fewer turns of idle loops make a schedule cheap.
OVERSLEEP_S = 0.8

#: Calls take no time by themselves; who makes so many in a row without waiting for anything has used up some.
_IN_A_ROW, _TURN_S = 30, 0.002


class ThreadCalls:
    """For one process. ``hooks`` maps a call's name to what happens when it is entered next: a kill, say."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.hooks: dict[str, Callable[[], None]] = {}
        #: with which probability a call stops for a moment where it begins
        self.yield_rate = 0.0
        #: with which probability a call fails that may
        self.fail_rate = 0.0
        self._blocked: dict[Task, None] = {}
        self._in_a_row = 0

    def enter(self, name: str) -> None:
        """A call begins; here the process may be stopped, or killed."""
        process = self.process
        if not process.alive:
            raise GreenletExit
        if process.world.is_told and name not in ("consume", "poll"):
            process.world.tell(process.name, "calls", name)
        self._in_a_row += 1
        if self.hooks and (hook := self.hooks.pop(name, None)):
            hook()
            self._current().wait(0.0)
        elif self._in_a_row >= _IN_A_ROW:
            self._in_a_row = 0
            self._current().wait(_TURN_S)
        elif self.yield_rate and process.world.random.random() < self.yield_rate:
            self._current().wait(process.world.uniform(0.0, 0.02))

    def fails(self, name: str) -> bool:
        """Whether this call fails, without any reason."""
        return bool(self.fail_rate) and self.process.world.random.random() < self.fail_rate

    def block(self, timeout_s: float, idle: bool = False) -> bool:
        """Waits for news; an ``idle`` wait may last longer than was asked, as on a busy machine."""
        task = self._current()
        self._in_a_row = 0
        self._blocked[task] = None
        try:
            return task.wait(timeout_s + self.process.world.uniform(0.0, OVERSLEEP_S) if idle else timeout_s)
        finally:
            self._blocked.pop(task, None)

    def waker(self) -> Callable[[], None]:
        """Wakes the calling thread."""
        return self._current().wake

    def wake_all(self) -> None:
        """News for all threads that block in the client."""
        for task in list(self._blocked):
            task.wake()

    def _current(self) -> Task:
        task = self.process.world.current
        if task is None or not self.process.alive:
            raise GreenletExit
        return task
