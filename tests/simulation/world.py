"""Simulated time, and processes whose threads are greenlets: everything happens in an order that one seed decides."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

Call = Callable[[], Any]


class World:
    """The clock and the queue of what happens next.

    Events of the same instant happen in the order in which they were asked for; whoever wants another order adds a
    random delay. ``trace`` gets one line for each thing worth telling, where there is one.
    """

    def __init__(self, seed: int | str, trace: Callable[[str], None] | None = None) -> None:
        self.random = random.Random(seed)
        self.uniform = self.random.uniform
        self.now = 0.0
        self.steps = 0
        self.producer_ids = 0
        self.current: Task | None = None
        self._events: list[tuple[float, int, Process | None, Call]] = []
        self._count = 0
        self._trace = trace
        self._hub = getcurrent()

    def tell(self, *words: object) -> None:
        """Adds a line to the trace."""
        if self._trace is not None:
            self._trace(f"{self.now:9.4f}  {' '.join(map(str, words))}")

    @property
    def is_told(self) -> bool:
        """True where somebody reads the trace, so that a costly line is worth composing."""
        return self._trace is not None

    def later(self, delay_s: float, call: Call, process: Process | None = None) -> None:
        """Does ``call`` after ``delay_s``. What belongs to a ``process`` waits while it is frozen, and dies with it."""
        self._count += 1
        heapq.heappush(self._events, (self.now + delay_s, self._count, process, call))

    def run(self, until_s: float, done: Callable[[], bool] | None = None) -> bool:
        """Lets things happen until the clock stands at ``until_s``, or ``done`` says so (then True)."""
        events = self._events
        while events and events[0][0] <= until_s:
            self.now, _, process, call = heapq.heappop(events)
            if process is None:
                call()
            elif not process.alive:
                continue
            elif process.frozen:
                process.backlog.append(call)
                continue
            else:
                call()
            self.steps += 1
            if done is not None and done():
                return True
        self.now = until_s
        return False

    def switch_to(self, task: Task, value: object = None) -> None:
        """Runs ``task`` until it waits for something; called by events only."""
        before, self.current = self.current, task
        try:
            task.thread.switch(value)
        finally:
            self.current = before

    @property
    def hub(self) -> greenlet:
        """Where events run; tasks go back to it when they wait."""
        return self._hub


class Process:
    """One operating-system process: it may be frozen (SIGSTOP), thawed, and killed, at any moment at which it waits."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        self.frozen = False
        self.backlog: list[Call] = []
        self.tasks: list[Task] = []
        #: called when the broker begins, and ceases, to hear nothing from this process
        self.on_silence: list[Callable[[bool], None]] = []
        self._cuts = 0

    @property
    def silent(self) -> bool:
        """True where the broker hears nothing from it."""
        return self.frozen or not self.alive or self._cuts > 0

    def later(self, delay_s: float, call: Call) -> None:
        """As :meth:`World.later`, for this process."""
        self.world.later(delay_s, call, self)

    def spawn(self, call: Call) -> Task:
        """Starts a thread."""
        task = Task(self, call)
        self.tasks.append(task)
        self.later(0.0, task.start)
        return task

    def kill(self) -> None:
        """SIGKILL: nothing of it runs any more, except what its calls have sent already."""
        if not self.alive:
            return
        self.world.tell(self.name, "KILLED")
        self.alive, self.frozen = False, False
        self.backlog.clear()
        self._hush()
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.discard()

    def freeze(self) -> None:
        """SIGSTOP."""
        if self.alive and not self.frozen:
            self.world.tell(self.name, "FROZEN")
            self.frozen = True
            self._hush()

    def thaw(self) -> None:
        """SIGCONT: what should have happened meanwhile happens now, in any order."""
        if not self.frozen:
            return
        self.world.tell(self.name, "THAWED")
        self.frozen = False
        backlog, self.backlog = self.backlog, []
        for call in backlog:
            self.later(self.world.uniform(0.0, 0.01), call)
        self._hush()

    def cut(self) -> None:
        """Its network is gone."""
        self._cuts += 1
        self._hush()

    def mend(self) -> None:
        """Its network is back."""
        self._cuts = max(0, self._cuts - 1)
        self._hush()

    def _hush(self) -> None:
        for tell in self.on_silence:
            tell(self.silent)


class Task:
    """A thread. Its fakes call :meth:`wait`; whoever has news for it calls :meth:`wake`."""

    def __init__(self, process: Process, call: Call) -> None:
        self.process = process
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.waiters: list[Task] = []
        self._call = call
        self._token = 0
        self._waiting = False
        self.thread = greenlet(self._run, process.world.hub)

    def start(self) -> None:
        """First step; an event."""
        self.process.world.switch_to(self)

    def wait(self, timeout_s: float) -> bool:
        """Gives control away until woken (True) or until the time has passed (False)."""
        process = self.process
        if not process.alive:
            raise GreenletExit
        self._token += 1
        self._waiting = True
        process.later(max(0.0, timeout_s), partial(self._resume, self._token, False))
        woken: bool = process.world.hub.switch()
        if not process.alive:
            raise GreenletExit
        return woken

    def wake(self, delay_s: float = 0.0) -> None:
        """News: the thread goes on as soon as the processor gets to it."""
        if self._waiting:
            self.process.later(delay_s, partial(self._resume, self._token, True))

    def join(self, timeout_s: float) -> bool:
        """Waits for this thread, in another one; True once it has ended."""
        current = self.process.world.current
        assert current is not None
        if not self.done:
            self.waiters.append(current)
            current.wait(timeout_s)
        return self.done

    def discard(self) -> None:
        """The process is dead: its frames of Python are unwound now, and every fake that they call refuses at once."""
        if self.thread and not self.thread.dead:
            self._waiting = False
            before = self.process.world.current
            self.thread.parent = getcurrent()
            if self.thread is not getcurrent():
                self.thread.throw(GreenletExit)
            self.process.world.current = before

    def _resume(self, token: int, woken: bool) -> None:
        if self._waiting and token == self._token:
            self._waiting = False
            self.process.world.switch_to(self, woken)

    def _run(self, _: object = None) -> None:
        try:
            self.result = self._call()
        except GreenletExit:
            return
        except BaseException as error:
            self.error = error
        self.done = True
        for waiter in self.waiters:
            waiter.wake()
