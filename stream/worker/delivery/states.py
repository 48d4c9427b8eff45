"""What delivery decides: its states, what may happen in each, and what is then done. No calls, no time, no Kafka.

One table for both kinds of delivery: "handing in" is sending the offsets into the transaction, or flushing the records;
"committing" is ending the transaction, or committing the offsets. :mod:`layercache.stream.worker.delivery.delivery`
carries out the effects and reports what came of each as the next event.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final


class State(Enum):
    """Where a delivery stands.

    One that an exception left in the midst of something can still be closed.
    """

    VACANT = auto()
    """No producer that may be used."""
    PENDING = auto()
    """A producer whose registration has not come through yet. Left behind it could be registered late, and fence its
    successor; so it is tried again."""
    READY = auto()
    """A producer, and nothing that was handed to it since the last commit."""
    BEGINNING = auto()
    OPEN = auto()
    """Records and offsets that belong together."""
    HANDING_IN = auto()
    COMMITTING = auto()
    ABORTING = auto()
    CLOSING = auto()
    CLOSED = auto()


class Event(Enum):
    """What the worker asks for, and what came of an effect."""

    NEED = auto()
    """A producer that works is needed."""
    BEGIN = auto()
    """The first record or offset since the last commit comes."""
    COMMIT = auto()
    ABORT = auto()
    CLOSE = auto()

    DONE = auto()
    """The call succeeded, and every request of the transaction was answered."""
    UNCLEAN = auto()
    """The call succeeded, but a copy of some request may still be under way
    (:mod:`layercache.stream.worker.delivery.request_watch`)."""
    FAILED = auto()
    """An error that leaves the producer usable."""
    UNDELIVERED = auto()
    """Aborted, but some record was never delivered, so that sequence numbers may repeat."""
    BROKEN = auto()
    """A fatal error, or a call that did not come back."""


class Effect(Enum):
    """What is to be done, in this order."""

    MAKE = auto()
    """Make a producer."""
    REGISTER = auto()
    """Register it for transactions: its epoch is higher than its predecessor's, whose open transaction is aborted."""
    BEGIN = auto()
    HAND_IN = auto()
    COMMIT = auto()
    ABORT = auto()
    FORGET = auto()
    """The offsets since the last commit are no longer to be committed."""
    RETIRE = auto()
    """Never use this producer again; all is well otherwise."""
    LEAVE = auto()
    """Never use this producer again, since it cannot go on. Ends the worker where another one makes no sense."""
    LOSE = auto()
    """Tell the worker that nothing since the last commit was delivered: it must read those frames again."""


class Refused(RuntimeError):
    """An event that must not happen in this state: an error of the caller's."""


_S, _E, _F = State, Event, Effect

Step = tuple[State, tuple[Effect, ...]]

#: State -> event -> the state that follows, and what is done. Whatever is not here must not happen.
TABLE: Final[Mapping[State, Mapping[Event, Step]]] = {
    _S.VACANT: {
        _E.NEED: (_S.PENDING, (_F.MAKE, _F.REGISTER)),
        _E.COMMIT: (_S.VACANT, ()),
        _E.ABORT: (_S.VACANT, ()),
        _E.CLOSE: (_S.CLOSED, ()),
    },
    _S.PENDING: {
        _E.NEED: (_S.PENDING, (_F.REGISTER,)),
        _E.DONE: (_S.READY, ()),
        _E.FAILED: (_S.PENDING, (_F.LOSE,)),
        _E.BROKEN: (_S.VACANT, (_F.RETIRE, _F.LOSE)),
        _E.COMMIT: (_S.PENDING, ()),
        _E.ABORT: (_S.PENDING, ()),
        _E.CLOSE: (_S.CLOSED, (_F.RETIRE,)),
    },
    _S.READY: {
        _E.NEED: (_S.READY, ()),
        _E.BEGIN: (_S.BEGINNING, (_F.BEGIN,)),
        _E.COMMIT: (_S.READY, ()),
        _E.ABORT: (_S.READY, ()),
        _E.CLOSE: (_S.CLOSED, ()),
        _E.BROKEN: (_S.VACANT, (_F.LEAVE, _F.LOSE)),
    },
    _S.BEGINNING: {
        _E.DONE: (_S.OPEN, ()),
        _E.BROKEN: (_S.VACANT, (_F.LEAVE, _F.LOSE)),
        _E.CLOSE: (_S.CLOSED, (_F.RETIRE,)),
    },
    _S.OPEN: {
        _E.NEED: (_S.OPEN, ()),
        _E.BEGIN: (_S.OPEN, ()),
        _E.COMMIT: (_S.HANDING_IN, (_F.HAND_IN,)),
        _E.ABORT: (_S.ABORTING, (_F.FORGET, _F.ABORT)),
        _E.FAILED: (_S.ABORTING, (_F.FORGET, _F.ABORT, _F.LOSE)),
        _E.BROKEN: (_S.VACANT, (_F.FORGET, _F.LEAVE, _F.LOSE)),
        _E.CLOSE: (_S.CLOSING, (_F.FORGET, _F.ABORT)),
    },
    _S.HANDING_IN: {
        _E.DONE: (_S.COMMITTING, (_F.COMMIT,)),
        _E.FAILED: (_S.ABORTING, (_F.FORGET, _F.ABORT, _F.LOSE)),
        _E.BROKEN: (_S.VACANT, (_F.FORGET, _F.LEAVE, _F.LOSE)),
        _E.CLOSE: (_S.CLOSING, (_F.FORGET, _F.ABORT)),
    },
    _S.COMMITTING: {
        _E.DONE: (_S.READY, (_F.FORGET,)),
        _E.UNCLEAN: (_S.VACANT, (_F.FORGET, _F.RETIRE)),
        _E.FAILED: (_S.ABORTING, (_F.FORGET, _F.ABORT, _F.LOSE)),
        _E.BROKEN: (_S.VACANT, (_F.FORGET, _F.LEAVE, _F.LOSE)),
        _E.CLOSE: (_S.CLOSING, (_F.FORGET, _F.ABORT)),
    },
    _S.ABORTING: {
        _E.DONE: (_S.READY, ()),
        _E.UNCLEAN: (_S.VACANT, (_F.RETIRE,)),
        _E.UNDELIVERED: (_S.VACANT, (_F.RETIRE,)),
        _E.FAILED: (_S.VACANT, (_F.LEAVE,)),
        _E.BROKEN: (_S.VACANT, (_F.LEAVE,)),
        _E.CLOSE: (_S.CLOSED, (_F.RETIRE,)),
    },
    _S.CLOSING: {
        _E.DONE: (_S.CLOSED, ()),
        _E.CLOSE: (_S.CLOSED, ()),
        _E.UNCLEAN: (_S.CLOSED, ()),
        _E.UNDELIVERED: (_S.CLOSED, ()),
        _E.FAILED: (_S.CLOSED, (_F.LEAVE,)),
        _E.BROKEN: (_S.CLOSED, (_F.LEAVE,)),
    },
    _S.CLOSED: {
        _E.COMMIT: (_S.CLOSED, ()),
        _E.ABORT: (_S.CLOSED, ()),
        _E.CLOSE: (_S.CLOSED, ()),
    },
}


class DeliveryStates:
    """One delivery's place in :data:`TABLE`.

    >>> states = DeliveryStates()
    >>> states.on(Event.NEED)
    (<Effect.MAKE: 1>, <Effect.REGISTER: 2>)
    >>> states.on(Event.DONE), states.state
    ((), <State.READY: 3>)
    """

    def __init__(self) -> None:
        self.state = State.VACANT

    def on(self, event: Event) -> tuple[Effect, ...]:
        """Takes in ``event`` and returns what is to be done. Raises :class:`Refused`."""
        try:
            self.state, effects = TABLE[self.state][event]
        except KeyError:
            raise Refused(f"{event.name} must not happen while a delivery is {self.state.name}") from None
        return effects
