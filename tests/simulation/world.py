"""Simulated time, and processes whose threads are greenlets: everything happens in an order that one seed decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
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
        #: True where somebody reads the trace, so that a costly line is worth composing
        self.is_told = trace is not None
        #: where events run; tasks go back to it when they wait
        self.hub = getcurrent()

    def tell(self, *words: object) -> None:
        """Adds a line to the trace."""
        if self._trace is not None:
            self._trace(f"{self.now:9.4f}  {' '.join(map(str, words))}")

    def later(self, delay_s: float, call: Call, process: Process | None = None) -> None:
        """Does ``call`` after ``delay_s``. What belongs to a ``process`` waits while it is frozen, and dies with it."""
        self._count += 1
        heappush(self._events, (self.now + delay_s, self._count, process, call))

    def run(self, until_s: float, done: Callable[[], bool] | None = None) -> bool:
        """Lets things happen until the clock stands at ``until_s``, or ``done`` says so (then True)."""
        events = self._events
        while events and events[0][0] <= until_s:
            self.now, _, process, call = heappop(events)
            if process is not None:
                if not process.alive:
                    continue
                if process.frozen:
                    process.backlog.append(call)
                    continue
            call()
            self.steps += 1
            if done is not None and done():
                return True
        self.now = until_s
        return False

    def switch_to(self, thread: greenlet, task: Task, value: object) -> None:
        """Runs ``task`` until it waits for something; called by events only."""
        before, self.current = self.current, task
        try:
            thread.switch(value)
        finally:
            self.current = before


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
        self.discard_tasks()

    def discard_tasks(self) -> None:
        """Ends its threads, once it is dead: whatever one of them that waits still holds could never be freed."""
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
        self._thread: greenlet | None = None  # while it runs

    def start(self) -> None:
        """First step; an event."""
        world = self.process.world
        self._thread = thread = _idle_threads.pop() if _idle_threads else greenlet(_run_tasks)
        thread.parent = world.hub
        world.switch_to(thread, self, self)

    def wait(self, timeout_s: float) -> bool:
        """Gives control away until woken (True) or until the time has passed (False)."""
        process = self.process
        if not process.alive:
            raise GreenletExit
        self._token += 1
        self._waiting = True
        world = process.world
        world.later(timeout_s if timeout_s > 0.0 else 0.0, partial(self._resume, self._token, False), process)
        woken: bool = world.hub.switch()
        if not process.alive:
            raise GreenletExit
        return woken

    def wake(self, delay_s: float = 0.0) -> None:
        """News: the thread goes on as soon as the processor gets to it."""
        if self._waiting:
            process = self.process
            process.world.later(delay_s, partial(self._resume, self._token, True), process)

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
        thread, here = self._thread, getcurrent()
        if thread is not None and thread is not here:
            self._waiting = False
            before = self.process.world.current
            thread.parent = here
            thread.throw(GreenletExit)
            self.process.world.current = before

    def run(self) -> None:
        """What its thread does."""
        try:
            self.result = self._call()
        except GreenletExit:
            return
        except BaseException as error:
            self.error = error
        finally:
            self._thread = None
        self.done = True
        for waiter in self.waiters:
            waiter.wake()

    def _resume(self, token: int, woken: bool) -> None:
        if self._waiting and token == self._token:
            assert self._thread is not None
            self._waiting = False
            self.process.world.switch_to(self._thread, self, woken)


#: Threads whose tasks have ended. They are used again, by later simulations too: to a new one Python gives a stack of
#: its own from the operating system, which costs more than most tasks do.
_idle_threads: list[greenlet] = []


def _run_tasks(task: Task) -> None:
    """Does one task after another; between them the thread is idle, and holds nothing of a simulation."""
    thread = getcurrent()
    while True:
        task.run()
        del task
        _idle_threads.append(thread)
        assert thread.parent is not None
        task = thread.parent.switch()
