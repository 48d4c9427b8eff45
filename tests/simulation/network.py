"""Connections between clients and the broker: requests are delayed, held up, lost, and their replies too.

A connection keeps its requests in order. One that breaks tells its client ``_TRANSPORT`` for everything that is under
way, while what was sent already may still arrive, late: on the client's next connection later requests overtake it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaError

from tests.simulation.world import Process, World

TRANSPORT, TIMED_OUT = KafkaError._TRANSPORT, KafkaError._TIMED_OUT

#: Of a reply: an error's code (0 is none), and what it brings.
Reply = Callable[[int, Any], None]

#: Typical time on the way, each direction.
_HOP_S = (0.0005, 0.004)


class Network:
    """Makes connections, and knows which faults are to befall which requests."""

    def __init__(self, world: World, socket_timeout_s: float) -> None:
        self.world = world
        self.socket_timeout_s = socket_timeout_s
        #: kind of request ("*" is any) -> faults that befall the next ones
        self.armed: dict[str, list[str]] = {}
        #: with which probability a request that nothing is armed for meets a fault
        self.fault_rate = 0.0
        self.faults = 0
        self.connections: dict[Process, list[Connection]] = {}

    def arm(self, kind: str, fault: str) -> None:
        """The next request of that ``kind`` meets the ``fault``: late, lost, reply_lost or slow."""
        self.armed.setdefault(kind, []).append(fault)

    def heal(self) -> None:
        """From now on nothing befalls a new request."""
        self.armed.clear()
        self.fault_rate = 0.0

    def fault_for(self, kind: str) -> str | None:
        """What befalls this request; mostly nothing."""
        if self.armed:
            for name in (kind, "*"):
                if faults := self.armed.get(name):
                    fault = faults.pop()
                    if not faults:
                        del self.armed[name]
                    return fault
        if self.fault_rate and self.world.random.random() < self.fault_rate:
            return self.world.random.choice(("late", "lost", "reply_lost", "slow"))
        return None


class Request:
    """One that is under way; its client hears of it exactly once."""

    __slots__ = ("answered", "connection", "kind", "on_reply")

    def __init__(self, connection: Connection, kind: str, on_reply: Reply) -> None:
        self.connection = connection
        self.kind = kind
        self.on_reply = on_reply
        self.answered = False

    def answer(self, error: int, value: Any) -> None:
        """In the client's process."""
        if not self.answered:
            self.answered = True
            self.connection.pending.pop(self, None)
            self.on_reply(error, value)


class Connection:
    """A client's way to one broker. When it breaks it is replaced at once; :attr:`pending` are unanswered requests."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._world = network.world
        self._process = process
        self._arrival_s = 0.0  # of the last request
        self._reply_s = 0.0
        self.pending: dict[Request, None] = {}
        network.connections.setdefault(process, []).append(self)

    def send(self, kind: str, call: Callable[[Reply], None], on_reply: Reply) -> None:
        """Sends a request; ``call`` is what the broker does, ``on_reply`` what the client does with the answer."""
        world, network = self._world, self._network
        request = Request(self, kind, on_reply)
        self.pending[request] = None
        arrival = max(self._arrival_s, world.now + world.uniform(*_HOP_S))
        fault = network.fault_for(kind) if network.armed or network.fault_rate else None
        replies = True
        if self._process.silent:
            fault = fault or "lost"
        if fault is not None:
            network.faults += 1
            timeout = network.socket_timeout_s
            if fault == "slow":
                arrival += world.uniform(0.05, 0.8 * timeout)
            else:
                # A reset is told at once, silence only by the time-out.
                told_s = world.random.choice((world.uniform(0.005, 0.1), timeout))
                if fault == "late":
                    arrival = max(arrival, world.now + told_s) + world.random.choice((0.05, 0.2, 0.8, 3.0)) * (
                        0.5 + world.random.random()
                    )
                replies = False
                self._process.later(told_s, partial(self._break, TIMED_OUT if told_s == timeout else TRANSPORT))
            world.tell(
                self._process.name, kind, f"is {fault}" + (f", arrives {arrival:.4f}" if fault == "late" else "")
            )
        self._arrival_s = arrival
        if fault != "lost":
            world.later(arrival - world.now, partial(self._arrive, request, call, replies))

    def reset(self) -> None:
        """Breaks it: everything under way fails for the client; what was sent arrives nevertheless."""
        self._break(TRANSPORT)

    def _break(self, error: int) -> None:
        self._arrival_s = self._reply_s = 0.0
        pending, self.pending = list(self.pending), {}
        for request in pending:
            request.answer(error, None)

    def _arrive(self, request: Request, call: Callable[[Reply], None], replies: bool) -> None:
        call(partial(self._reply, request) if replies and not request.answered else _nobody)

    def _reply(self, request: Request, error: int, value: Any) -> None:
        if request.answered:
            return
        world = self._world
        at_s = max(self._reply_s, world.now + world.uniform(*_HOP_S))
        self._reply_s = at_s
        self._process.later(at_s - world.now, partial(request.answer, error, value))


def _nobody(error: int, value: Any) -> None:
    """A reply that gets lost."""
